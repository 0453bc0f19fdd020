"""Small CT-like volumes with structures marked by grey value, written as files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk
from batch_fake_engine import VALUES

SHAPE = (20, 28, 24)
#: What the reviewed batch is asked for; the fake engine does not know the last one.
REVIEWED_PROMPTS = ("brainstem", "mandible", "liver")


def small_volume(seed: int = 0, leave_out: tuple[str, ...] = ()) -> np.ndarray:
    """(20, 28, 24) with every structure except those left out; sizes vary a little with the seed."""
    rng = np.random.default_rng(seed)
    array = rng.normal(-50, 5, SHAPE).astype(np.float32)
    for number, (name, value) in enumerate(VALUES.items()):
        if name in leave_out:
            continue
        k, j, i = 3 + 2 * number, 4 + 5 * number, 4 + 3 * number
        size = 5 + int(rng.integers(0, 2))
        array[k : k + size, j : j + 5, i : i + 6] = value
    return array


def write_volume(path: Path, array: np.ndarray | None = None, seed: int = 0, spacing: tuple[float, float, float] = (2.0, 1.5, 3.0)) -> Path:
    """Write a volume in the format of ``path``'s ending."""
    image = sitk.GetImageFromArray((small_volume(seed) if array is None else array).astype(np.int16))
    image.SetSpacing(spacing)
    image.SetOrigin((10.0, -20.0, 30.0 + seed))
    sitk.WriteImage(image, str(path))
    return path


def write_dicom_series(
    folder: Path, patient_id: str = "SECRET-4711", patient_name: str = "Mustermann^Erika", seed: int = 0, array: np.ndarray | None = None,
    spacing: tuple[float, float, float] = (2.0, 1.5, 3.0),
) -> Path:  # fmt: skip
    """A CT series of single-frame files, as a scanner writes them; ``array`` (D, H, W) in HU, ``spacing`` (x, y, z) in mm."""
    import datetime

    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    folder.mkdir(parents=True, exist_ok=True)
    array = small_volume(seed) if array is None else array
    study, series, frame = generate_uid(), generate_uid(), generate_uid()
    for k, plane in enumerate(array):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID, meta.TransferSyntaxUID = (
            CTImageStorage,
            generate_uid(),
            ExplicitVRLittleEndian,
        )
        data = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
        data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
        data.PatientID, data.PatientName, data.PatientBirthDate, data.PatientSex = patient_id, patient_name, "19500101", "F"
        data.StudyInstanceUID, data.SeriesInstanceUID, data.FrameOfReferenceUID = study, series, frame
        data.StudyDate = data.SeriesDate = datetime.date(2024, 5, 17).strftime("%Y%m%d")
        data.StudyTime = data.SeriesTime = "101010"
        data.StudyID, data.AccessionNumber, data.ReferringPhysicianName = "1", "A1", ""
        data.Modality, data.Manufacturer, data.SeriesNumber, data.InstanceNumber = "CT", "test", 1, k + 1
        data.PositionReferenceIndicator = ""
        data.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        data.ImagePositionPatient, data.ImageOrientationPatient = [0.0, 0.0, spacing[2] * k], [1, 0, 0, 0, 1, 0]
        data.PixelSpacing, data.SliceThickness = [spacing[1], spacing[0]], spacing[2]
        data.Rows, data.Columns = plane.shape
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
        data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 1
        data.RescaleIntercept, data.RescaleSlope, data.RescaleType = 0, 1, "HU"
        data.PixelData = plane.astype("<i2").tobytes()
        data.save_as(folder / f"IM{k:04d}", enforce_file_format=True)
    return folder
