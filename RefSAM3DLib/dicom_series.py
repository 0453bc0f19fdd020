"""DICOM series: which ones a folder holds, and one of them as a volume. Read through SimpleITK (GDCM)."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .dicom_frames import frame_planes, frame_rescales, rescaled_frames
from .errors import InputError
from .image_files import quiet_itk
from .slice_stack import Plane, Stack, stack_planes

if TYPE_CHECKING:
    from .geometry import Geometry

#: A folder with more files is a whole archive or a home directory, chosen by mistake; looking at each takes minutes.
MAX_FILES = 50_000
#: Most series that a message lists.
LISTED = 20
_ENDINGS = (".dcm", ".ima", ".dicom")
#: Objects with pixels that are no image of the patient.
_NOT_IMAGES = ("SEG", "RTDOSE", "RTSTRUCT", "RTPLAN", "PR", "KO", "SR", "REG", "DOC", "ECG")


@dataclass(frozen=True)
class SeriesInfo:
    """One image series of a folder.

    Attributes:
        uid: series instance UID, the value of ``--series``.
        description, modality: as in the files ("CT", "MR", "PT"); may be empty.
        slices: number of slices (frames of a multi-frame file).
        files: paths in the order of the folder; :func:`read_series` orders them by position.
    """

    uid: str
    description: str
    modality: str
    slices: int
    files: tuple[str, ...] = field(repr=False, default=())


@dataclass(frozen=True)
class _Header:
    path: str
    uid: str
    identity: str
    description: str
    modality: str
    body_part: str
    frames: int
    samples: int
    plane: Plane | None
    is_damaged: bool = False


def is_dicom_file(path: Path) -> bool:
    """True if the file has DICOM's mark behind its preamble, or a DICOM ending (old files lack the mark)."""
    try:
        with open(path, "rb") as handle:
            return handle.read(132)[128:] == b"DICM" or path.suffix.lower() in _ENDINGS
    except OSError:
        return False


def list_series(folder: str | Path) -> list[SeriesInfo]:
    """Image series in a folder and the folders within, longest first.

    Raises:
        InputError: the folder is missing, or has more than ``MAX_FILES`` files.
    """
    return [_info(headers) for headers in _series_of(Path(folder))]


def read_series(path: str | Path, uid: str | None = None) -> tuple[np.ndarray, Geometry, tuple[str, ...], dict[str, str]]:
    """One series of a folder, or the series that a file belongs to.

    Returns:
        array (D, H, W), grid, files in slice order (one file for a multi-frame object), and text fields.

    Raises:
        InputError: none or several series without ``uid``, or slices that make no regular grid.
    """
    path = Path(path)
    own = None
    if path.is_file():
        own = _read_header(path)
        if own is None or own.is_damaged:
            raise InputError(f"'{path}' is damaged or not a DICOM image that can be read; give the folder of the series or another file.")
        if uid and uid != own.uid:
            raise InputError(f"'{path}' belongs to series {own.uid}, not to {uid}; leave --series out or give the folder.")
    if own is not None and own.frames > 1:
        headers = [own]
    else:
        found = _series_of(path if own is None else path.parent, nested=own is None)
        headers = _choose(found, own.uid if own else uid, path)
        damaged = [h.path for h in headers if h.is_damaged]
        if damaged:
            raise InputError(f"'{damaged[0]}' is a damaged or truncated slice ({len(damaged)} of {len(headers)}); fetch the series again.")
    source = str(path)
    array, stack, files = _read_frames(headers[0], source) if headers[0].frames > 1 else _read_slices(headers, source)
    metadata = {
        "series_uid": headers[0].uid,
        "series_description": headers[0].description,
        "body_part": headers[0].body_part,
        "modality": headers[0].modality,
        "warning": " ".join(stack.warnings),
    }
    return array, stack.geometry, files, {key: text for key, text in metadata.items() if text}


def _info(headers: list[_Header]) -> SeriesInfo:
    first = headers[0]
    return SeriesInfo(first.uid, first.description, first.modality, sum(h.frames for h in headers), tuple(h.path for h in headers))


