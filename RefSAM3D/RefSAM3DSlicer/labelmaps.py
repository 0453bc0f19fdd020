"""Voxels of segments as ``vtkOrientedImageData``: made from boxes, moved between grids, looked into. Only boxes are touched."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import slicer
import vtk
from vtk.util import numpy_support

from .volume_bridge import Box, ijkToWorld

BINARY_LABELMAP = "Binary labelmap"
REFERENCE_GEOMETRY = "Reference image geometry"


def voxelsOf(image: Any) -> np.ndarray:
    """(k, j, i) view of an image's voxels."""
    e = image.GetExtent()
    return numpy_support.vtk_to_numpy(image.GetPointData().GetScalars()).reshape(e[5] - e[4] + 1, e[3] - e[2] + 1, e[1] - e[0] + 1)


def ijkToLocal(volumeNode: Any, segmentationNode: Any) -> np.ndarray:
    """(4, 4): the volume's voxels in the segmentation's own frame, whatever transforms the two are under."""
    transform, toWorld = segmentationNode.GetParentTransformNode(), vtk.vtkMatrix4x4()
    if transform is not None:
        transform.GetMatrixTransformToWorld(toWorld)
    local = np.array([[toWorld.GetElement(row, column) for column in range(4)] for row in range(4)])
    return np.linalg.inv(local) @ ijkToWorld(volumeNode)


def orientedMask(mask: np.ndarray, box: Box, matrix: np.ndarray) -> Any:
    """vtkOrientedImageData of the box alone: (k, j, i) uint8 voxels on the grid of ``matrix`` (IJK to the segmentation's frame)."""
    k0, k1, j0, j1, i0, i1 = box
    if mask.shape != (k1 - k0, j1 - j0, i1 - i0):
        raise ValueError(f"A mask of shape {mask.shape} does not fill the box {box}.")
    image = slicer.vtkOrientedImageData()
    image.SetExtent(i0, i1 - 1, j0, j1 - 1, k0, k1 - 1)
    image.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 1)
    voxelsOf(image)[...] = mask
    image.SetImageToWorldMatrix(_vtkMatrix(matrix))
    return image


def _vtkMatrix(matrix: np.ndarray) -> Any:
    result = vtk.vtkMatrix4x4()
    for row in range(4):
        for column in range(4):
            result.SetElement(row, column, float(matrix[row, column]))
    return result


def _npMatrix(image: Any) -> np.ndarray:
    matrix = vtk.vtkMatrix4x4()
    image.GetImageToWorldMatrix(matrix)
    return np.array([[matrix.GetElement(row, column) for column in range(4)] for row in range(4)])


