"""What belongs to one patient: told by the manifest or by a set's file names, split whole, drawn together, reported apart."""

import json
import re

import numpy as np
import pytest
from refsam3d_training.evaluation.calibrate import _unusual_outlines
from refsam3d_training.evaluation.compare import paired_rows
from refsam3d_training.evaluation.measures import bootstrap_interval, described
from refsam3d_training.evaluation.summary import by_patient, by_structure, composites, prompt_use
from refsam3d_training.manifest import Manifest, patient_of
from refsam3d_training.prepare import prepare, split_by_patient
from refsam3d_training.readers import read_slicer
from scipy.stats import t


def write(path, array=None):
    """A small image."""
    import SimpleITK as sitk

    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(sitk.GetImageFromArray(np.arange(64, dtype=np.int16).reshape(4, 4, 4) if array is None else array), str(path))
    return str(path)


def test_the_decathlons_hippocampi_of_one_scan_are_one_patient():
    assert patient_of("Task04_Hippocampus", "hippocampus_003") == patient_of("msd_hippocampus", "hippocampus_004") == "scan 2"
    assert patient_of("msd_hippocampus", "hippocampus_005") == "scan 3"
    assert patient_of("another set", "hippocampus_003") == ""


def test_prepare_keeps_both_hippocampi_of_a_scan_in_one_list(tmp_path):
    folder = tmp_path / "Task04_Hippocampus"
    pairs = [{"image": f"imagesTr/hippocampus_{n:03}.nii.gz", "label": f"labelsTr/hippocampus_{n:03}.nii.gz"} for n in range(1, 41)]
    for n, pair in enumerate(pairs):
        write(folder / pair["image"], np.full((4, 4, 4), n, np.int16))
        write(folder / pair["label"], np.eye(4, dtype=np.uint8)[None].repeat(4, 0))
    values = {"name": "Hippocampus", "modality": {"0": "MRI"}, "labels": {"0": "background", "1": "hippocampus"}, "training": pairs}
    (folder / "dataset.json").write_text(json.dumps(values))
    manifest, faults = prepare(folder, tmp_path / "out", validation=0.3, test=0.2)
    lists = {split: {c.patient for c in cases} for split, cases in manifest.cases.items()}
    assert all(lists.values())
    assert sum(map(len, lists.values())) == 20
    assert not [f for f in faults if f.kind == "patient"]


def test_two_scans_in_a_patients_folder_are_one_patient(tmp_path):
    from RefSAM3DLib.phantoms import head_and_neck_ct

    volume, _ = head_and_neck_ct(1, (12.0, 12.0, 12.0))
    for patient in ("a", "b"):
        for visit in ("one", "two"):
            write(tmp_path / patient / f"{visit}.nrrd", volume.array)
            (tmp_path / patient / f"{visit}.seg.nrrd").write_bytes(_segmentation(volume.array.shape))
    found = read_slicer(tmp_path)
    assert [e["patient"] for e in found.entries["training"]] == ["a", "a", "b", "b"]


@pytest.mark.parametrize("layout", ["{p}/visit{v}/ct", "{p}/CT/ct{v}", "data/{p}_{v}", "data/{p}/visit{v}/ct", "data/{p}/ct{v}"])
def test_no_patient_of_a_slicer_folder_is_in_two_lists(tmp_path, layout):
    for p in range(20):
        for v in range(2):
            path = tmp_path / (layout.format(p=f"P{p:02}", v=v) + ".nrrd")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"")
            path.with_suffix(".seg.nrrd").write_bytes(_segmentation((2, 2, 2)))
    lists = split_by_patient(read_slicer(tmp_path).entries, 0.3, 0.0)
    places = {split: {re.search(r"P[0-9]+", e["image"]).group() for e in entries} for split, entries in lists.items()}
    assert lists["training"]
    assert lists["validation"]
    if "{p}/" in layout:
        assert not places["training"] & places["validation"]


def _segmentation(shape):
    header = f"NRRD0004\ntype: uint8\ndimension: 3\nsizes: {shape[2]} {shape[1]} {shape[0]}\nencoding: raw\nSegment0_Name:=larynx\nSegment0_LabelValue:=1\n\n"
    return header.encode() + bytes(int(np.prod(shape)))


