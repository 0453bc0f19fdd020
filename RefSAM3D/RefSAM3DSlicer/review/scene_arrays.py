"""Nodes of the scene to arrays and files, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _

from RefSAM3DLib.errors import InputError
from RefSAM3DLib.geometry import Geometry
from RefSAM3DLib.places import box_of
from RefSAM3DLib.provenance import AUTOMATIC, MODEL_TAGS

from ..edit_watch import start as editWatch
from ..edit_watch import tagOf
from ..labelmaps import BINARY_LABELMAP
from ..provenance import clean
from ..volume_bridge import ijkToWorld, shapeOf


def geometryOf(volumeNode: Any) -> Geometry:
    """The volume's grid in the world, parent transforms included."""
    return Geometry(shapeOf(volumeNode), ijkToWorld(volumeNode))


def isOnGrid(volumeNode: Any, geometry: Geometry) -> bool:
    """True if the volume's voxels are those of a mask: to a hundredth of a voxel, since some formats store coarse numbers."""
    if volumeNode is None or volumeNode.GetImageData() is None or shapeOf(volumeNode) != tuple(geometry.shape_dhw):
        return False
    k, j, i = geometry.shape_dhw
    corners = np.array([[x, y, z, 1.0] for x in (0, i) for y in (0, j) for z in (0, k)]).T
    apart = (ijkToWorld(volumeNode) - geometry.ijk_to_ras) @ corners
    return bool(np.abs(apart).max() < 0.01 * min(geometry.spacing_xyz_mm))


def addVolumeNode(array: np.ndarray, geometry: Geometry, name: str) -> Any:
    """A volume node of an array (k, j, i)."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
    node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(np.asarray(geometry.ijk_to_ras, float)))
    slicer.util.updateVolumeFromArray(node, array)
    node.CreateDefaultDisplayNodes()
    return node


def segmentArray(segmentationNode: Any, segmentID: str, volumeNode: Any) -> np.ndarray:
    """Bool voxels of a segment on the volume's grid.

    Raises:
        InputError: the segment was removed.
    """
    segment = segmentationNode.GetSegmentation().GetSegment(segmentID)
    if segment is None:
        raise InputError(_("The segment under review was removed; choose the item again."))
    if isEmpty(segment):
        return np.zeros(shapeOf(volumeNode), bool)
    return slicer.util.arrayFromSegmentBinaryLabelmap(segmentationNode, segmentID, volumeNode) != 0


def checkVoxels(segmentationNode: Any) -> None:
    """Refuse a segmentation whose segments have no voxels in the scene: surfaces or contours would be taken for empty.

    Raises:
        InputError: it says what the segmentation is made of.
    """
    segmentation = segmentationNode.GetSegmentation()
    hasVoxels = segmentation.GetSourceRepresentationName() == BINARY_LABELMAP or segmentation.ContainsRepresentation(BINARY_LABELMAP)
    if segmentation.GetNumberOfSegments() and not hasVoxels:
        raise InputError(
            _("The segmentation '{name}' is made of {what}; convert it to a binary labelmap in the module Segmentations first.").format(
                name=segmentationNode.GetName(), what=segmentation.GetSourceRepresentationName().lower()
            )
        )


def isEmpty(segment: Any) -> bool:
    """True without a labelmap or with one that has no extent."""
    image = segment.GetRepresentation(BINARY_LABELMAP)
    return image is None or image.IsEmpty() or image.GetPointData().GetScalars() is None


def tagsOf(item: Any, isMachines: bool) -> dict[str, str]:
    """Tags of an item's mask in the scene."""
    from RefSAM3DLib.provenance import provenance_tags

    tags = provenance_tags(
        prompt=item.prompt,
        resolved=item.structure,
        verdict=item.verdict,
        presence=item.presence,
        confidence=item.confidence,
        engine_info=item.model,
        assisted=item.assisted or not isMachines,
    )
    return {key: clean(value) for key, value in tags.items()}


def readProbability(path: Path) -> np.ndarray:
    """(k, j, i), 0 to 1, of a batch's probability volume."""
    from RefSAM3DLib.image_files import read_image_file

    array = read_image_file(path)[0]
    return array / np.float32(255) if array.dtype.kind in "iu" else array  # a batch keeps 0 to 255 in a byte


def exportCurrent(volumeNode: Any, segmentationNode: Any, folder: Path) -> tuple[Path, Path]:
    """Image and segmentation of the scene as files, both in the world's frame: a segmentation under its image's transform stays on it.

    Raises:
        InputError: the segmentation has no voxels on the image's grid.
    """
    from RefSAM3DLib.provenance import model_values
    from RefSAM3DLib.segmentation_io import write_segmentation
    from RefSAM3DLib.types import PromptResult, Verdict, Volume

    checkVoxels(segmentationNode)
    editWatch().lookAtAll()  # an edit of the last moment counts
    geometry, results, tags = geometryOf(volumeNode), [], {}
    segmentation = segmentationNode.GetSegmentation()
    for index in range(segmentation.GetNumberOfSegments()):
        segmentID, segment = segmentation.GetNthSegmentID(index), segmentation.GetNthSegment(index)
        mask = segmentArray(segmentationNode, segmentID, volumeNode)
        if not mask.any():
            continue
        tags = {key: _tag(segment, f"RefSAM3D.{key}") for key in ("Prompt", "Verdict", "Presence", "Confidence", *MODEL_TAGS.values())}
        verdict = tags["Verdict"].lower()
        results.append(
            PromptResult(
                prompt=tags["Prompt"] or segment.GetName(),
                resolved=segment.GetName(),
                verdict=Verdict(verdict) if verdict in ("present", "uncertain") else Verdict.PRESENT,
                presence=_number(tags["Presence"]),
                confidence=_number(tags["Confidence"]),
                mask=mask,
                volume_ml=float(mask.sum()) * geometry.voxel_volume_ml,
                box=box_of(mask),
                elapsed_s=0.0,
                colour=tuple(round(255 * part) for part in segment.GetColor()),
                details={
                    "assisted": tagOf(segmentationNode, segmentID) != AUTOMATIC,
                    "reviewer": _tag(segment, "RefSAM3D.Reviewer"),
                    "model": model_values({key: tags[tag] for key, tag in MODEL_TAGS.items()}),
                },
            )
        )
    if not results:
        raise InputError(_("The segmentation '{name}' has nothing inside the image; choose another one.").format(name=segmentationNode.GetName()))
    folder.mkdir(parents=True, exist_ok=True)
    image, path = folder / "image.nrrd", folder / "segmentation.seg.nrrd"
    clone = slicer.vtkMRMLScalarVolumeNode()
    clone.SetAndObserveImageData(volumeNode.GetImageData())
    clone.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(np.asarray(geometry.ijk_to_ras, float)))
    storage = slicer.vtkMRMLVolumeArchetypeStorageNode()
    storage.SetFileName(str(image))
    storage.SetUseCompression(True)
    if not storage.WriteData(clone):
        raise InputError(_("The image could not be written to '{path}'; choose another folder.").format(path=image))
    volume = Volume(slicer.util.arrayFromVolume(volumeNode), geometry, source=volumeNode.GetName())
    write_segmentation(path, results, volume, {}, overwrite=True)
    return image, path


def _tag(segment: Any, name: str) -> str:
    value = vtk.reference("")
    return str(value) if segment.GetTag(name, value) else ""


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")
