"""NRRD, NIfTI and MetaImage files through SimpleITK: header first, so that a hopeless file costs no memory."""

from __future__ import annotations

import math
import re
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import InputError
from .geometry import Geometry
from .nifti_header import MAX_COSINE, NiftiHeader, check_matrices, check_voxels, read_nifti_header

if TYPE_CHECKING:
    from collections.abc import Iterator

ENDINGS = (".nrrd", ".nhdr", ".nii.gz", ".nii", ".mha", ".mhd")
_METAIMAGE_NUMBERS = ("offset", "position", "origin", "elementspacing", "transformmatrix", "rotation", "orientation")
#: Header fields that tell the modality; no other text is kept, since it may name the patient.
_MODALITY_KEYS = ("Modality", "modality", "DICOM.Modality", "0008|0060")


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


def read_image_file(path: Path) -> tuple[np.ndarray, Geometry, dict[str, str]]:
    """Array (D, H, W), grid and text fields; ``metadata["warning"]`` is a sentence where the grid is in doubt.

    Raises:
        InputError: unreadable, truncated, not a scalar 3D image of real numbers, or a grid that cannot be kept.
    """
    warnings: list[str] = []
    nifti = read_nifti_header(path) if path.name.lower().endswith((".nii", ".nii.gz")) else None
    if nifti:
        _check_nifti(path, nifti, warnings)
    elif path.name.lower().endswith((".mha", ".mhd")):
        _check_metaimage(path)
    with quiet_itk() as sitk:
        reader = sitk.ImageFileReader()
        reader.SetFileName(str(path))
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
    if path.name.lower().endswith((".nrrd", ".nhdr")) and not image.HasMetaDataKey("NRRD_space"):
        warnings.append(_no_orientation(path))
    if warnings:
        metadata["warning"] = " ".join(warnings)
    return array, geometry, metadata


def _no_orientation(path: Path) -> str:
    return f"'{path.name}' does not state its orientation: left and right may be exchanged, check them or export the image again."


def _check_nifti(path: Path, header: NiftiHeader, warnings: list[str]) -> None:
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
        warnings.append(
            f"The sform matrix of '{path.name}' is sheared by {tilt:.3g} degrees and was not used; its qform matrix (the scanner's) was."
        )
    if header.qform_code <= 0 and header.sform_code <= 0:
        warnings.append(_no_orientation(path))


def _check_metaimage(path: Path) -> None:
    """ITK reads "nan" as 0."""
    with open(path, "rb") as handle:
        text = handle.read(8192).partition(b"ElementDataFile")[0].decode("latin-1").lower()
    for line in text.splitlines():
        key, _, value = line.partition("=")
        if key.strip() in _METAIMAGE_NUMBERS and any(part.strip("+-").startswith(("nan", "inf")) for part in value.split()):
            raise InputError(f"'{path}' has the non-finite value '{line.strip()}'; re-export the image with a valid geometry.")


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
    if "Unable to determine ImageIO" in text:
        return f"'{path}' is not what its ending says, or its header is damaged; export the image again."
    beside = ", or the data file that it names is not beside it" if path.suffix.lower() in (".mhd", ".nhdr") else ""
    return f"'{path}' cannot be read: it is damaged or truncated{beside}; copy it again from its source or export it again."
