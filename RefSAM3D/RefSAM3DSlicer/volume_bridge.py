"""From a volume node to what the engine needs: voxels, IJK to world, modality, region. Nothing here waits or changes the scene."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _
from vtk.util import numpy_support

from RefSAM3DLib.errors import InputError
from RefSAM3DLib.geometry import Geometry

from .failures import NOT_CHANGED

#: Voxels copied and hashed in one step: about 2 ms, so that a tick can stop in time.
STEP_BYTES = 2 << 20
_MODALITIES = {"CT": "ct", "MR": "mr", "PT": "pet"}
Box = tuple[int, int, int, int, int, int]


def checkVolume(volumeNode: Any) -> None:
    """Refuse what is no scalar 3D image.

    Raises:
        InputError: with what is wrong and what to do.
    """
    if volumeNode is None:
        raise InputError(_("No volume is chosen; load an image and choose it above."))
    name = volumeNode.GetName()
    if volumeNode.IsA("vtkMRMLLabelMapVolumeNode"):
        raise InputError(_("'{name}' is a label map, not an image; choose the image that it belongs to.").format(name=name))
    image = volumeNode.GetImageData() if volumeNode.IsA("vtkMRMLVolumeNode") else None
    if image is None or image.GetPointData().GetScalars() is None or not all(image.GetDimensions()):
        raise InputError(_("'{name}' has no voxels; load the image again.").format(name=name))
    components = image.GetNumberOfScalarComponents()
    if components != 1 or not volumeNode.IsA("vtkMRMLScalarVolumeNode"):
        raise InputError(
            _("'{name}' has {n} values per voxel (a colour or vector volume); convert it to a scalar volume (Vector to Scalar Volume).").format(
                name=name, n=components
            )
        )
    transform = volumeNode.GetParentTransformNode()
    if transform is not None and not transform.IsTransformToWorldLinear():
        raise InputError(
            _("'{name}' lies under the non-linear transform '{transform}'; harden the transform (Transforms module) first.").format(
                name=name, transform=transform.GetName()
            )
        )


def ijkToWorld(volumeNode: Any) -> np.ndarray:
    """(4, 4): voxel (i, j, k, 1) to world RAS in mm, linear parent transforms included."""
    matrix = _ijkToNode(volumeNode)
    transform = volumeNode.GetParentTransformNode()
    if transform is not None:
        toWorld = vtk.vtkMatrix4x4()
        transform.GetMatrixTransformToWorld(toWorld)
        vtk.vtkMatrix4x4.Multiply4x4(toWorld, matrix, matrix)
    return _numbers(matrix)


def _ijkToNode(volumeNode: Any) -> Any:
    matrix = vtk.vtkMatrix4x4()
    volumeNode.GetIJKToRASMatrix(matrix)
    return matrix


def _numbers(matrix: Any) -> np.ndarray:
    return np.array([[matrix.GetElement(row, column) for column in range(4)] for row in range(4)])


def shapeOf(volumeNode: Any) -> tuple[int, int, int]:
    """(K, J, I)."""
    i, j, k = volumeNode.GetImageData().GetDimensions()
    return k, j, i


def modalityOf(volumeNode: Any) -> str:
    """ "ct", "mr", "pet" as DICOM says, or "" if it does not."""
    return _MODALITIES.get(statedModality(volumeNode), "")


def statedModality(volumeNode: Any) -> str:
    """DICOM's letters ("CT", "US", "XA"), or "" where the image came without: what no model reads has to be said."""
    hierarchy = slicer.mrmlScene.GetSubjectHierarchyNode()
    item = hierarchy.GetItemByDataNode(volumeNode) if hierarchy else 0
    text = hierarchy.GetItemAttribute(item, "DICOM.Modality") if item else ""
    return (text or volumeNode.GetAttribute("DICOM.Modality") or "").strip().upper()


