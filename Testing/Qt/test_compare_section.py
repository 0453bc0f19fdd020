"""The Compare section, clicked, over segmentations whose differences are known."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed: pip install -r Testing/requirements-slicer.txt")
pytest.importorskip("PySide6", reason="PySide6-Essentials is not installed")

import gui_cases as gui
import slicer
import vtk
from gui_cases import click, press, settle, spin
from mrml_cases import addTransform, addVolume, bright
from PySide6.QtCore import Qt
from RefSAM3DLib.places import box_of
from RefSAM3DSlicer.segmentation_writer import SegmentationWriter, createSegmentation


@pytest.fixture
def panel():
    def unfold(panel):
        panel.ui.compareCollapsibleButton.collapsed = False

    with gui.shownPanel(460, 1200, unfold) as shown:
        yield shown


def segmentation(volume, name, **masks):
    node = createSegmentation(volume, name)
    writer = SegmentationWriter(volume, node)
    for structure, mask in masks.items():
        box = box_of(mask.astype(bool))
        part = mask[box[0] : box[1], box[2] : box[3], box[4] : box[5]]
        writer.write(part.astype(np.uint8), box, structure.replace("_", " "), (200, 100, 50), {}, {})
    return node


def table(section):
    t = section.table
    return [[t.item(r, c).text() for c in range(t.columnCount)] for r in range(t.rowCount)]


@pytest.fixture
def two(panel):
    """The second is the first moved by one voxel, and lacks the cord."""
    volume = addVolume()
    volume.SetAndObserveTransformNodeID(addTransform().GetID())
    panel.enter()
    mask = bright()[1]
    cord = np.zeros_like(mask)
    cord[:, 2:5, 2:5] = 1
    first = segmentation(volume, "machine", brainstem=mask, spinal_cord=cord)
    second = segmentation(volume, "reviewer", Brainstem=np.roll(mask, 1, axis=2))
    panel.compare.firstSelector.setCurrentNode(first)
    panel.compare.secondSelector.setCurrentNode(second)
    return panel.compare, volume, mask.astype(bool), cord


def compare(section):
    click(section.compareButton)
    spin(lambda: not section.isRunning)


def test_numbers_of_each_structure(two):
    section, _volume, mask, cord = two
    compare(section)
    rows = table(section)
    other = np.roll(mask, 1, axis=2)
    dice = 2 * (mask & other).sum() / (mask.sum() + other.sum())
    assert [row[0] for row in rows] == ["brainstem", "spinal cord"]
    assert float(rows[0][1]) == pytest.approx(dice, abs=6e-4)
    assert float(rows[0][2]) > 0.99
    assert 0 < float(rows[0][3]) < 1.1
    assert float(rows[0][4]) == pytest.approx(mask.sum() * 0.0022, abs=0.06)
    assert rows[1][1:4] == ["0.000", "0.000", "–"]
    assert float(rows[1][4]) == pytest.approx(cord.sum() * 0.0022, abs=0.06)
    assert rows[1][5] == "0.0"
    assert "second" in section.table.item(1, 0).toolTip()


def test_difference_segments_are_where_the_differences_are(two):
    section, volume, mask, _cord = two
    compare(section)
    node = section.differencesNode
    names = [node.GetSegmentation().GetNthSegment(n).GetName() for n in range(node.GetSegmentation().GetNumberOfSegments())]
    assert names == ["brainstem, only first", "brainstem, only second", "brainstem, both", "spinal cord, only first"]
    other = np.roll(mask, 1, axis=2)
    for name, truth in zip(names, (mask & ~other, other & ~mask, mask & other), strict=False):
        segmentID = node.GetSegmentation().GetSegmentIdBySegmentName(name)
        np.testing.assert_array_equal(slicer.util.arrayFromSegmentBinaryLabelmap(node, segmentID, volume), truth)
    compare(section)
    assert len([n for n in slicer.util.getNodesByClass("vtkMRMLSegmentationNode") if n.GetName().startswith("Differences")]) == 1


def test_views_are_linked_and_show_one_segmentation_each(two):
    section = two[0]
    for name in ("Red", "Yellow"):
        node = slicer.mrmlScene.CreateNodeByClass("vtkMRMLSliceNode")  # with the scene's orientation presets
        node.SetLayoutName(name)
        node.SetSingletonTag(name)
        slicer.mrmlScene.AddNode(node)
        composite = slicer.vtkMRMLSliceCompositeNode()
        composite.SetSingletonTag(name)
        slicer.mrmlScene.AddNode(composite)
    compare(section)
    assert all(n.GetLinkedControl() for n in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode"))
    press(section.sideBySideBox, Qt.Key_Space)
    seen = [selector.currentNode().GetDisplayNode().GetViewNodeIDs() for selector in (section.firstSelector, section.secondSelector)]
    assert seen == [("vtkMRMLSliceNodeRed",), ("vtkMRMLSliceNodeYellow",)]
    assert slicer.mrmlScene.GetNodeByID("vtkMRMLSliceNodeYellow").GetOrientation() == "Axial"
    press(section.sideBySideBox, Qt.Key_Space)
    assert section.firstSelector.currentNode().GetDisplayNode().GetNumberOfViewNodeIDs() == 0
    section.table.selectRow(0)
    settle()
    toRas = slicer.mrmlScene.GetNodeByID("vtkMRMLSliceNodeRed").GetSliceToRAS()
    np.testing.assert_allclose([toRas.GetElement(n, 3) for n in range(3)], section.comparisons[0].row["centre_ras"], atol=0.1)


def test_nothing_chosen_or_nothing_in_common(panel, two):
    section, volume, mask, _cord = two
    section.secondSelector.setCurrentNode(section.firstSelector.currentNode())
    click(section.compareButton)
    assert "two different" in panel.messages.text
    section.secondSelector.setCurrentNode(segmentation(volume, "other", larynx=mask))
    click(section.compareButton)
    assert "no structure of the same name" in panel.messages.text
    assert not section.isRunning


def test_surfaces_are_not_taken_for_empty(panel, two):
    section, volume, _mask, _cord = two
    node = createSegmentation(volume, "contours")
    node.GetSegmentation().SetSourceRepresentationName("Closed surface")
    segment = slicer.vtkSegment()
    segment.SetName("brainstem")
    sphere = vtk.vtkSphereSource()
    sphere.Update()
    segment.AddRepresentation("Closed surface", sphere.GetOutput())
    node.GetSegmentation().AddSegment(segment)
    section.secondSelector.setCurrentNode(node)
    click(section.compareButton)
    assert "'contours' is made of closed surface; convert it to a binary labelmap" in panel.messages.text
    assert not section.isRunning


def test_scene_closed_while_comparing(panel, two):
    section = two[0]
    click(section.compareButton)
    slicer.mrmlScene.Clear(0)
    settle(0.2)
    assert not section.isRunning
    assert section.table.rowCount == 0
    assert section.compareButton.text == "Compare"
    assert panel.messages.kind != "error"
