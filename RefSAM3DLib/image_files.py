"""NRRD, NIfTI and MetaImage files through SimpleITK: header first, so that a hopeless file costs no memory."""

from __future__ import annotations

import math
import re
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .errors import InputError
from .geometry import Geometry
from .nifti_header import MAX_COSINE, NiftiHeader, check_matrices, check_voxels, read_nifti_header
from .types import SIDE_UNSURE

if TYPE_CHECKING:
    from collections.abc import Iterator

ENDINGS = (".nrrd", ".nhdr", ".nii.gz", ".nii", ".mha", ".mhd")
_METAIMAGE_NUMBERS = ("offset", "position", "origin", "elementspacing", "transformmatrix", "rotation", "orientation")
#: As ITK reads them: a key in other letters ("elementspacing") means nothing to it.
_METAIMAGE_DIRECTIONS, _METAIMAGE_SPACINGS = {"TransformMatrix", "Rotation", "Orientation"}, {"ElementSpacing", "ElementSize"}
#: NRRD spaces that ITK turns into its own (LPS). It takes all others for LPS as they are: a scanner's axes say nothing about the patient, and
#: "RAST", with time, it leaves mirrored.
_NRRD_SPACES = {
    "ras", "las", "lps", "lpst", "right-anterior-superior", "left-anterior-superior", "left-posterior-superior", "left-posterior-superior-time",
}  # fmt: skip
#: Longest text header that is looked at; real ones have some hundred bytes, with DICOM fields some thousand.
_HEADER_BYTES = 1 << 18
#: Header fields that tell the modality; no other text is kept, since it may name the patient.
_MODALITY_KEYS = ("Modality", "modality", "DICOM.Modality", "0008|0060")

_IS_WINDOWS = sys.platform == "win32"


class _Doubts(NamedTuple):
    """Sentences about a file: those by which left and right may be exchanged, and others."""

    sides: list[str]
    others: list[str]


@contextmanager
def quiet_itk() -> Iterator[Any]:
    """Yield SimpleITK without ITK's own lines on stderr: what matters becomes a sentence of ours."""
    import SimpleITK as sitk

    before = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield sitk
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(before)


def check_name(path: Path) -> None:
    """Refuse a name that is no text (bytes of another encoding): SimpleITK ends the whole process over it.

    Raises:
        InputError: with the faulty bytes as numbers.
    """
    shown = str(path).encode("utf-8", "backslashreplace").decode()
    if shown != str(path):
        raise InputError(f"The name '{shown}' is not written in UTF-8; rename the file or its folder.")


def itk_name(path: str | Path) -> str:
    """The name by which SimpleITK finds a file. On Windows it finds none whose path has letters beyond ASCII, so the folder's short name stands in.

    The file keeps its name: its short one would lose the ending by which SimpleITK knows the format.
    """
    path = Path(path)
    if _IS_WINDOWS and not str(path).isascii() and path.name.isascii():
        folder = _short_name(str(path.parent.absolute()))
        if folder and folder.isascii():
            return str(Path(folder, path.name))
    return str(path)


def _short_name(path: str) -> str:
    """A path in Windows' 8.3 form ("C:\\BCHER~1"); empty, or with its long names, where the drive has no such form."""
    import ctypes

    try:
        buffer = ctypes.create_unicode_buffer(1 << 15)
        count = ctypes.windll.kernel32.GetShortPathNameW(path, buffer, len(buffer))  # type: ignore[attr-defined,unused-ignore]
    except (AttributeError, OSError):
        return ""
    return buffer.value if 0 < count < len(buffer) else ""


def why_not_found(path: str | Path) -> str:
    """The sentence where it may be the name of a file that SimpleITK cannot read, and not the file; else an empty text."""
    if not _IS_WINDOWS or itk_name(path).isascii():
        return ""
    letters = ", ".join(f"'{letter}'" for letter in dict.fromkeys(str(path)) if not letter.isascii())
    return (
        f"'{path}' cannot be read: on Windows, files are often not found where their path has other letters than A to Z ({letters});"
        " copy it to a folder such as C:\\images under a name without them. If that does not help, export it again."
    )


