"""Small MRML scenes that several test files build."""

from __future__ import annotations

import numpy as np
import slicer
import vtk


def rotation(axis, degrees):
    """(4, 4)."""
    transform = vtk.vtkTransform()
    transform.RotateWXYZ(degrees, axis)
    return slicer.util.arrayFromVTKMatrix(transform.GetMatrix())


def oblique():
    """IJK to RAS: three rotations, three spacings, an origin, left-handed. No symmetry hides an error."""
    turn = (rotation((1, 0, 0), 20) @ rotation((0, 1, 0), -15) @ rotation((0, 0, 1), 10))[:3, :3]
    matrix = np.eye(4)
    matrix[:3, :3] = turn @ np.diag([-0.8, 1.1, 2.5])
    matrix[:3, 3] = [-40, 31.5, 12.25]
    return matrix


def bright(shape=(24, 40, 50)):
    """Voxels above 400 in an asymmetric ellipsoid, and that mask."""
    z, y, x = np.mgrid[: shape[0], : shape[1], : shape[2]]
    inside = (x - 20) ** 2 / 150 + (y - 17) ** 2 / 90 + (z - 10) ** 2 / 40 < 1
    return (1000 * inside).astype(np.int16), inside.astype(np.uint8)


def addVolume(array=None, matrix=None, name="CT"):
    """A scalar volume; oblique unless told otherwise."""
    return slicer.util.addVolumeFromArray(bright()[0] if array is None else array, ijkToRAS=oblique() if matrix is None else matrix, name=name)


def addTransform(degrees=30, shift=(5, -7, 11)):
    """A linear transform node."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "T")
    matrix = rotation((0, 0, 1), degrees)
    matrix[:3, 3] = shift
    node.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(matrix))
    return node
