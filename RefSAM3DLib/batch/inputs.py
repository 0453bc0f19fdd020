"""Files that a case is made from: those of its image, and those of the segmentation that it is compared with."""

from __future__ import annotations

from pathlib import Path

from ..errors import InputError
from .cases import Case
from .content_hash import detached_data, hash_files


def case_files(case: Case) -> list[Path]:
    """Files that the content hash of a case covers."""
    path = Path(case.image)
    if not path.exists():
        raise InputError(f"The image '{path}' is not there any more; put it back or take the case off the list.")
    if not path.is_dir() and not path.is_file():
        raise InputError(f"The image '{path}' is no file but a pipe or a device; copy its content into a file.")
    from ..volume_io import is_dicom_input, list_series

    if path.is_dir():
        names = [name for series in list_series(path) if case.series in ("", series.uid) for name in series.files]
        if not names:
            raise InputError(f"The DICOM series '{case.series}' is not in '{path}' any more; put it back or take the case off the list.")
        return [Path(name) for name in names]
    if is_dicom_input(path):
        return [path, *_rest_of_series(path)]
    return [path, *detached_data(path)]


def _rest_of_series(path: Path) -> list[Path]:
    """The other files beside a DICOM file that are of its series: they are read with it."""
    from ..image_files import check_name, itk_name, quiet_itk

    check_name(path)
    with quiet_itk() as sitk:
        reader = sitk.ImageFileReader()
        reader.SetImageIO("GDCMImageIO")
        reader.SetFileName(itk_name(path))
        try:
            reader.ReadImageInformation()
            uid = reader.GetMetaData("0020|000e").strip(" \0")
        except RuntimeError:
            return []  # reading the case says what is wrong with the file
        names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(Path(itk_name(path)).parent), uid)
    return [path.parent / Path(name).name for name in names if Path(name).name != path.name]


def reference_hash(case: Case) -> str:
    """Hash of the segmentation that a case is compared with, "" if there is none that can be read."""
    path = Path(case.segmentation)
    if not case.segmentation or not path.is_file():
        return ""
    try:
        return hash_files([path, *detached_data(path)])
    except (InputError, OSError):
        return ""