def read_image_file(path: Path) -> tuple[np.ndarray, Geometry, dict[str, str]]:
    """Array (D, H, W), grid and text fields; ``metadata["warning"]`` is a sentence where the grid is in doubt, and ``SIDE_UNSURE`` is set where
    that is about left and right.

    Raises:
        InputError: unreadable, truncated, not a scalar 3D image of real numbers, or a grid that cannot be kept.
    """
    doubts = _Doubts([], [])
    nifti = read_nifti_header(path) if path.name.lower().endswith((".nii", ".nii.gz")) else None
    if nifti:
        _check_nifti(path, nifti, doubts)
    elif path.name.lower().endswith((".mha", ".mhd")):
        _check_metaimage(path, doubts)
    else:
        _check_nrrd(path, doubts)
    with quiet_itk() as sitk:
        reader = sitk.ImageFileReader()
        reader.SetFileName(itk_name(path))
        try:
            reader.ReadImageInformation()
        except RuntimeError as error:
            raise InputError(_why(path, error)) from error
        _check_header(path, reader, sitk)
        try:
            image = reader.Execute()
        except RuntimeError as error:
            raise InputError(_why(path, error)) from error
        array = sitk.GetArrayFromImage(image)
    shape = (array.shape[0], array.shape[1], array.shape[2])
    geometry = Geometry.from_lps(shape, image.GetOrigin(), image.GetSpacing(), np.array(image.GetDirection()))
    metadata = _metadata(image)
    if nifti and nifti.sform_code > 0 >= nifti.qform_code and not np.allclose(geometry.ijk_to_ras[:3], nifti.sform, rtol=1e-3, atol=1e-2):
        raise InputError(f"The spacing and the sform matrix of '{path}' contradict each other; re-export the image with a valid geometry.")
    if nifti and nifti.is_contradictory:  # ITK takes the one or the other, as their codes are, without a word
        used = nifti.matrix_used(geometry.directions)
        doubts.sides.append(f"The two matrices of '{path.name}' disagree about orientation; the {used} was used: check left and right.")
    if any(doubts):
        metadata["warning"] = " ".join([*doubts.sides, *doubts.others])
    if doubts.sides:
        metadata[SIDE_UNSURE] = "yes"
    return array, geometry, metadata


def _no_orientation(path: Path) -> str:
    return f"'{path.name}' does not state its orientation: left and right may be exchanged, check them or export the image again."


def _no_spacing(path: Path) -> str:
    return f"'{path.name}' does not state its voxel size: 1 mm was taken, so lengths and volumes may be wrong; export the image again."


def _check_nifti(path: Path, header: NiftiHeader, doubts: _Doubts) -> None:
    if not header.dims or min(header.dims) < 1:
        raise InputError(f"'{path}' has the size {' x '.join(map(str, header.dims)) or '0'}; export an image with voxels.")
    check_matrices(path, header)
    check_voxels(path, header)
    if header.sform_code > 0 and header.sform_cosine > MAX_COSINE:
        tilt = math.degrees(math.asin(min(header.sform_cosine, 1.0)))
        if header.qform_code <= 0:
            raise InputError(
                f"The sform matrix of '{path}' is sheared by {tilt:.3g} degrees, which a NIfTI reader cannot keep;"
                " resample the image to a straight grid, or save it as .nrrd, which keeps the shear."
            )
        doubts.others.append(
            f"The sform matrix of '{path.name}' is sheared by {tilt:.3g} degrees and was not used; its qform matrix (the scanner's) was."
        )
    if header.qform_code <= 0 and header.sform_code <= 0:
        doubts.sides.append(_no_orientation(path))


def _check_metaimage(path: Path, doubts: _Doubts) -> None:
    """ITK reads "nan" as 0, and takes its own axes and 1 mm where a header has none."""
    with open(path, "rb") as handle:
        text = handle.read(_HEADER_BYTES).partition(b"ElementDataFile")[0].decode("latin-1")
    keys = set()
    for line in text.splitlines():
        key, _, value = line.replace(":", "=", 1).partition("=")
        keys.add(key.strip())
        if key.strip().lower() in _METAIMAGE_NUMBERS and any(part.strip("+-").startswith(("nan", "inf")) for part in value.lower().split()):
            raise InputError(f"'{path}' has the non-finite value '{line.strip()}'; re-export the image with a valid geometry.")
    if not keys & _METAIMAGE_DIRECTIONS:
        doubts.sides.append(_no_orientation(path))
    if not keys & _METAIMAGE_SPACINGS:
        doubts.others.append(_no_spacing(path))