def onGridOf(image: Any, reference: Any) -> Any:
    """``image`` on the grid of ``reference``: itself if the voxels coincide, else the nearest voxels."""
    toReference = np.linalg.inv(_npMatrix(reference)) @ _npMatrix(image)
    expected = np.eye(4)
    expected[:3, 3] = np.round(toReference[:3, 3])
    if np.allclose(toReference, expected, atol=1e-4):
        shift = expected[:3, 3].astype(int)
        if not shift.any():
            return image
        moved = slicer.vtkOrientedImageData()
        moved.DeepCopy(image)
        extent = image.GetExtent()
        moved.SetExtent(*(int(extent[n] + shift[n // 2]) for n in range(6)))
        moved.SetImageToWorldMatrix(_vtkMatrix(_npMatrix(reference)))
        return moved
    extent = image.GetExtent()
    corners = np.array([[i, j, k, 1.0] for i in extent[0:2] for j in extent[2:4] for k in extent[4:6]]) @ toReference.T
    low, high = np.floor(corners[:, :3].min(axis=0)).astype(int) - 1, np.ceil(corners[:, :3].max(axis=0)).astype(int) + 1
    grid = slicer.vtkOrientedImageData()
    grid.SetExtent(int(low[0]), int(high[0]), int(low[1]), int(high[1]), int(low[2]), int(high[2]))
    grid.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 1)
    grid.SetImageToWorldMatrix(_vtkMatrix(_npMatrix(reference)))
    result = slicer.vtkOrientedImageData()
    slicer.vtkOrientedImageDataResample.ResampleOrientedImageToReferenceOrientedImage(image, grid, result, False)
    return result


def referenceGrid(segmentationNode: Any) -> Any:
    """The segmentation's reference geometry as an empty image, or None if it has none."""
    text = segmentationNode.GetSegmentation().GetConversionParameter(REFERENCE_GEOMETRY)
    grid = slicer.vtkOrientedImageData()
    return grid if text and slicer.vtkSegmentationConverter.DeserializeImageGeometry(text, grid, False) else None


def isSameGrid(volumeNode: Any, segmentationNode: Any) -> bool:
    """True if results land on the segmentation's reference grid without being resampled."""
    grid = referenceGrid(segmentationNode)
    if grid is None:
        return True
    shift = np.linalg.inv(_npMatrix(grid)) @ ijkToLocal(volumeNode, segmentationNode)
    expected = np.eye(4)
    expected[:3, 3] = np.round(shift[:3, 3])
    return bool(np.allclose(shift, expected, atol=1e-4))


def labelExtent(segmentationNode: Any, segmentID: str, grid: Any) -> tuple[int, ...] | None:
    """Extent (i0, i1, j0, j1, k0, k1; both ends belong to it) around a segment's voxels, None if it has none.

    Segments may share one labelmap: the label tells them apart. A labelmap that is not on ``grid`` gives the whole extent of ``grid``.
    """
    return segmentExtent(segmentationNode.GetSegmentation().GetSegment(segmentID), grid)


def segmentExtent(segment: Any, grid: Any) -> tuple[int, ...] | None:
    """:func:`labelExtent` of a ``vtkSegment``, also one that no node of the scene shows now."""
    image = segment.GetRepresentation(BINARY_LABELMAP)
    if image is None or image.IsEmpty() or image.GetPointData().GetScalars() is None:
        return None
    if not np.allclose(_npMatrix(image), _npMatrix(grid), atol=1e-4):
        return tuple(grid.GetExtent())
    voxels, label, start = voxelsOf(image), segment.GetLabelValue(), image.GetExtent()
    slices, plane = np.zeros(len(voxels), bool), np.zeros(voxels.shape[1:], bool)
    for number, one in enumerate(voxels):  # a slice at a time: a copy of all voxels would take longer than looking at them
        found = one == label
        slices[number] = found.any()
        if slices[number]:
            plane |= found
    if not slices.any():
        return None
    ends = [np.flatnonzero(line)[[0, -1]] for line in (plane.any(axis=0), plane.any(axis=1), slices)]
    return tuple(int(end) + start[2 * axis] for axis in range(3) for end in ends[axis])


def hasVoxels(segment: Any) -> bool:
    """False for a segment without a labelmap, or with none of its voxels in the labelmap that it shares."""
    image = segment.GetRepresentation(BINARY_LABELMAP)
    return image is not None and segmentExtent(segment, image) is not None


def segmentsOf(segmentation: Any) -> Iterator[tuple[str, Any]]:
    """ID and ``vtkSegment`` of each segment of a ``vtkSegmentation``."""
    for number in range(segmentation.GetNumberOfSegments()):
        segmentID = segmentation.GetNthSegmentID(number)
        yield segmentID, segmentation.GetSegment(segmentID)


def combine(current: Any, mask: Any, subtract: bool) -> None:
    """In place: ``current`` without ``mask``, or inside ``mask`` only."""
    if current.IsEmpty():
        return
    a, b = current.GetExtent(), mask.GetExtent()
    low, high = [max(a[n], b[n]) for n in (0, 2, 4)], [min(a[n], b[n]) for n in (1, 3, 5)]
    voxels = voxelsOf(current)
    inside = np.zeros(voxels.shape, bool)
    if all(lo <= hi for lo, hi in zip(low, high, strict=True)):
        other = voxelsOf(mask)
        there, here = (tuple(slice(low[n] - e[2 * n], high[n] - e[2 * n] + 1) for n in (2, 1, 0)) for e in (b, a))
        inside[here] = other[there] != 0
    voxels[inside if subtract else ~inside] = 0
    current.GetPointData().GetScalars().Modified()
