"""DICOM series: which ones a folder holds, and one of them as a volume. Read through SimpleITK (GDCM)."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .dicom_frames import frame_planes, frame_rescales, rescaled_frames, states_frames, undecodable
from .errors import InputError
from .image_files import itk_name, quiet_itk, why_not_found
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
    is_multiframe: bool = False
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
        array (D, H, W), grid, files in slice order (multi-frame files in the order of their first slice), and text fields.

    Raises:
        InputError: none or several series without ``uid``, or slices that make no regular grid.
    """
    path = Path(path)
    own = None
    if path.is_file():
        own = _read_header(path)
        if own is None or own.is_damaged:
            if own is not None and (reason := _why(path)):
                raise InputError(reason)
            raise InputError(f"'{path}' is damaged or not a DICOM image that can be read; give the folder of the series or another file.")
        if uid and uid != own.uid:
            raise InputError(f"'{path}' belongs to series {own.uid}, not to {uid}; leave --series out or give the folder.")
    found = _series_of(path if own is None else path.parent, nested=own is None)
    headers = _choose(found, own.uid if own else uid, path)
    damaged = [h.path for h in headers if h.is_damaged]
    if damaged:
        if reason := _why(damaged[0]):
            raise InputError(reason)
        raise InputError(f"'{damaged[0]}' is a damaged or truncated slice ({len(damaged)} of {len(headers)}); fetch the series again.")
    source = str(path)
    _refuse_mixture(headers, source)
    array, stack, files = _read_frames(headers, source) if headers[0].is_multiframe else _read_slices(headers, source)
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
        header = _known_header(path)
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
            if name.upper() != "DICOMDIR":
                yield Path(root, name)


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


def _known_header(path: Path) -> _Header | None:
    """The header of a file, None of what is no DICOM image; read once a process while it has one size and date, since each series of a flat folder
    asks for all of them."""
    try:
        about = os.stat(path)
    except OSError:
        return None  # gone since the folder was listed
    return _header_of(str(path), about.st_size, about.st_mtime_ns)


@functools.lru_cache(maxsize=MAX_FILES)
def _header_of(path: str, size: int, date: int) -> _Header | None:
    return _read_header(Path(path)) if is_dicom_file(Path(path)) else None


def _read_header(path: Path) -> _Header | None:
    """None for what is no image: reports, plans, segmentations, files that GDCM cannot read."""
    with quiet_itk() as sitk:
        reader = sitk.ImageFileReader()
        reader.SetImageIO("GDCMImageIO")
        reader.SetFileName(itk_name(path))
        try:
            reader.ReadImageInformation()
        except RuntimeError:
            return _damaged_header(path)

    def text(tag: str) -> str:
        return str(reader.GetMetaData(tag)).strip(" \0") if reader.HasMetaDataKey(tag) else ""

    if text("0008|0060") in _NOT_IMAGES or not text("0020|000e"):
        return None
    size = reader.GetSize()
    plane = _plane(text, (int(size[1]), int(size[0])))
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
        plane=plane,
        is_multiframe=frames > 1 or (plane is None and bool(text("0028|0008")) and states_frames(path)),
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


def _refuse_mixture(headers: list[_Header], source: str) -> None:
    """One way of reading would lose the slices that are stored in the other."""
    several = [h.path for h in headers if h.is_multiframe]
    single = [h.path for h in headers if not h.is_multiframe]
    if several and single:
        raise InputError(
            f"The series in '{source}' has multi-frame files ('{several[0]}') beside single slices ('{single[0]}'); move one kind to another folder."
        )


def _read_slices(headers: list[_Header], source: str) -> tuple[np.ndarray, Stack, tuple[str, ...]]:
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
        array = _put(array, len(files), [k], _narrow(_pixels(name)))
    assert array is not None
    return array, stack, files


def _read_frames(headers: list[_Header], source: str) -> tuple[np.ndarray, Stack, tuple[str, ...]]:
    """Multi-frame objects: pixels from GDCM, places of the frames from their functional groups. The frames of several files make one stack."""
    _refuse_colour(headers, source)
    try:
        import pydicom
    except ImportError as error:
        raise InputError(f"'{headers[0].path}' is a multi-frame DICOM file, which needs the package pydicom; install it with: pip install pydicom.") from error
    planes: list[Plane] = []
    rescales: dict[str, list[tuple[float, float]]] = {}
    places: list[tuple[str, int]] = []  # file and frame of each plane
    for header in headers:
        data = pydicom.dcmread(header.path, stop_before_pixels=True)
        found = frame_planes(data, header.path)
        rescales[header.path] = frame_rescales(data)
        places += [(header.path, n) for n in range(len(found))]
        planes += found
    try:
        stack = stack_planes(planes, source)
    except InputError as error:
        if len(headers) == 1:
            raise
        raise InputError(
            f"{error} The series has {len(headers)} multi-frame files ('{headers[0].path}', '{headers[1].path}'), which were read as one volume;"
            " where each is one of its own, move it to another folder."
        ) from error
    files = tuple(dict.fromkeys(places[n][0] for n in stack.order))
    array: np.ndarray | None = None
    for name in files:
        slots = [k for k, n in enumerate(stack.order) if places[n][0] == name]
        pixels = _narrow(_pixels(name)) if len(set(rescales[name])) == 1 else rescaled_frames(name, rescales[name])
        array = _put(array, len(stack.order), slots, pixels[[places[stack.order[k]][1] for k in slots]])
    assert array is not None
    return array, stack, files


def _put(array: np.ndarray | None, count: int, slots: list[int], pixels: np.ndarray) -> np.ndarray:
    """``array`` (made here where it is None) of ``count`` slices with ``pixels`` in ``slots``, in a type that holds all of them."""
    if array is None:
        array = np.empty((count, *pixels.shape[1:]), dtype=pixels.dtype)
    array = array.astype(_common(array.dtype, pixels.dtype), copy=False)
    array[slots] = pixels
    return array


def _refuse_colour(headers: list[_Header], source: str) -> None:
    samples = max(h.samples for h in headers)
    if samples != 1:
        raise InputError(f"'{source}' is a colour image with {samples} values per pixel; give a CT, MR or PET series.")


def _pixels(path: str) -> np.ndarray:
    """(frames, rows, columns) with rescale slope and intercept applied, each file with its own."""
    with quiet_itk() as sitk:
        reader = sitk.ImageFileReader()
        reader.SetImageIO("GDCMImageIO")
        reader.SetFileName(itk_name(path))
        try:
            return np.asarray(sitk.GetArrayFromImage(reader.Execute()))
        except RuntimeError as error:
            damaged = f"The pixels of '{path}' cannot be read: the file is damaged or truncated; fetch the series again."
            raise InputError(_why(path) or damaged) from error


def _why(path: str | Path) -> str:
    """Why GDCM cannot read a file that need not be damaged; else an empty text."""
    if compression := undecodable(path):
        return f"The pixels of '{path}' are compressed in a way that cannot be decoded ({compression}); export the series uncompressed."
    return why_not_found(path)


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
