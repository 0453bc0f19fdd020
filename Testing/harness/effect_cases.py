"""A Segment Editor with the effect, a volume and two segments, driven by keys."""

from __future__ import annotations

import numpy as np
import slicer
import vtk
from PySide6.QtCore import Qt

import gui_cases as gui
from effect_host import SegmentEditorHost
from gui_cases import enter, press, settle, spin
from mrml_cases import addTransform, addVolume, bright

PAROTID = "left parotid gland"
MASK = bright()[1]
BOX = np.zeros_like(MASK)
BOX[8:12, 14:22, 16:26] = 1


class Bench:
    """A volume, a segmentation with segments A (empty) and B (a box inside the structure), and an open editor."""

    def __init__(self, moved="", coarse=False, segments=True):
        gui.useFakeEngine()
        self.volume = addVolume()
        self.node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Seg")
        self.node.CreateDefaultDisplayNodes()
        if moved:
            self.volume.SetAndObserveTransformNodeID(addTransform().GetID())
        if moved == "both":
            self.node.SetAndObserveTransformNodeID(self.volume.GetTransformNodeID())
        reference = self.volume if not coarse else addVolume(np.zeros((12, 20, 25), np.int16), coarseMatrix(self.volume), "coarse")
        self.node.SetReferenceImageGeometryParameterFromVolumeNode(reference)
        self.reference = reference
        self.A = self.B = ""
        if segments:
            self.A = self.node.GetSegmentation().AddEmptySegment("A", "mine", (1, 0, 0))
            self.B = self.node.GetSegmentation().AddEmptySegment("B", "keep")
            if not coarse:
                slicer.util.updateSegmentBinaryLabelmapFromArray(BOX, self.node, self.B, self.volume)
        self.editor = SegmentEditorHost(self.node, self.volume)
        if segments:
            self.editor.node.SetSelectedSegmentID(self.A)
        self.effect = self.editor.setActiveEffectByName("RefSAM3D")
        self.window = self.editor.show()
        self.controller = self.effect.self().controller
        settle()

    def voxels(self, segmentID):
        return np.array(slicer.util.arrayFromSegmentBinaryLabelmap(self.node, segmentID, self.reference))

    def count(self, segmentID):
        return int(self.voxels(segmentID).sum())

    def type(self, text):
        self.controller.promptEdit.clear()
        enter(self.controller.promptEdit, text)

    def apply(self, text=PAROTID):
        self.type(text)
        self.controller.completer.popup().hide()
        press(self.controller.promptEdit, Qt.Key_Return)
        assert self.controller.isRunning, self.controller.messages.text
        self.finish()

    def finish(self):
        spin(lambda: not self.controller.isRunning)


def coarseMatrix(volume):
    matrix = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    return slicer.util.arrayFromVTKMatrix(matrix) @ np.diag([2.0, 2, 2, 1])


def closeAll(benches):
    """At the end of a test."""
    for one in benches:
        one.window.hide()
        one.editor.close()
    slicer.mrmlScene.Clear(0)
