"""What each frame of a multi-frame DICOM object says of itself: where it lies, and how its stored values become intensities."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from .errors import InputError
from .slice_stack import Plane

#: Transfer syntaxes that GDCM decodes, or need no decoding: uncompressed, deflated, JPEG, JPEG-LS, JPEG 2000 (not its part 2) and run lengths.
_DECODED = {f"1.2.840.10008.1.2{end}" for end in ("", ".1", ".1.99", ".2", ".5", *(f".4.{n}" for n in (50, 51, 57, 70, 80, 81, 90, 91)))}


def undecodable(path: str | Path) -> str:
    """The compression of a file's pixels, as words with its number, where it is one that cannot be decoded; else an empty text."""
    try:
        import pydicom
    except ImportError:
        return ""
    try:
        syntax = pydicom.filereader.read_file_meta_info(path).get("TransferSyntaxUID")
    except (OSError, EOFError, pydicom.errors.InvalidDicomError, ValueError, AttributeError, KeyError):
        return ""
    if not syntax or str(syntax) in _DECODED:
        return ""
    return str(syntax) if syntax.name == syntax else f"{syntax.name}, {syntax}"


def states_frames(path: Path) -> bool:
    """Whether a file says of its frames where they lie: an enhanced object, which may have a single frame."""
    try:
        import pydicom
    except ImportError:
        return False
    try:
        return "PerFrameFunctionalGroupsSequence" in pydicom.dcmread(path, stop_before_pixels=True)
    except (OSError, EOFError, pydicom.errors.InvalidDicomError, ValueError):
        return False


def frame_planes(data: Any, source: str) -> list[Plane]:
    """Where each frame of a multi-frame pydicom dataset lies.

    Raises:
        InputError: a frame does not say.
    """
    shared = getattr(data, "SharedFunctionalGroupsSequence", [None])[0]
    planes = []
    for n, frame in enumerate(getattr(data, "PerFrameFunctionalGroupsSequence", [])):
        measures = functional_group(frame, shared, "PixelMeasuresSequence")
        position = functional_group(frame, shared, "PlanePositionSequence")
        orientation = functional_group(frame, shared, "PlaneOrientationSequence")
        if measures is None or position is None or orientation is None:
            break
        planes.append(
            Plane(
                tuple(map(float, position.ImagePositionPatient)),
                tuple(map(float, orientation.ImageOrientationPatient)),
                tuple(map(float, measures.PixelSpacing)),
                (int(data.Rows), int(data.Columns)),
                f"{data.SOPInstanceUID}/{n}",
                float(getattr(measures, "SpacingBetweenSlices", None) or getattr(measures, "SliceThickness", None) or 1.0),
            )
        )
    if not planes or len(planes) != int(data.NumberOfFrames):
        raise InputError(f"'{source}' does not state where each of its {data.NumberOfFrames} frames lies; export it as single slices.")
    return planes


def functional_group(frame: Any, shared: Any, name: str) -> Any:
    """First item of a sequence that is stated per frame or once for all; None if it is nowhere."""
    for groups in (frame, shared):
        sequence = getattr(groups, name, None) if groups is not None else None
        if sequence:
            return sequence[0]
    return None


def frame_rescales(data: Any) -> list[tuple[float, float]]:
    """Slope and intercept of each frame of a multi-frame pydicom dataset; 1 and 0 where a frame has none."""
    shared = getattr(data, "SharedFunctionalGroupsSequence", [None])[0]
    found = []
    for frame in getattr(data, "PerFrameFunctionalGroupsSequence", []):
        item = functional_group(frame, shared, "PixelValueTransformationSequence")
        found.append((float(getattr(item, "RescaleSlope", 1.0)), float(getattr(item, "RescaleIntercept", 0.0))))
    return found


def rescaled_frames(path: str, rescales: list[tuple[float, float]]) -> np.ndarray:
    """(frames, rows, columns) in float32, each frame with its own slope and intercept: GDCM gives all of them those of one.

    Raises:
        InputError: pydicom cannot unpack the pixels.
    """
    import pydicom

    try:
        stored = pydicom.dcmread(path).pixel_array
    except (OSError, EOFError, AttributeError, NotImplementedError, RuntimeError, ValueError) as error:
        raise InputError(
            f"The frames of '{path}' have different slopes, and their pixels cannot be unpacked to apply them (damaged, or a compression that needs"
            " a package such as pylibjpeg); export the series uncompressed or as single slices."
        ) from error
    out = np.empty(stored.shape, dtype=np.float32)
    for frame, values, (slope, intercept) in zip(out, stored, rescales, strict=True):
        np.multiply(values, slope, out=frame, casting="unsafe")
        frame += intercept
    return out
