"""From a file or folder to a :class:`~RefSAM3DLib.types.Volume`, or a sentence that says why not.

Importing this module loads neither SimpleITK nor torch.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .dicom_series import SeriesInfo, is_dicom_file, list_series, read_series
from .errors import InputError
from .geometry import Geometry
from .image_files import ENDINGS, check_name, read_image_file
from .nifti_header import non_finite
from .types import Modality, Volume

__all__ = ["SeriesInfo", "decide_modality", "is_dicom_input", "list_series", "load_volume"]

#: Names of modalities in file headers: DICOM's, MetaImage's, and what people write.
_NAMES = {
    "ct": Modality.CT,
    "met_mod_ct": Modality.CT,
    "mr": Modality.MR,
    "mri": Modality.MR,
    "met_mod_mr": Modality.MR,
    "pt": Modality.PET,
    "pet": Modality.PET,
}
#: Air and lung in HU. Fat ends at -150, and no other modality has such values in more than a few voxels.
AIR_HU, MIN_AIR_SHARE = -200.0, 1e-3
#: What lies below is padding outside the image (-32768 in images of every kind), no air: scanners write that at -1024, or -3024 beside their circle.
PADDING_HU = -4096.0
#: A CT crop without air: fat among its darkest hundredth, and soft tissue or fat in the middle.
FAT_HU, MAX_MEDIAN_HU = -50.0, 150.0
#: Voxels looked at; more would not change a share of 0.1 %.
_SAMPLE = 1 << 20


def load_volume(path: str | Path, series: str | None = None, modality: Modality | str | None = None) -> Volume:
    """Load NRRD, NIfTI, MetaImage, or a DICOM series (its folder, or any file of it).

    Args:
        series: series instance UID where a folder holds several.
        modality: overrides what the file or its voxels say.

    Returns:
        the volume in its native dtype; ``metadata["warning"]`` holds a sentence where something is in doubt.

    Raises:
        InputError: one sentence with the value and the next step.
    """
    path = Path(path)
    check_name(path)
    chosen = _parse_modality(modality)
    if not path.exists():
        raise InputError(f"The input '{path}' does not exist; check its name.")
    files: tuple[str, ...] = ()
    try:
        if is_dicom_input(path):
            array, geometry, files, metadata = read_series(path, series)
        else:
            array, geometry, metadata = _read_file(path, series)
        array = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
        _check_voxels(array, str(path))
    except MemoryError as error:
        raise InputError(f"'{path}' does not fit into memory; crop or resample it, or close other programs.") from error
    except PermissionError as error:
        raise InputError(f"'{path}' may not be read by this account; change its permissions or copy it.") from error
    volume = Volume(array, geometry, chosen, "user" if chosen else "", str(path), files, metadata)
    volume.modality, volume.modality_source = decide_modality(volume)
    return volume


def is_dicom_input(path: Path) -> bool:
    """True for a folder and for a DICOM file."""
    return path.is_dir() or (not path.name.lower().endswith(ENDINGS) and is_dicom_file(path))


def decide_modality(volume: Volume) -> tuple[Modality, str]:
    """Modality of a volume and who says so: "user", "dicom", "file" or "inspection".

    Inspection knows CT by its Hounsfield units: at least 0.1 % of the voxels at or below -200 (air, lung), or a crop without air
    whose 1st percentile is at most -50 (fat) while its median lies within 150 of water. Everything else is called MR: the voxels of
    PET cannot be told from those of MR, so PET without a header must be named by the user. Padding far below air says nothing.
    """
    if volume.modality is not None:
        return volume.modality, volume.modality_source or "user"
    stated = _NAMES.get(str(volume.metadata.get("modality", "")).strip().lower())
    if stated is not None:
        return stated, "dicom" if volume.dicom_files else "file"
    flat = volume.array.reshape(-1)
    sample = flat[:: max(1, flat.size // _SAMPLE)].astype(np.float32)
    sample = sample[sample >= PADDING_HU]
    if not sample.size:
        return Modality.MR, "inspection"
    if (sample <= AIR_HU).mean() >= MIN_AIR_SHARE:
        return Modality.CT, "inspection"
    dark, middle = np.percentile(sample, (1, 50))
    return (Modality.CT if dark <= FAT_HU and abs(middle) <= MAX_MEDIAN_HU else Modality.MR), "inspection"


def _parse_modality(modality: Modality | str | None) -> Modality | None:
    if modality is None or modality == "":
        return None
    try:
        return Modality(str(getattr(modality, "value", modality)).lower())
    except ValueError as error:
        raise InputError(f"The modality '{modality}' is unknown; use {', '.join(m.value for m in Modality)}.") from error


def _read_file(path: Path, series: str | None) -> tuple[np.ndarray, Geometry, dict[str, str]]:
    name = path.name.lower()
    if series:
        raise InputError(f"'{path}' is no DICOM folder, so it has no series {series}; leave --series out.")
    if name.endswith((".seg.nrrd", ".seg.nhdr")):
        raise InputError(f"'{path}' is a segmentation; give the image that it was drawn on.")
    if not name.endswith(ENDINGS):
        raise InputError(f"'{path}' has an ending that is not read; give {', '.join(ENDINGS)}, or a folder with a DICOM series.")
    if path.stat().st_size == 0:
        raise InputError(f"'{path}' is empty (0 bytes); copy it again from its source.")
    return read_image_file(path)


def _check_voxels(array: np.ndarray, source: str) -> None:
    """Refuse what no window or percentile can make an image of, slice by slice to spare memory."""
    if array.dtype.kind == "f":
        bad = sum(int(plane.size - np.count_nonzero(np.isfinite(plane))) for plane in array)
        if bad:
            raise InputError(non_finite(source, bad, array.size))
    first = array.reshape(-1)[0]
    if all((plane == first).all() for plane in array):
        raise InputError(f"Every voxel of '{source}' is {first:g}, so there is nothing to see; check the export.")