def _check_nrrd(path: Path, doubts: _Doubts) -> None:
    """ITK takes its own axes and 1 mm where a header has none, and any space that it does not know for its own."""
    with open(path, "rb") as handle:
        text = handle.read(_HEADER_BYTES).replace(b"\r\n", b"\n").partition(b"\n\n")[0].decode("latin-1").lower()
    fields = {name.strip(): value.strip() for name, mark, value in (line.partition(":") for line in text.splitlines()) if mark}
    has_directions = "(" in fields.get("space directions", "")  # else "none" for each axis
    space = fields.get("space", "")
    if not space or not has_directions:
        doubts.sides.append(_no_orientation(path))
    elif space not in _NRRD_SPACES:
        doubts.sides.append(
            f"'{path.name}' states its orientation in the space {space}, which was read as left-posterior-superior: left and right may be exchanged,"
            " check them or export the image again."
        )
    if not has_directions and not re.search("[0-9]", fields.get("spacings", "")):
        doubts.others.append(_no_spacing(path))


def _check_header(path: Path, reader: Any, sitk: Any) -> None:
    size = tuple(int(n) for n in reader.GetSize())
    shown = " x ".join(map(str, size))
    kind = sitk.GetPixelIDValueAsString(reader.GetPixelID())
    while len(size) > 3 and size[-1] == 1:
        size = size[:-1]
    if "complex" in kind:
        raise InputError(f"'{path}' has complex voxels; export the magnitude image.")
    if len(size) < 3:
        raise InputError(f"'{path}' is a 2D image of {shown} pixels; load a volume with three axes.")
    if len(size) > 3:
        raise InputError(f"'{path}' has {len(size)} axes ({shown}); export one 3D frame of the series.")
    if reader.GetNumberOfComponents() != 1 or "vector" in kind:
        count = reader.GetNumberOfComponents()
        raise InputError(f"'{path}' has {count} values per voxel (a colour, vector or time series image); export one scalar channel.")
    if min(size) < 1:
        raise InputError(f"'{path}' has the size {shown}; export an image with voxels.")
    if len(reader.GetSize()) > 3:
        reader.SetExtractSize([*size, *[0] * (len(reader.GetSize()) - 3)])


def _metadata(image: Any) -> dict[str, str]:
    for key in _MODALITY_KEYS:
        text = image.GetMetaData(key).strip() if image.HasMetaDataKey(key) else ""
        if text and text != "MET_MOD_UNKNOWN":
            return {"modality": text}
    return {}


def _why(path: Path, error: Exception) -> str:
    """ITK's many lines as one sentence.

    >>> _why(Path("a.mha"), RuntimeError("x\\nITK ERROR: Image(0x1): Bad direction, determinant is 0. Refusing"))
    "The direction matrix of 'a.mha' is singular (two axes point the same way); re-export the image with a valid geometry."
    """
    text = str(error)
    if "determinant is 0" in text:
        return f"The direction matrix of '{path}' is singular (two axes point the same way); re-export the image with a valid geometry."
    if "orthonormal" in text:
        return f"The axes of '{path}' are not at right angles, which its format cannot keep; save it as .nrrd or resample it."
    if re.search(r"alloc|memory", text, re.IGNORECASE):
        return f"'{path}' does not fit into memory; crop or resample it."
    if name := why_not_found(path):
        return name
    if "Unable to determine ImageIO" in text:
        return f"'{path}' is not what its ending says, or its header is damaged; export the image again."
    beside = ", or the data file that it names is not beside it" if path.suffix.lower() in (".mhd", ".nhdr") else ""
    return f"'{path}' cannot be read: it is damaged or truncated{beside}; copy it again from its source or export it again."
