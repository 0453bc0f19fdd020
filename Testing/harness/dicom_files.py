"""DICOM series made for tests: valid enough for every reader, small, and faulty where a test asks for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    EnhancedCTImageStorage,
    ExplicitVRLittleEndian,
    MRImageStorage,
    PositronEmissionTomographyImageStorage,
    generate_uid,
)

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
_CLASSES = {"CT": CTImageStorage, "MR": MRImageStorage, "PT": PositronEmissionTomographyImageStorage}


def write_series(
    folder: Path,
    stored: np.ndarray,
    *,
    positions: np.ndarray | None = None,
    orientation: tuple[float, ...] = AXIAL,
    pixel_spacing: tuple[float, float] = (0.7, 0.9),
    slope: float | list[float] = 1.0,
    intercept: float = -1024.0,
    modality: str = "CT",
    description: str = "made for a test",
    uid: str | None = None,
    names: list[str] | None = None,
) -> str:
    """Write ``stored`` (D, H, W, 16-bit integers) as one file per slice and return the series UID.

    ``positions``: (D, 3) LPS mm, default 2.5 mm steps to Superior. ``pixel_spacing``: between rows, between columns.
    File names do not follow the order of slices unless given.
    """
    folder.mkdir(parents=True, exist_ok=True)
    uid = uid or generate_uid()
    study, frame_of_reference = generate_uid(), generate_uid()
    if positions is None:
        positions = np.array([(-20.0, -30.0, 100.0 + 2.5 * k) for k in range(len(stored))])
    slopes = slope if isinstance(slope, list) else [slope] * len(stored)
    shuffled = np.random.default_rng(3).permutation(len(stored))
    for k, (plane, position) in enumerate(zip(stored, positions, strict=True)):
        data = _dataset(_CLASSES[modality])
        _describe(data, study, uid, frame_of_reference, modality, description)
        data.InstanceNumber = int(shuffled[k]) + 1  # of no use for the order, as in the field
        data.ImagePositionPatient = [f"{v:.6f}" for v in position]
        data.ImageOrientationPatient = [f"{v:.6f}" for v in orientation]
        data.PixelSpacing = list(pixel_spacing)
        data.SliceThickness = 2.5
        _set_pixels(data, plane)
        data.RescaleSlope, data.RescaleIntercept = slopes[k], intercept
        data.save_as(folder / (names[k] if names else f"IM{shuffled[k]:04d}.dcm"), enforce_file_format=True)
    return uid


def write_multiframe(path: Path, stored: np.ndarray, positions: np.ndarray, pixel_spacing: tuple[float, float] = (0.7, 0.9)) -> str:
    """Write ``stored`` (frames, H, W) as one enhanced CT object with frame k at ``positions[k]`` and return the series UID."""
    uid = generate_uid()
    data = _dataset(EnhancedCTImageStorage)
    _describe(data, generate_uid(), uid, generate_uid(), "CT", "enhanced")
    data.InstanceNumber = 1
    data.NumberOfFrames = len(stored)
    _set_pixels(data, stored)
    shared, measures, orientation, rescale = Dataset(), Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = list(pixel_spacing), 2.5
    orientation.ImageOrientationPatient = list(AXIAL)
    rescale.RescaleSlope, rescale.RescaleIntercept, rescale.RescaleType = 1, -1024, "HU"
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [orientation]
    shared.PixelValueTransformationSequence = [rescale]
    data.SharedFunctionalGroupsSequence = [shared]
    frames = []
    for position in positions:
        frame, place = Dataset(), Dataset()
        place.ImagePositionPatient = [float(v) for v in position]
        frame.PlanePositionSequence = [place]
        frames.append(frame)
    data.PerFrameFunctionalGroupsSequence = frames
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)
    return uid


def alter(path: Path, **values: object) -> None:
    """Set elements of a file by keyword; None deletes."""
    data = pydicom.dcmread(path)
    for keyword, value in values.items():
        if value is None:
            delattr(data, keyword)
        else:
            setattr(data, keyword, value)
    data.save_as(path, enforce_file_format=True)


def _dataset(sop_class: str) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = sop_class
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = sop_class, meta.MediaStorageSOPInstanceUID
    return data


def _describe(data: Dataset, study: str, series: str, frame_of_reference: str, modality: str, description: str) -> None:
    data.PatientName, data.PatientID, data.PatientBirthDate, data.PatientSex = "Muster^Anna", "4711", "", ""
    data.StudyInstanceUID, data.SeriesInstanceUID, data.FrameOfReferenceUID = study, series, frame_of_reference
    data.StudyID, data.AccessionNumber, data.ReferringPhysicianName = "1", "", ""
    data.StudyDate, data.StudyTime, data.ContentDate, data.ContentTime = "20240102", "101112", "20240102", "101112"
    data.SeriesNumber, data.Modality, data.SeriesDescription = 2, modality, description
    data.Manufacturer, data.PositionReferenceIndicator, data.ImageType = "tests", "", ["ORIGINAL", "PRIMARY", "AXIAL"]


def _set_pixels(data: Dataset, stored: np.ndarray) -> None:
    data.Rows, data.Columns = stored.shape[-2:]
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, 16, 15
    data.PixelRepresentation = int(stored.dtype == np.int16)
    data.PixelData = np.ascontiguousarray(stored).tobytes()
