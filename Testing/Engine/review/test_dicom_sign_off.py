"""A DICOM study from the scanner's files to the signed-off SEG: batch, review with an edit, sign-off, read back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from batch_volumes import write_dicom_series

from RefSAM3DLib.batch import BatchOptions, run_batch
from RefSAM3DLib.review import ReviewSession, write_structured_result

pytestmark = pytest.mark.slow
pydicom = pytest.importorskip("pydicom")
hd = pytest.importorskip("highdicom")
SPACING = (2.5, 2.5, 3.0)


def signed_off(root: Path, source: Path, prompts: tuple[str, ...], engine: str, wanted: np.ndarray | None) -> tuple[ReviewSession, Path, Path]:
    """Batch, accept the first drawn structure, edit the second one (to ``wanted``, else by a shift), reject the rest; sign off."""
    outcome = run_batch(source, root / "out", BatchOptions(prompts=prompts, engine=engine, workers=0, modality="ct"))
    assert outcome.counts == {"done": 1}, outcome.failures
    session = ReviewSession(root / "out", "Dr. Änne Muster")
    drawn = [item for item in session.items if item.verdict in ("present", "uncertain")]
    assert len(drawn) >= 2, [item.verdict for item in session.items]
    for item in session.items:
        if item is drawn[0]:
            session.decide(item, "accept", seconds=4)
        elif item is drawn[1]:
            machine, _ = session.machine_mask(item)
            session.decide(item, "accept_edited", edited_mask=np.roll(machine, 1, axis=2) if wanted is None else wanted, seconds=30)
        else:
            session.decide(item, "reject", reason="not asked for")
    paths = write_structured_result(session, session.items[0].case, root / "signed")
    assert [path.suffix for path in paths] == [".json", ".dcm"]
    return session, paths[0], paths[1]


def check(session: ReviewSession, json_path: Path, seg_path: Path, source: Path) -> None:
    """Who, what and where: of the SEG as another program reads it."""
    first_slice = pydicom.dcmread(next(path for path in sorted(source.rglob("*")) if path.is_file() and path.suffix in ("", ".dcm")))
    seg = hd.seg.segread(seg_path)
    assert (seg.StudyInstanceUID, seg.PatientID, seg.FrameOfReferenceUID) == (
        first_slice.StudyInstanceUID,
        first_slice.PatientID,
        first_slice.FrameOfReferenceUID,
    )
    referenced = {i.ReferencedSOPInstanceUID for s in seg.ReferencedSeriesSequence for i in s.ReferencedInstanceSequence}
    assert first_slice.SOPInstanceUID in referenced
    assert str(seg.ContentCreatorName) == "Muster^Dr. Anne"
    segments = list(seg.SegmentSequence)
    assert [s.SegmentAlgorithmType for s in segments] == ["AUTOMATIC", "SEMIAUTOMATIC"]
    for segment in segments:
        algorithm = segment.SegmentationAlgorithmIdentificationSequence[0]
        assert algorithm.AlgorithmName.startswith("RefSAM3D")
        assert json.loads(algorithm.AlgorithmParameters)["RefSAM3D.Reviewer"] == "Dr. Änne Muster"
    assert segments[1].SegmentDescription.endswith("accepted with edits by Dr. Anne Muster")
    accepted = [item for item in session.items if item.decision and item.decision["verdict"] != "reject"]
    report = json.loads(json_path.read_text(encoding="utf-8"))
    assert report["dicom_seg"] == seg_path.name
    assert {f["review"]["reviewer"] for f in report["findings"]} == {"Dr. Änne Muster"}
    assert str(first_slice.PatientName) not in json_path.read_text(encoding="utf-8")
    shown = seg.get_volume(combine_segments=False)
    for index, item in enumerate(accepted):
        mask, geometry = session.masks.read(session.folder / item.decision["mask_file"], item.structure, item.decision["mask"])
        assert int(shown.array[..., index].sum()) == int(mask.sum()) > 0
        # the same place in the patient, through the affine of each
        theirs = (shown.affine @ np.append(np.argwhere(shown.array[..., index]).mean(axis=0), 1))[:3]
        ours = (geometry.ijk_to_lps @ np.append(np.argwhere(mask).mean(axis=0)[::-1], 1))[:3]
        np.testing.assert_allclose(theirs, ours, atol=0.05)


def test_phantom_as_a_dicom_series_is_signed_off_with_the_shipped_weights(tmp_path: Path) -> None:
    from RefSAM3DLib.phantoms import head_and_neck_ct

    volume, truth = head_and_neck_ct(3_000_001, spacing_xyz_mm=SPACING)
    source = write_dicom_series(tmp_path / "in" / "study", array=volume.array, spacing=SPACING)
    prompts = ("mandible", "brainstem", "spinal cord")
    session, json_path, seg_path = signed_off(tmp_path, tmp_path / "in", prompts, "RefSAM3DLib.batch.options:make_engine", truth["brainstem"])
    check(session, json_path, seg_path, source)
    edit = session.find(f"{session.items[0].case}/2").decision["metrics"]
    assert edit["added_ml"] + edit["removed_ml"] > 0


@pytest.mark.data
def test_series_of_a_real_scanner_is_signed_off(tmp_path: Path, data_folder: Path) -> None:
    source = data_folder / "crlm_ct_dicom"
    # grey values of the fake engine's structures are in every abdomen: what is drawn does not matter here, where it lands does
    session, json_path, seg_path = signed_off(tmp_path, source, ("brainstem", "mandible"), "batch_fake_engine:make", None)
    check(session, json_path, seg_path, next(source.glob("CRLM*")))
    assert "CRLM-CT-1004" not in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert session.items[0].case.startswith("P")