class VolumeSource:
    """A volume on its way to the engine; see :class:`~RefSAM3DSlicer.volume_transfer.VolumeSource`.

    The view on the voxels keeps them alive even if the node is deleted meanwhile. A content key is remembered with the time stamps it
    was computed at: scrolling or another window level leaves them alone, an edit of the voxels or another transform does not.
    """

    _keys: dict[str, tuple[tuple[Any, ...], str]] = {}  # noqa: RUF012 - shared on purpose: one memory for the whole application

    def __init__(self, volumeNode: Any, modality: str = "") -> None:
        checkVolume(volumeNode)
        self._image = volumeNode.GetImageData()
        self._scalars = self._image.GetPointData().GetScalars()
        self._nodeID = volumeNode.GetID()
        self.name = volumeNode.GetName()
        self.shape = shapeOf(volumeNode)
        self.modality = modality or modalityOf(volumeNode)
        self.stated = "" if self.modality else statedModality(volumeNode)
        self._ijkToNode = _numbers(_ijkToNode(volumeNode))
        matrix = ijkToWorld(volumeNode)
        Geometry(self.shape, matrix)  # refuses impossible spacings before anything is sent
        self.ijkToRas = [float(value) for value in matrix.ravel()]
        self._array = numpy_support.vtk_to_numpy(self._scalars).reshape(self.shape)
        self.dtype = self._array.dtype.str.lstrip("<>=|")
        self._stamp = self._stampNow()
        self._key = self.knownKey()

    def _stampNow(self) -> tuple[Any, ...]:
        return (self._image.GetMTime(), self._scalars.GetMTime(), self.shape, tuple(self.ijkToRas), self.modality, self.stated)

    def checkGrid(self, volumeNode: Any) -> None:
        """Refuse to write masks of this source onto another grid: in voxels they would lie elsewhere. A parent transform moves both and is fine.

        Raises:
            InputError: the node has other dimensions, or another place, than when it was captured.
        """
        image = volumeNode.GetImageData()
        isThere = image is not None and shapeOf(volumeNode) == self.shape
        if not isThere or not np.allclose(_numbers(_ijkToNode(volumeNode)), self._ijkToNode, rtol=0.0, atol=1e-6):
            text = _("The image '{name}' got another voxel grid while it was segmented, and the result does not fit that.")
            raise InputError(f"{text.format(name=self.name)} {NOT_CHANGED} " + _("Segment it again."))

    def knownKey(self) -> str:
        """Content key of the last copy if nothing has changed since, else ""."""
        stamp, key = self._keys.get(self._nodeID, ((), ""))
        return key if stamp == self._stamp else ""

    def key(self) -> str:
        """Content key; complete after :meth:`copyInto`."""
        return self._key

    def copyInto(self, target: np.ndarray, reserve: Callable[[int, int], None] = lambda start, count: None) -> Iterator[float]:
        """Copy and hash in steps of about 2 MB; ``reserve(start, count)`` takes room for the bytes of a step before they are written.

        Raises:
            InputError: the voxels were changed meanwhile.
        """
        source, goal = self._array.reshape(-1), target.reshape(-1)
        step = max(STEP_BYTES // source.itemsize, 1)
        digest = hashlib.blake2b(repr((self.shape, self.dtype, self.ijkToRas, self.modality, self.stated)).encode(), digest_size=16)
        for start in range(0, source.size, step):
            end = min(start + step, source.size)
            reserve(start * source.itemsize, (end - start) * source.itemsize)
            goal[start : start + step] = source[start : start + step]
            digest.update(goal[start : start + step])
            yield end / source.size
        if self._stampNow() != self._stamp:
            raise InputError(_("The volume '{name}' was changed while it was sent to the engine; try again.").format(name=self.name))
        self._key = digest.hexdigest()
        self._keys[self._nodeID] = (self._stamp, self._key)


def boxOfRoi(volumeNode: Any, roiNode: Any) -> Box:
    """Native box around a markups ROI, also a rotated or transformed one.

    Raises:
        InputError: no ROI, or it does not touch the volume.
    """
    if roiNode is None:
        raise InputError(_("No region of interest is chosen; choose one, or segment the whole volume."))
    size = roiNode.GetSize()
    toWorld = roiNode.GetObjectToWorldMatrix()
    corners = []
    for signs in itertools.product((-0.5, 0.5), repeat=3):
        corners.append(toWorld.MultiplyPoint([sign * length for sign, length in zip(signs, size, strict=True)] + [1.0])[:3])
    return _boxAround(volumeNode, np.array(corners), roiNode.GetName())


def boxOfViews(volumeNode: Any, sliceNodes: list[Any] | None = None) -> Box:
    """Native box of what the slice views show: along each patient axis the part that every view of that axis shows.

    Raises:
        InputError: no slice view shows the volume.
    """
    if sliceNodes is None:
        sliceNodes = [n for n in slicer.util.getNodesByClass("vtkMRMLSliceNode") if n.IsMappedInLayout()]
    low, high = np.full(3, -np.inf), np.full(3, np.inf)
    for node in sliceNodes:
        width, height = node.GetDimensions()[:2]
        if not width or not height:
            continue
        toRas = node.GetXYToRAS()
        corners = np.array([toRas.MultiplyPoint((x, y, 0, 1))[:3] for x in (0, width) for y in (0, height)])
        along = int(np.argmax([abs(toRas.GetElement(axis, 2)) for axis in range(3)]))
        for axis in range(3):
            if axis != along:  # of the axis that a view looks along, tilted or not, it shows a slice and says nothing
                low[axis] = max(low[axis], corners[:, axis].min())
                high[axis] = min(high[axis], corners[:, axis].max())
    bounds = np.array(_cornersOf(volumeNode))
    low, high = np.maximum(low, bounds.min(axis=0)), np.minimum(high, bounds.max(axis=0))
    corners = np.array(list(itertools.product(*zip(low, high, strict=True))))
    if (low >= high).any():
        raise InputError(_("The slice views do not show '{name}'; centre the views, or segment the whole volume.").format(name=volumeNode.GetName()))
    return _boxAround(volumeNode, corners, _("the current view"))


def _cornersOf(volumeNode: Any) -> list[np.ndarray]:
    matrix, (nk, nj, ni) = ijkToWorld(volumeNode), shapeOf(volumeNode)
    return [(matrix @ [i, j, k, 1.0])[:3] for i in (-0.5, ni - 0.5) for j in (-0.5, nj - 0.5) for k in (-0.5, nk - 0.5)]


def _boxAround(volumeNode: Any, cornersWorld: np.ndarray, what: str) -> Box:
    ijk = np.column_stack([cornersWorld, np.ones(len(cornersWorld))]) @ np.linalg.inv(ijkToWorld(volumeNode)).T
    nk, nj, ni = shapeOf(volumeNode)
    box: list[int] = []
    for axis, count in ((2, nk), (1, nj), (0, ni)):
        low = max(math.floor(ijk[:, axis].min() + 0.5 + 1e-6), 0)
        high = min(math.ceil(ijk[:, axis].max() + 0.5 - 1e-6), count)
        if low >= high:
            raise InputError(
                _("'{what}' does not touch the volume '{name}'; move it, or segment the whole volume.").format(what=what, name=volumeNode.GetName())
            )
        box += [low, high]
    return tuple(box)  # type: ignore[return-value]
