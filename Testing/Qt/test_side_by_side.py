"""Two segmentations side by side, and back: nothing stays hidden, and every view is as it was."""

from __future__ import annotations

import types

import numpy as np
import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed: pip install -r Testing/requirements-slicer.txt")
pytest.importorskip("PySide6", reason="PySide6-Essentials is not installed")

import gui_cases as gui
import slicer
from gui_cases import press, settle
from mrml_cases import addVolume, oblique
from PySide6.QtCore import Qt
from RefSAM3DSlicer.segmentation_writer import createSegmentation

SIDE_BY_SIDE = slicer.vtkMRMLLayoutNode.SlicerLayoutSideBySideView
FOUR_UP = slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView


@pytest.fixture
def panel():
    def unfold(panel):
        panel.ui.compareCollapsibleButton.collapsed = False

    with gui.shownPanel(460, 1200, unfold) as shown:
        yield shown


@pytest.fixture
def layouts(monkeypatch):
    """The layout manager of the application."""
    manager = types.SimpleNamespace(layout=FOUR_UP)
    manager.setLayout = lambda number: setattr(manager, "layout", number)
    monkeypatch.setattr(slicer.app, "layoutManager", lambda: manager)
    return manager


@pytest.fixture
def views():
    """Red is axial, Yellow sagittal; only Yellow is linked."""
    made = {}
    for name, orientation in (("Red", "Axial"), ("Yellow", "Sagittal")):
        node = slicer.mrmlScene.CreateNodeByClass("vtkMRMLSliceNode")
        node.SetLayoutName(name)
        node.SetSingletonTag(name)
        slicer.mrmlScene.AddNode(node)
        node.SetOrientation(orientation)
        composite = slicer.vtkMRMLSliceCompositeNode()
        composite.SetSingletonTag(name)
        composite = slicer.mrmlScene.AddNode(composite)
        composite.SetLinkedControl(name == "Yellow")
        made[name] = (node, composite)
    yield made
    for nodes in made.values():
        for node in nodes:
            slicer.mrmlScene.RemoveNode(node)


@pytest.fixture
def three(panel, views):
    """Three segmentations of one volume; the second is meant for the yellow view only. The section shows the first two."""
    volume = addVolume()
    panel.enter()
    nodes = [createSegmentation(volume, name) for name in ("one", "two", "three")]
    nodes[1].GetDisplayNode().AddViewNodeID(views["Yellow"][0].GetID())
    panel.compare.firstSelector.setCurrentNode(nodes[0])
    panel.compare.secondSelector.setCurrentNode(nodes[1])
    return panel.compare, nodes


def seenIn(nodes):
    return [tuple(node.GetDisplayNode().GetViewNodeIDs() or ()) for node in nodes]


def toggle(section):
    press(section.sideBySideBox, Qt.Key_Space)


RED, YELLOW = ("vtkMRMLSliceNodeRed",), ("vtkMRMLSliceNodeYellow",)


def test_everything_is_as_it_was_afterwards(three, views, layouts):
    section, nodes = three
    toggle(section)
    assert layouts.layout == SIDE_BY_SIDE
    assert seenIn(nodes) == [RED, YELLOW, ()]
    assert [views[name][0].GetOrientation() for name in ("Red", "Yellow")] == ["Axial", "Axial"]
    assert all(composite.GetLinkedControl() and composite.GetHotLinkedControl() for _node, composite in views.values())
    toggle(section)
    assert layouts.layout == FOUR_UP
    assert seenIn(nodes) == [(), YELLOW, ()]
    assert [views[name][0].GetOrientation() for name in ("Red", "Yellow")] == ["Axial", "Sagittal"]
    assert [(c.GetLinkedControl(), c.GetHotLinkedControl()) for _n, c in views.values()] == [(0, 0), (1, 0)]


def test_another_choice_meanwhile_hides_nothing_for_good(three):
    section, nodes = three
    toggle(section)
    section.firstSelector.setCurrentNode(nodes[2])
    settle()
    assert seenIn(nodes) == [(), YELLOW, RED]
    section.secondSelector.setCurrentNode(nodes[0])
    settle()
    assert seenIn(nodes) == [YELLOW, YELLOW, RED]
    toggle(section)
    assert seenIn(nodes) == [(), YELLOW, ()]


def test_a_plane_turned_by_hand_comes_back(three, views):
    section, _nodes = three
    yellow = views["Yellow"][0]
    matrix = oblique()
    matrix[:3, :3] /= np.linalg.norm(matrix[:3, :3], axis=0)
    yellow.GetSliceToRAS().DeepCopy(matrix.ravel())
    yellow.UpdateMatrices()
    assert yellow.GetOrientation() == "Reformat"
    toggle(section)
    toggle(section)
    np.testing.assert_allclose(slicer.util.arrayFromVTKMatrix(yellow.GetSliceToRAS()), matrix)


def test_a_layout_that_the_user_chose_meanwhile_stays(three, layouts):
    section, _nodes = three
    toggle(section)
    layouts.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutOneUpRedSliceView)
    toggle(section)
    assert layouts.layout == slicer.vtkMRMLLayoutNode.SlicerLayoutOneUpRedSliceView


def test_the_views_come_back_when_the_scene_is_closed(three, views, layouts):
    section, _nodes = three
    toggle(section)
    slicer.mrmlScene.Clear(0)
    settle()
    assert not section.sideBySideBox.checked
    assert layouts.layout == FOUR_UP
    assert views["Yellow"][0].GetOrientation() == "Sagittal"


def test_the_views_come_back_when_the_panel_goes(three, panel, layouts):
    section, nodes = three
    toggle(section)
    section.cleanup()
    assert layouts.layout == FOUR_UP
    assert seenIn(nodes) == [(), YELLOW, ()]
    section._observer = slicer.mrmlScene.AddObserver(slicer.mrmlScene.StartCloseEvent, lambda *_a: None)