def test_composites_come_along_and_a_damaged_mask_is_a_fault_beside_the_others(tmp_path):
    source = tmp_path / "set"
    values = {
        "name": "set", "modality": "MR", "labels": {"1": "a", "2": "b"}, "composites": {"both": [1, 2]},
        "training": [{"image": write(source / "i.nii.gz"), "label": write(source / "l.nii.gz", np.eye(4, dtype=np.uint8)[None].repeat(4, 0))}],
    }  # fmt: skip
    (source / "datalist.json").write_text(json.dumps(values))
    manifest, _ = prepare(source, tmp_path / "out", validation=0, test=0)
    assert manifest.cases["training"][0].composites == {"both": (1, 2)}
    total = tmp_path / "total"
    for case in ("s1", "s2", "s3"):
        write(total / case / "ct.nii.gz")
        write(total / case / "segmentations" / "liver.nii.gz", np.ones((4, 4, 4), np.uint8))
    (total / "s2" / "segmentations" / "liver.nii.gz").write_bytes(b"no image")
    write(total / "s3" / "segmentations" / "liver.nii.gz", np.ones((4, 4, 5), np.uint8))
    _, faults = prepare(total, tmp_path / "seen", validation=0, test=0)
    assert {f.case for f in faults if f.serious} == {"total/s2", "total/s3"}


def test_few_patients_have_students_interval():
    values = np.array([0.70, 0.74, 0.79, 0.71, 0.80])
    reach = t.ppf(0.975, 4) * values.std(ddof=1) / np.sqrt(5)
    assert bootstrap_interval(values) == pytest.approx((values.mean() - reach, values.mean() + reach))
    patients = [f"p{n // 3}" for n in range(15)]
    assert bootstrap_interval(values.repeat(3), patients) == pytest.approx(bootstrap_interval(values))
    assert bootstrap_interval([0.5]) == (0.5, 0.5)
    assert bootstrap_interval([0.2, 0.9, 0.9])[1] > 1
    assert described([0.2, 0.9, 0.9], share=True)["interval"] == [0.0, 1.0]


def test_scans_of_one_patient_are_no_independent_cases():
    """Fifteen scans of five patients: the interval of a structure, and of a paired difference, is that over patients."""
    rng = np.random.default_rng(0)
    levels = rng.uniform(0.6, 0.9, 5)
    ours, theirs = [], []
    for p in range(5):
        for scan in range(3):
            value = float(levels[p] + rng.normal(0, 0.005))
            record = {"case": f"{p}_{scan}", "grid": "head_neck", "modality": "ct", "patient": f"p{p}"}
            ours.append({**record, "structures": {"larynx": {"dice": value, "volume_ml": 10.0, "truth_ml": 9.0}}})
            theirs.append({**record, "structures": {"larynx": {"dice": 0.7}}})
    values, patients = [r["structures"]["larynx"]["dice"] for r in ours], [r["patient"] for r in ours]
    assert by_structure(ours)["larynx"]["dice"] == described(values, patients, share=True)
    low, high = described(values, patients)["interval"]
    alone = described(values)["interval"]
    assert high - low > 1.5 * (alone[1] - alone[0])
    row = next(r for r in paired_rows(ours, [theirs]) if r["title"] == "larynx")
    assert row["interval"] == described([v - 0.7 for v in values], patients)["interval"]
    for record, value in zip(ours, values, strict=True):
        record["composites"], record["matrix"] = {"both glands": value}, {"left parotid gland": {"right parotid gland": value}}
        record["structures"]["larynx"] |= {"dice_at": {"0.5": value}, "confidence_at": {"0.5": 0.9}}
    assert composites(ours)["both glands"] == described(values, patients)
    assert prompt_use(ours)["side_confusion"]["left parotid gland -> right parotid gland"] == described(values, patients)
    assert _unusual_outlines(ours, "head_neck", 0.5, {"larynx": 0.5})["dice"] == {"usual": described(values, patients)}


def test_cases_whose_patient_was_learnt_from_are_reported_apart():
    def record(n, dice, learnt):
        return {"case": f"c{n}", "grid": "g", "patient": f"p{n}", "patient_in_training": learnt, "structures": {"x": {"dice": dice}}}

    rows = by_patient([record(0, 0.9, True), record(1, 0.5, False), record(2, 0.7, False)], ["g", "other"])
    assert {k: (v["mean"], v["n"]) for k, v in rows["g"].items()} == {"patient_in_training": (0.9, 1), "patient_unseen": (0.6, 2)}
    assert "other" not in rows
    assert by_patient([record(1, 0.5, False)], ["g"]) == {}


def test_a_case_without_any_known_structure_is_left_out_of_training(tiny_data, tmp_path, caplog):
    import shutil

    from refsam3d_training.cases import load_cases

    from RefSAM3DLib.resources import named_config

    folder = shutil.copytree(tiny_data / "phantoms_ct", tmp_path / "phantoms_ct")
    values = json.loads((folder / "datalist.json").read_text())
    values["training"][0]["labelled"] = []
    (folder / "datalist.json").write_text(json.dumps(values))
    assert len(Manifest.read(folder).cases["training"]) == 2
    cases = load_cases(folder, "training", named_config("test_tiny"), "head_neck", tmp_path / "cache")
    assert len(cases) == 1
    assert "left out" in caplog.text
