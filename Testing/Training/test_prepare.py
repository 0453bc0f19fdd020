"""Readers of other layouts, and faults that are all found at once."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from refsam3d_training.__main__ import main
from refsam3d_training.case_checks import Fault, check, faults_table
from refsam3d_training.manifest import Manifest
from refsam3d_training.prepare import prepare, split_by_patient
from refsam3d_training.readers import read_bids, read_nnunet, recognise

from RefSAM3DLib.errors import InputError, OutputError
from RefSAM3DLib.segmentation_io import write_segmentation
from RefSAM3DLib.types import PromptResult, Verdict
from RefSAM3DLib.volume_io import load_volume


def write(path, array, spacing=(2.0, 2.0, 3.0)):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing)
    sitk.WriteImage(image, str(path))


def ct(seed=0):
    return np.random.default_rng(seed).integers(-1000, 1000, (8, 10, 12)).astype(np.int16)


def label(*values):
    array = np.zeros((8, 10, 12), np.uint8)
    for n, v in enumerate(values):
        array[2 + 2 * n, 3:6, 4:8] = v
    return array


def test_decathlon_folder(tmp_path):
    source = tmp_path / "Task99"
    write(source / "imagesTr/a.nii.gz", ct())
    write(source / "labelsTr/a.nii.gz", label(1, 2))
    values = {"name": "x", "modality": {"0": "CT"}, "labels": {"0": "background", "1": "Brain_Stem", "2": "larynx"}, "licence": "CC", "reference": "r"}
    (source / "dataset.json").write_text(json.dumps({**values, "training": [{"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"}]}))
    assert recognise(source) == "decathlon"
    manifest, faults = prepare(source, tmp_path / "out", structures={"Brain_Stem": "brainstem"}, validation=0, test=0)
    assert manifest.labels == {1: "brainstem", 2: "larynx"}
    assert (manifest.values["licence"], manifest.values["citation"], faults) == ("CC", "r", [])
    assert (tmp_path / "out" / "mosaic.png").read_bytes()[:4] == b"\x89PNG"
    assert manifest.cases["training"][0].volume().modality.value == "ct"
    with pytest.raises(OutputError, match="exists already"):
        prepare(source, tmp_path / "out")


def test_nnunet_folder_names_its_labels_the_other_way_round(tmp_path):
    source = tmp_path / "Dataset001"
    write(source / "imagesTr/a_0000.nii.gz", ct())
    write(source / "labelsTr/a.nii.gz", label(1))
    (source / "dataset.json").write_text(json.dumps({"channel_names": {"0": "CT"}, "labels": {"background": 0, "liver": 1}, "file_ending": ".nii.gz"}))
    manifest, faults = prepare(source, tmp_path / "out", validation=0, test=0)
    assert manifest.labels == {1: "liver"}
    assert not faults
    assert manifest.cases["training"][0].image.name == "a_0000.nii.gz"


@pytest.mark.parametrize(
    ("channel", "modality"),
    [("CBCT", "CT"), ("CT_venous", "CT"), ("CTA", "CT"), ("FDG-PET", "PET"), ("PET_SUV", "PET"), ("T1w", "MR"), ("noNorm", ""), ("Octagon", "")],
)
def test_nnunet_channel_names_tell_the_modality(tmp_path, channel, modality):
    (tmp_path / "dataset.json").write_text(json.dumps({"channel_names": {"0": channel}, "labels": {"background": 0, "liver": 1}}))
    assert read_nnunet(tmp_path).modality == modality


def test_nnunet_ignore_is_no_structure_and_regions_are_refused(tmp_path):
    write(tmp_path / "imagesTr/a_0000.nii.gz", ct())
    write(tmp_path / "labelsTr/a.nii.gz", label(1, 2))
    values = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "liver": 1, "ignore": 2}}
    (tmp_path / "dataset.json").write_text(json.dumps(values))
    manifest, faults = prepare(tmp_path, tmp_path / "out", validation=0, test=0)
    assert manifest.labels == {1: "liver"}
    assert any(f.serious and "2" in f.text for f in faults)
    values["labels"] = {"background": 0, "whole tumor": [1, 2]}
    (tmp_path / "dataset.json").write_text(json.dumps(values))
    with pytest.raises(InputError, match="regions of several values \\(whole tumor\\)"):
        prepare(tmp_path, tmp_path / "out2")


def test_shares_and_names_that_cannot_be_meant_are_refused(tiny_data, tmp_path):
    source = tiny_data / "phantoms_ct"
    with pytest.raises(InputError, match="30 for validation"):
        prepare(source, tmp_path / "out", validation=30)
    with pytest.raises(InputError, match="no label brainstm to rename"):
        prepare(source, tmp_path / "out", structures={"brainstm": "brainstem"})


def test_totalsegmentator_masks_become_one_label_map_and_a_missing_file_is_unknown(tmp_path):
    source = tmp_path / "ts"
    for seed, (case, organs) in enumerate((("s0001", ("liver", "spleen")), ("s0002", ("spleen",)))):
        write(source / case / "ct.nii.gz", ct(seed))
        for n, organ in enumerate(organs):
            write(source / case / "segmentations" / f"{organ}.nii.gz", (label(*([0] * n), 1) > 0).astype(np.uint8))
    manifest, faults = prepare(source, tmp_path / "out", validation=0, test=0)
    by_name = {c.name.split("/")[1]: c for c in manifest.cases["training"]}
    assert len(manifest.cases["training"]) == 2
    known = sorted(tuple(sorted(c.known.values())) for c in by_name.values())
    assert known == [("liver", "spleen"), ("spleen",)]
    assert not [f for f in faults if f.serious]


def test_of_two_structures_that_overlap_the_larger_one_is_unknown_and_said(tmp_path):
    """Painted over, a lung would look like contoured and absent."""
    whole, left = np.zeros((12, 16, 16), np.uint8), np.zeros((12, 16, 16), np.uint8)
    whole[2:10, 2:14, 2:14] = 1
    left[2:10, 2:14, 2:8] = 1
    beside = np.zeros_like(whole)
    beside[10:12, 2:14, 2:8] = 1
    for organ, mask in (("lung", whole), ("lung_left", left), ("spleen", beside)):
        write(tmp_path / "ts" / "s1" / "segmentations" / f"{organ}.nii.gz", mask)
    write(tmp_path / "ts" / "s1" / "ct.nii.gz", np.random.default_rng(0).integers(-100, 100, whole.shape).astype(np.int16))
    manifest, faults = prepare(tmp_path / "ts", tmp_path / "out", validation=0, test=0)
    (case,) = manifest.cases["training"]
    assert sorted(case.known.values()) == ["lung left", "spleen"]
    assert case.truth(case.volume())["lung left"].sum() == left.sum()
    (fault,) = faults
    assert (fault.kind, fault.case, fault.serious) == ("overlap", case.name, False)
    assert fault.text.startswith("'lung' overlaps 'lung left'")


def test_openkbp_csv(tmp_path):
    patient = tmp_path / "kbp" / "train-pats" / "pt_1"
    patient.mkdir(parents=True)
    (patient / "voxel_dimensions.csv").write_text("3.9\n3.9\n2.5\n")
    flat = np.ravel_multi_index((10, 20, 30), (128, 128, 128))
    (patient / "ct.csv").write_text(f",data\n{flat},1500\n")
    (patient / "Larynx.csv").write_text(f",data\n{flat},\n")
    manifest, _ = prepare(tmp_path / "kbp", tmp_path / "out", validation=0, test=0)
    case = manifest.cases["training"][0]
    volume = case.volume()
    assert list(case.known.values()) == ["larynx"]
    assert volume.array[30, 10, 20] == 476
    assert case.truth(volume)["larynx"].sum() == 1
    assert volume.geometry.spacing_xyz_mm == pytest.approx((3.9, 3.9, 2.5))


def test_bids_like_folder(tmp_path):
    source = tmp_path / "bids"
    write(source / "sub-01/anat/sub-01_T1w.nii.gz", ct())
    write(source / "derivatives/manual/sub-01/anat/sub-01_T1w_desc-x_dseg.nii.gz", label(3))
    (source / "derivatives/manual/desc-x_dseg.tsv").write_text("index\tname\n0\tbackground\n3\thippocampus\n")
    manifest, faults = prepare(source, tmp_path / "out", validation=0, test=0)
    case = manifest.cases["training"][0]
    assert (case.modality, case.patient, list(case.known.values())) == ("mr", "sub-01", ["hippocampus"])
    assert not faults


def test_bids_labels_go_with_the_contrast_that_they_name(tmp_path):
    for suffix in ("FLAIR", "T1w", "T2w"):
        write(tmp_path / f"sub-01/anat/sub-01_{suffix}.nii.gz", ct())
    derivatives = tmp_path / "derivatives/manual"
    for name in ("sub-01_desc-manual_dseg", "sub-01_space-T2w_desc-x_dseg"):
        write(derivatives / f"{name}.nii.gz", label(3))
    (derivatives / "dseg.tsv").write_bytes("\ufeffindex\tname\n3\thippocampus\n".encode())
    images = {Path(e["label"]).name: Path(e["image"]).name for e in read_bids(tmp_path).entries["training"]}
    assert images == {"sub-01_desc-manual_dseg.nii.gz": "sub-01_T1w.nii.gz", "sub-01_space-T2w_desc-x_dseg.nii.gz": "sub-01_T2w.nii.gz"}
    (tmp_path / "sub-01/anat/sub-01_T1w.nii.gz").unlink()
    with pytest.raises(InputError, match=r"may be drawn on any of sub-01_FLAIR\.nii\.gz, sub-01_T2w\.nii\.gz"):
        read_bids(tmp_path)
    write(tmp_path / "sub-01/anat/sub-01_acq-a_T1w.nii.gz", ct())
    write(tmp_path / "sub-01/anat/sub-01_acq-b_T1w.nii.gz", ct())
    with pytest.raises(InputError, match=r"any of sub-01_acq-a_T1w.nii.gz, sub-01_acq-b_T1w.nii.gz; name the label after one"):
        read_bids(tmp_path)
    (derivatives / "sub-01_desc-manual_dseg.nii.gz").rename(derivatives / "sub-01_acq-b_T1w_desc-manual_dseg.nii.gz")
    assert "sub-01_acq-b_T1w.nii.gz" in {Path(e["image"]).name for e in read_bids(tmp_path).entries["training"]}
    (derivatives / "dseg.tsv").write_text("value\tname\n3\thippocampus\n")
    with pytest.raises(InputError, match="has no column index"):
        read_bids(tmp_path)


def drawn(path, **masks):
    """A segmentation as the engine and Slicer write it."""
    volume = load_volume(next(path.parent.glob("ct*.nrrd")))
    results = [PromptResult(name, name, Verdict.PRESENT, 1.0, 1.0, mask, 0.0, None, 0.0) for name, mask in masks.items()]
    write_segmentation(path, results, volume, {"name": "a person"})


def test_a_list_that_got_no_patient_is_told(tmp_path, caplog):
    with caplog.at_level("WARNING"):
        prepare(own_set(tmp_path / "own", {"1": "larynx", "2": "mandible"}), tmp_path / "out", validation=0.1, test=0)
    empty = [split for split in ("training", "validation", "test") if not Manifest.read(tmp_path / "out").cases[split]]
    assert [split for split in empty if f"No case fell into the {split} list" in caplog.text] == [s for s in empty if s != "test"]
    assert len(empty) == 2


def test_segmentations_saved_from_slicer(tmp_path):
    source = tmp_path / "slicer"
    whole, other, nothing = label(1) > 0, label(0, 1) > 0, label() > 0
    for case in ("one", "two"):
        write(source / case / "ct.nrrd", ct(len(case) + ord(case[0])))
    drawn(source / "one" / "Segmentation.seg.nrrd", brainstem=whole, parotid_l=other)
    drawn(source / "two" / "ct.seg.nrrd", larynx=nothing, brainstem=other)
    for name in ("._ct.nrrd", "._Segmentation.seg.nrrd"):  # what macOS leaves beside each file on another system's drive
        (source / "one" / name).write_bytes(b"\0\5\x16\7")
    assert recognise(source) == "slicer"
    manifest, faults = prepare(source, tmp_path / "out", validation=0, test=0)
    first, second = manifest.cases["training"]
    assert (list(first.known.values()), list(second.known.values())) == (["brainstem", "parotid_l"], ["brainstem"])  # an empty segment is unknown
    assert not [f for f in faults if f.serious]
    truth = first.truth(first.volume())
    assert np.array_equal(truth["brainstem"], whole)
    assert np.array_equal(truth["parotid_l"], other)
    assert np.array_equal(second.truth(second.volume())["brainstem"], other)


def test_a_segmentation_from_slicer_without_its_image_or_on_another_grid_is_named(tmp_path):
    source = tmp_path / "slicer"
    write(source / "ct.nrrd", ct())
    drawn(source / "ct.seg.nrrd", brainstem=label(1) > 0)
    write(source / "ct_2.nrrd", ct(1), spacing=(1.0, 1.0, 1.0))
    shutil.copy(source / "ct.seg.nrrd", source / "ct_2.seg.nrrd")
    _, faults = prepare(source, tmp_path / "out", validation=0, test=0)
    assert {(f.case, f.kind) for f in faults if f.serious} == {("slicer/ct_2", "geometry")}
    shutil.copy(source / "ct.seg.nrrd", source / "third.seg.nrrd")
    with pytest.raises(InputError, match=r"1 segmentations have no image.*third\.seg\.nrrd; put each beside its image"):
        prepare(source, tmp_path / "again", validation=0, test=0)


def test_all_faults_of_a_set_are_reported_at_once(tiny_data, tmp_path):
    folder = tmp_path / "bad"
    shutil.copytree(tiny_data / "phantoms_ct", folder)
    values = json.loads((folder / "datalist.json").read_text())
    first, second = values["training"]
    shutil.copy(folder / first["image"], folder / values["test"][0]["image"])  # a copy in another split
    values["validation"][0]["patient"] = first["patient"]
    moved = sitk.ReadImage(str(folder / second["label"]))
    moved.SetOrigin([v + 5 for v in moved.GetOrigin()])
    sitk.WriteImage(moved, str(folder / second["label"]))
    foreign = sitk.ReadImage(str(folder / first["label"]))
    foreign[0, 0, 0] = 99
    sitk.WriteImage(foreign, str(folder / first["label"]))
    (folder / values["validation"][1]["image"]).unlink()
    (folder / "datalist.json").write_text(json.dumps(values))
    faults = check(Manifest.read(folder))
    assert {"copy", "patient", "geometry", "value", "file"} <= {f.kind for f in faults if f.serious}
    table = faults_table(faults)
    assert "[99] have no name" in table
    assert "keep all images of a patient in one split" in table
    assert [line.split()[0] for line in table.splitlines()] == ["ERROR"] * 6 + ["note"]
    by_seriousness = faults_table([Fault("a", "copy", "twice", serious=False), Fault("a", "value", "99 has no name")])
    assert [line.split()[1] for line in by_seriousness.splitlines()] == ["value", "copy"], "not by kind"


def own_set(folder, labels, entry=None, array=None, **values):
    """A set of one case in our own form."""
    write(folder / "i.nii.gz", ct())
    write(folder / "l.nii.gz", label(1, 2) if array is None else array)
    case = {"image": "i.nii.gz", "label": "l.nii.gz", **(entry or {})}
    (folder / "datalist.json").write_text(json.dumps({"name": "own", "modality": "CT", "labels": labels, "training": [case], **values}))
    return folder


def test_a_label_map_with_fractions_is_a_serious_fault_and_not_trained_on(tmp_path):
    """Smoothed or resampled between its values: every such voxel would silently be background."""
    smooth = label(1, 2).astype(np.float32)
    smooth[2, 3, 4:8] = 0.5
    manifest = Manifest.read(own_set(tmp_path / "own", {"1": "larynx", "2": "mandible"}, array=smooth))
    (fault,) = check(manifest)
    assert fault.serious
    assert "has 4 voxels that are no whole number (as 0.5)" in fault.text
    case = manifest.cases["training"][0]
    with pytest.raises(InputError, match="4 voxels that are no whole number"):
        case.truth(case.volume())
    whole = Manifest.read(own_set(tmp_path / "whole", {"1": "larynx", "2": "mandible"}, array=label(1, 2).astype(np.float32)))
    assert check(whole) == []


def test_the_background_is_no_structure(tmp_path):
    folder = own_set(tmp_path / "own", {"0": "Background", "1": "larynx", "2": "mandible"})
    assert Manifest.read(folder).labels == Manifest.read(folder).cases["training"][0].known == {1: "larynx", 2: "mandible"}
    assert prepare(folder, tmp_path / "out", validation=0, test=0)[0].labels == {1: "larynx", 2: "mandible"}
    listed = own_set(tmp_path / "listed", {"0": "background", "1": "larynx", "2": "mandible"}, {"labelled": [0, 1]})
    assert Manifest.read(listed).cases["training"][0].known == {1: "larynx"}
    with pytest.raises(InputError, match=r"label 0 of .* is called 'tumour', but 0 is the background"):
        Manifest.read(own_set(tmp_path / "odd", {"0": "tumour", "1": "larynx"}))


@pytest.mark.parametrize(("word", "modality"), [("PT", "pet"), ("MRI", "mr"), ("ct", "ct"), ("per case", ""), ("", "")])
def test_modalities_are_read_as_in_a_batch(tmp_path, word, modality):
    labels = {"1": "larynx", "2": "mandible"}
    assert Manifest.read(own_set(tmp_path / "a", labels, modality=word)).cases["training"][0].modality == modality
    assert Manifest.read(own_set(tmp_path / "b", labels, {"modality": word})).cases["training"][0].modality == (modality if word else "ct")
    with pytest.raises(InputError, match="modality 'X-ray' of the case 'i'"):
        Manifest.read(own_set(tmp_path / "c", labels, modality="X-ray"))


def test_patients_are_split_whole_and_stay_where_they_are_when_cases_are_added():
    entries = [{"image": f"{p}_{n}.nii.gz", "patient": f"p{p}"} for p in range(60) for n in range(2)]
    lists = split_by_patient({"training": entries}, 0.2, 0.2)
    sides = [{e["patient"] for e in lists[s]} for s in ("training", "validation", "test")]
    assert all(sides)
    assert len(sides[0] | sides[1] | sides[2]) == sum(map(len, sides)) == 60
    more = split_by_patient({"training": [*entries, {"image": "n.nii.gz", "patient": "new"}]}, 0.2, 0.2)
    assert all({e["patient"] for e in lists[s]} <= {e["patient"] for e in more[s]} for s in lists)


def test_prepare_command_takes_a_review_export_and_says_what_it_cannot_read(tiny_data, tmp_path, capsys):
    assert main(["prepare", str(tiny_data / "phantoms_ct"), "-o", str(tmp_path / "out")]) == 0
    again = Manifest.read(tmp_path / "out")
    assert {s: len(c) for s, c in again.cases.items()} == {"training": 2, "validation": 2, "test": 1}
    assert again.cases["training"][0].volume().array.ndim == 3
    assert main(["prepare", str(tmp_path), "-o", str(tmp_path / "x")]) == 1
    assert "looks like none of" in capsys.readouterr().err
    assert main(["prepare", str(tmp_path), "-o", str(tmp_path / "x"), "--rename", "Anterior"]) == 1
    assert "takes OLD=NEW, not 'Anterior'" in capsys.readouterr().err
    with pytest.raises(InputError, match="is no folder"):
        prepare(tmp_path / "nowhere", tmp_path / "y")


def test_export_of_a_review_is_read_with_what_the_reviewer_accepted(tmp_path, monkeypatch):
    """A real batch (of a fake engine), reviewed and exported by the engine's own code."""
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[1] / "Engine" / "batch_doubles"))
    from batch_volumes import small_volume, write_volume

    from RefSAM3DLib.batch import BatchOptions, run_batch
    from RefSAM3DLib.review import ReviewSession, export_manifest

    (tmp_path / "in").mkdir()
    for n in range(2):
        write_volume(tmp_path / "in" / f"case_{n}.nii.gz", small_volume(n), seed=n)
    run_batch(tmp_path / "in", tmp_path / "batch", BatchOptions(prompts=("brainstem", "mandible"), engine="batch_fake_engine:make", workers=0))
    session = ReviewSession(tmp_path / "batch", "A. Muster")
    for item in session.items:
        wrong = (item.case, item.structure) == ("case_1", "mandible")
        session.decide(item, "reject" if wrong else "accept", reason="leaks into the neck" if wrong else "")
    export_manifest(session, tmp_path / "export")
    assert recognise(tmp_path / "export") == "datalist"
    manifest, faults = prepare(tmp_path / "export", tmp_path / "out", validation=0, test=0)
    assert not [f for f in faults if f.serious], faults_table(faults)
    known = {c.name.split("/")[1]: sorted(c.known.values()) for c in manifest.cases["training"]}
    assert known == {"case_0": ["brainstem", "mandible"], "case_1": ["brainstem"]}
    case = manifest.cases["training"][0]
    assert case.truth(case.volume())["brainstem"].any()


