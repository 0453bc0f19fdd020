"""Small readers and writers that stand in for modules of the engine that are not there yet. To be removed with them."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

import numpy as np
import SimpleITK as sitk

from RefSAM3DLib.compare import geometry_of, to_image
from RefSAM3DLib.errors import InputError
from RefSAM3DLib.types import Modality, Volume


def install() -> None:
    if "RefSAM3DLib.volume_io" not in sys.modules and importlib.util.find_spec("RefSAM3DLib.volume_io") is None:
        module = ModuleType("RefSAM3DLib.volume_io")
        module.load_volume, module.list_series = load_volume, list_series
        sys.modules["RefSAM3DLib.volume_io"] = module
    if "RefSAM3DLib.segmentation_io" not in sys.modules and importlib.util.find_spec("RefSAM3DLib.segmentation_io") is None:
        module = ModuleType("RefSAM3DLib.segmentation_io")
        module.write_segmentation, module.read_segmentation = write_segmentation, read_segmentation
        sys.modules["RefSAM3DLib.segmentation_io"] = module


def load_volume(path, series=None, modality=None):
    try:
        if series:
            names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(path), series)
            image = sitk.ReadImage(names)
        else:
            names, image = (), sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise InputError(f"'{path}' cannot be read.") from error
    if image.GetDimension() != 3:
        raise InputError(f"'{path}' has {image.GetDimension()} dimensions; give a 3D image.")
    return Volume(sitk.GetArrayFromImage(image), geometry_of(image), Modality.CT, "inspection", str(path), tuple(names))


def list_series(folder):
    return list(sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder)))


def write_segmentation(path, results, volume, engine_info, overwrite=False):
    from RefSAM3DLib.atomic import write_aside

    with write_aside(path, overwrite=overwrite) as aside:
        if str(path).endswith(".dcm"):
            aside.write_bytes(b"stand-in")
            return
        stack = np.stack([r.mask for r in results], axis=-1).astype(np.uint8)
        image = sitk.JoinSeries([to_image(np.ascontiguousarray(stack[..., n]), volume.geometry) for n in range(stack.shape[-1])])
        image.SetMetaData("names", "|".join(r.resolved or r.prompt for r in results))
        sitk.WriteImage(image, str(aside), useCompression=True)


def read_segmentation(path):
    image = sitk.ReadImage(str(path))
    names = image.GetMetaData("names").split("|")
    first = image[..., 0]
    return [(name, sitk.GetArrayFromImage(image[..., n]) > 0, {}) for n, name in enumerate(names)], geometry_of(first)
