"""A DICOM series that cannot carry a SEG: the sentence has no value of it, and the sign-off is written without the SEG."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from batch_volumes import small_volume, write_dicom_series

from RefSAM3DLib.batch import BatchOptions, run_batch
from RefSAM3DLib.errors import OutputError
from RefSAM3DLib.review import ReviewSession, write_structured_result

pydicom = pytest.importorskip("pydicom")
pytest.importorskip("highdicom")


def alter(folder: Path, **values: str | None) -> None:
    """Set attributes of all files as a careless program does; None takes one out."""
    for path in folder.iterdir():
        data = pydicom.dcmread(path)
        for name, value in values.items():
            if value is None:
                del data[name]
            else:
                data[name] = pydicom.DataElement(name, data[name].VR, value, validation_mode=pydicom.config.IGNORE)
        data.save_as(path)


@pytest.mark.parametrize(
    ("name", "value"), [("StudyDate", "17/05/2024"), ("PatientSex", "secret"), ("StudyTime", "noon"), ("PatientBirthDate", None), ("FrameOfReferenceUID", None)]
)
def test_refusal_names_the_attribute_and_no_value(tmp_path: Path, name: str, value: str | None) -> None:
    from RefSAM3DLib.dicom_seg import write_dicom_seg
    from RefSAM3DLib.volume_io import load_volume

    source = write_dicom_series(tmp_path / "in", array=small_volume()[:8])
    volume = load_volume(source)
    alter(source, **{name: value})
    from batch_fake_engine import FakeEngine

    with pytest.raises(OutputError, match="cannot carry a SEG") as caught:
        write_dicom_seg(tmp_path / "a.dcm", FakeEngine().segment(volume, ["brainstem"]), volume, {})
    assert f"form: {name})" in str(caught.value)
    assert not value or value not in str(caught.value)
    assert caught.value.__suppress_context__, "a traceback would show the value"


def test_value_that_cannot_be_written_is_refused_in_the_same_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import highdicom as hd
    from batch_fake_engine import FakeEngine

    from RefSAM3DLib.dicom_seg import write_dicom_seg
    from RefSAM3DLib.volume_io import load_volume

    def refuse(*_: object, **__: object) -> None:
        raise TypeError("With tag (0010,0020) got exception: cannot write 'SECRET-4711'")

    monkeypatch.setattr(hd.seg.Segmentation, "save_as", refuse)
    volume = load_volume(write_dicom_series(tmp_path / "in", array=small_volume()[:8]))
    with pytest.raises(OutputError, match=r"form: PatientID\)") as caught:
        write_dicom_seg(tmp_path / "a.dcm", FakeEngine().segment(volume, ["brainstem"]), volume, {})
    assert "SECRET" not in str(caught.value)


def test_sign_off_is_written_without_the_seg_and_says_why(tmp_path: Path) -> None:
    source = write_dicom_series(tmp_path / "in" / "study", array=small_volume()[:8])
    run_batch(tmp_path / "in", tmp_path / "out", BatchOptions(prompts=("brainstem",), engine="batch_fake_engine:make", workers=0))
    session = ReviewSession(tmp_path / "out", "A")
    (item,) = session.items
    session.decide(item, "accept")
    alter(source, StudyDate="17/05/2024")
    (path,) = write_structured_result(session, item.case, tmp_path / "signed")
    report = json.loads(path.read_text())
    assert (report["dicom_seg"], report["findings"][0]["review"]["verdict"]) == (None, "accept")
    assert "StudyDate" in report["dicom_seg_missing"]
    assert "StudyDate" in session.notes[-1]
    assert "17/05/2024" not in path.read_text() + session.notes[-1]
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