def _series_of(folder: Path, nested: bool = True) -> list[list[_Header]]:
    if not folder.is_dir():
        raise InputError(f"The folder '{folder}' does not exist; check its name.")
    groups: dict[str, list[_Header]] = {}
    for path in _files(folder, nested):
        header = _read_header(path)
        if header is not None:
            groups.setdefault(header.uid, []).append(header)
    return sorted(groups.values(), key=lambda headers: -sum(h.frames for h in headers))


def _files(folder: Path, nested: bool) -> Iterable[Path]:
    seen = 0
    for root, folders, names in os.walk(folder):
        folders.sort()
        if not nested:
            folders.clear()
        for name in sorted(names):
            seen += 1
            if seen > MAX_FILES:
                raise InputError(f"'{folder}' has more than {MAX_FILES} files; give the folder of one study.")
            path = Path(root, name)
            if name.upper() != "DICOMDIR" and is_dicom_file(path):
                yield path


def _choose(found: list[list[_Header]], uid: str | None, path: Path) -> list[_Header]:
    if not found:
        raise InputError(f"'{path}' holds no DICOM image series; give the folder with the slices, or an image file (.nrrd, .nii.gz, .mha).")
    if uid is not None:
        for headers in found:
            if headers[0].uid == uid:
                return headers
        raise InputError(f"Series {uid} is not in '{path}'; choose one of these with --series: {_listed(found)}.")
    if len(found) > 1:
        raise InputError(f"'{path}' holds {len(found)} series; choose one with --series: {_listed(found)}.")
    return found[0]


def _listed(found: list[list[_Header]]) -> str:
    """
    >>> _listed([[_Header("", "1.2.3", "", "T1", "MR", "", 1, 1, None)] * 12])
    '1.2.3 (MR "T1", 12 slices)'
    """
    lines = []
    for info in map(_info, found[:LISTED]):
        name = f' "{info.description}"' if info.description else ""
        lines.append(f"{info.uid} ({info.modality}{name}, {info.slices} slice{'s' if info.slices != 1 else ''})")
    more = len(found) - LISTED
    return "; ".join(lines) + (f"; and {more} more" if more > 0 else "")


def _read_header(path: Path) -> _Header | None:
    """None for what is no image: reports, plans, segmentations, files that GDCM cannot read."""
    with quiet_itk() as sitk:
        reader = sitk.ImageFileReader()
        reader.SetImageIO("GDCMImageIO")
        reader.SetFileName(str(path))
        try:
            reader.ReadImageInformation()
        except RuntimeError:
            return _damaged_header(path)

    def text(tag: str) -> str:
        return str(reader.GetMetaData(tag)).strip(" \0") if reader.HasMetaDataKey(tag) else ""

    if text("0008|0060") in _NOT_IMAGES or not text("0020|000e"):
        return None
    size = reader.GetSize()
    frames = int(_numbers(text("0028|0008"), 1)[0]) if text("0028|0008") else 1
    return _Header(
        path=str(path),
        uid=text("0020|000e"),
        identity=text("0008|0018"),
        description=text("0008|103e"),
        modality=text("0008|0060"),
        body_part=text("0018|0015"),
        frames=max(frames, 1),
        samples=reader.GetNumberOfComponents(),
        plane=_plane(text, (int(size[1]), int(size[0]))),
    )


def _damaged_header(path: Path) -> _Header | None:
    """GDCM reads neither reports nor truncated slices. Only the latter are of a series, and a volume without them would be wrong."""
    try:
        import pydicom
    except ImportError:
        return None
    try:
        data = pydicom.dcmread(path, stop_before_pixels=True)
    except (OSError, EOFError, pydicom.errors.InvalidDicomError, ValueError):
        return None
    if "Rows" not in data or "SeriesInstanceUID" not in data or str(data.get("Modality", "")) in _NOT_IMAGES:
        return None
    identity, description, modality = (str(data.get(name, "")) for name in ("SOPInstanceUID", "SeriesDescription", "Modality"))
    return _Header(str(path), str(data.SeriesInstanceUID), identity, description, modality, "", 1, 1, None, is_damaged=True)