def test_relative_source_is_found_from_the_manifest(tiny_data, tmp_path, monkeypatch):
    monkeypatch.chdir(tiny_data)
    assert main(["prepare", "phantoms_ct", "-o", str(tmp_path / "prepared")]) == 0


def test_labels_on_another_grid_are_refused_by_training_too_and_great_values_stay_apart(tiny_data):
    from refsam3d_training.cases import load_label, preprocess

    from RefSAM3DLib.config import IntensityConfig, ModelConfig
    from RefSAM3DLib.resources import resource_path

    entry = json.loads((tiny_data / "phantoms_ct" / "datalist.json").read_text())["training"][0]
    volume = load_volume(tiny_data / "phantoms_ct" / entry["image"], modality="ct")
    path = tiny_data / "phantoms_ct" / entry["label"]
    labels = load_label(path, volume)
    image = sitk.ReadImage(str(path))
    image.SetOrigin([v + 6 for v in image.GetOrigin()])
    moved = path.with_name("moved.nii.gz")
    sitk.WriteImage(image, str(moved))
    with pytest.raises(InputError, match=r"lie 6\.00 mm apart"):
        load_label(moved, volume)
    moved.unlink()

    grid = ModelConfig.load(resource_path("Configs", "test_tiny.json")).grids[0]
    known, far = {1: "brainstem", 7: "mandible"}, {1028: "brainstem", 4: "mandible"}
    plain = preprocess("a", volume, labels, known, grid, IntensityConfig())
    great = preprocess("a", volume, np.select([labels == 1, labels == 7], [1028, 4]), far, grid, IntensityConfig())
    for name in known.values():
        masks = [case.fine.labels == next(v for v, n in case.known.items() if n == name) for case in (plain, great)]
        assert masks[0].any()
        assert (masks[0] == masks[1]).all()