def _plane(text: Any, size: tuple[int, int]) -> Plane | None:
    position, orientation, spacing = _numbers(text("0020|0032"), 3), _numbers(text("0020|0037"), 6), _numbers(text("0028|0030"), 2)
    if not position or not orientation or not spacing:
        return None
    thickness = _numbers(text("0018|0088"), 1) or _numbers(text("0018|0050"), 1) or (1.0,)
    return Plane(position, orientation, spacing, size, text("0008|0018"), abs(thickness[0]) or 1.0)


def _numbers(text: str, count: int) -> tuple[float, ...]:
    try:
        values = tuple(float(part) for part in text.split("\\"))
    except ValueError:
        return ()
    return values if len(values) == count else ()


def _read_slices(headers: list[_Header], source: str) -> tuple[np.ndarray, Stack, tuple[str, ...]]:
    if any(h.frames > 1 for h in headers):
        raise InputError(f"The series in '{source}' has {len(headers)} files, some with several frames; give one of the files.")
    _refuse_colour(headers, source)
    without = sum(h.plane is None for h in headers)
    if without:
        raise InputError(
            f"{without} of {len(headers)} images in '{source}' do not state where they lie in the patient (a radiograph or a scan of a"
            " document?); give a CT, MR or PET series."
        )
    stack = stack_planes([h.plane for h in headers if h.plane is not None], source)
    files = tuple(headers[n].path for n in stack.order)
    array: np.ndarray | None = None
    for k, name in enumerate(files):
        pixels = _narrow(_pixels(name)[0])
        if array is None:
            array = np.empty((len(files), *pixels.shape), dtype=pixels.dtype)
        wanted = _common(array.dtype, pixels.dtype)
        if wanted != array.dtype:
            array = array.astype(wanted)
        array[k] = pixels
    assert array is not None
    return array, stack, files


def _read_frames(header: _Header, source: str) -> tuple[np.ndarray, Stack, tuple[str, ...]]:
    """A multi-frame object: pixels from GDCM, places of the frames from their functional groups."""
    _refuse_colour([header], source)
    try:
        import pydicom
    except ImportError as error:
        raise InputError(f"'{header.path}' is a multi-frame DICOM file, which needs the package pydicom; install it with: pip install pydicom.") from error
    data = pydicom.dcmread(header.path, stop_before_pixels=True)
    stack = stack_planes(frame_planes(data, header.path), source)
    rescales = frame_rescales(data)
    pixels = _narrow(_pixels(header.path)) if len(set(rescales)) == 1 else rescaled_frames(header.path, rescales)
    return np.ascontiguousarray(pixels[stack.order]), stack, (header.path,)


def _refuse_colour(headers: list[_Header], source: str) -> None:
    if headers[0].samples != 1:
        raise InputError(f"'{source}' is a colour image with {headers[0].samples} values per pixel; give a CT, MR or PET series.")


def _pixels(path: str) -> np.ndarray:
    """(frames, rows, columns) with rescale slope and intercept applied, each file with its own."""
    with quiet_itk() as sitk:
        reader = sitk.ImageFileReader()
        reader.SetImageIO("GDCMImageIO")
        reader.SetFileName(path)
        try:
            return np.asarray(sitk.GetArrayFromImage(reader.Execute()))
        except RuntimeError as error:
            raise InputError(f"The pixels of '{path}' cannot be read: the file is damaged or truncated; fetch the series again.") from error


def _narrow(pixels: np.ndarray) -> np.ndarray:
    """GDCM widens to 32-bit integers and to doubles; 16-bit integers where they hold all values, and floats, need half."""
    if pixels.dtype.kind == "f":
        return pixels.astype(np.float32)  # 16-bit values times a slope: the relative error of 6e-8 is below one step
    if pixels.dtype.itemsize >= 2 and pixels.dtype != np.int16 and pixels.min() >= -32768 and pixels.max() <= 32767:
        return pixels.astype(np.int16)
    return pixels


def _common(one: np.dtype, other: np.dtype) -> np.dtype:
    wanted = np.promote_types(one, other)
    return np.dtype(np.float32) if wanted.kind == "f" else wanted