def test_two_labels_of_one_name_are_refused_since_one_would_become_background(tiny_data, tmp_path, capsys):
    source = str(tiny_data / "phantoms_ct")
    assert main(["prepare", source, "-o", str(tmp_path / "out"), "--rename", "brainstem=neck", "larynx=neck"]) == 1
    assert re.search(r"labels \d and \d of .* both called 'neck'; name them apart", capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


def test_a_set_that_tells_no_modality_is_not_called_mr(tmp_path):
    from refsam3d_training.cases import load_cases

    from RefSAM3DLib.config import ModelConfig
    from RefSAM3DLib.resources import resource_path

    write(tmp_path / "set" / "imagesTr" / "a.nii.gz", ct())
    write(tmp_path / "set" / "labelsTr" / "a.nii.gz", label(1))
    facts = {"name": "set", "labels": {"0": "background", "1": "brainstem"}, "training": [{"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"}]}
    (tmp_path / "set" / "dataset.json").write_text(json.dumps(facts))
    prepare(tmp_path / "set", tmp_path / "out", validation=0, test=0)
    assert json.loads((tmp_path / "out" / "datalist.json").read_text())["modality"] == "per case"
    (case,) = load_cases(tmp_path / "out", "training", ModelConfig.load(resource_path("Configs", "test_tiny.json")), "head_neck", tmp_path / "cache")
    assert case.modality == "ct", "air far below zero tells"
