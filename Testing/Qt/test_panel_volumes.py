"""What belongs to a volume stays with it when another one is chosen; what a scene brings is what the panel shows."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed: pip install -r Testing/requirements-slicer.txt")
pytest.importorskip("PySide6", reason="PySide6-Essentials is not installed")

import gui_cases as gui
import slicer
from gui_cases import click, settle, spin
from mrml_cases import addVolume, bright
from panel_cases import run
from RefSAM3DSlicer.segmentation_writer import Existing


def segmentations():
    return slicer.util.getNodesByClass("vtkMRMLSegmentationNode")


def names(node):
    return [node.GetSegmentation().GetNthSegment(n).GetName() for n in range(node.GetSegmentation().GetNumberOfSegments())]


def voxels(node, volume):
    return np.array(slicer.util.arrayFromSegmentBinaryLabelmap(node, node.GetSegmentation().GetNthSegmentID(0), volume))


@pytest.fixture
def two(panel):
    """Two volumes of different voxels; the first is chosen, and 'mandible' typed."""
    a, b = addVolume(name="A"), addVolume(np.roll(bright()[0], 3, axis=2), name="B")
    panel.enter()
    panel.ui.inputSelector.setCurrentNode(a)
    panel.prompts.add("mandible")
    return panel, a, b


@pytest.mark.parametrize("existing", [Existing.NEW, Existing.REPLACE])
def test_another_volume_gets_an_output_of_its_own(two, existing):
    panel, a, b = two
    panel.parameters.existing = existing
    run(panel)
    ofA = panel.parameters.segmentation
    panel.ui.inputSelector.setCurrentNode(b)
    settle()
    assert panel.parameters.inputVolume is b
    assert panel.parameters.segmentation is None
    run(panel)
    ofB = panel.parameters.segmentation
    assert ofB is not ofA
    assert (names(ofA), names(ofB)) == (["mandible"], ["mandible"])
    np.testing.assert_array_equal(voxels(ofA, a), bright()[1])
    np.testing.assert_array_equal(voxels(ofB, b), np.roll(bright()[1], 3, axis=2))
    panel.ui.inputSelector.setCurrentNode(a)
    settle()
    assert panel.parameters.segmentation is ofA, "further prompts on a volume go where the first ones went"
    assert len(segmentations()) == 2


def test_an_output_that_the_user_chose_stays(two):
    panel, a, b = two
    mine = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "mine")
    panel.ui.segmentationSelector.setCurrentNode(mine)
    run(panel)
    panel.ui.inputSelector.setCurrentNode(b)
    settle()
    assert panel.parameters.segmentation is mine
    panel.ui.inputSelector.setCurrentNode(a)
    settle()
    assert panel.parameters.segmentation is mine


@pytest.mark.parametrize("chosen", [False, True])
def test_an_output_that_is_deleted_makes_no_other_segmentation_the_output(two, chosen):
    """The selector moves to another node when the one that it shows goes: nobody chose that one."""
    panel, _a, _b = two
    other = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "of a colleague")
    if chosen:
        panel.ui.segmentationSelector.setCurrentNode(slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "mine"))
    run(panel)
    slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "another one")
    slicer.mrmlScene.RemoveNode(panel.parameters.segmentation)
    settle()
    assert panel.parameters.segmentation is None
    assert panel.ui.segmentationSelector.currentNode() is None
    run(panel)
    assert names(panel.parameters.segmentation) == ["mandible"]
    assert [names(node) for node in segmentations() if node is not panel.parameters.segmentation] == [[], []]
    assert names(other) == []


def test_another_segmentation_that_is_deleted_leaves_the_output(two):
    panel, _a, _b = two
    other = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "other")
    run(panel)
    mine = panel.parameters.segmentation
    slicer.mrmlScene.RemoveNode(other)
    settle()
    assert panel.parameters.segmentation is mine


def test_an_output_chosen_again_for_another_volume_stays(two):
    panel, _a, b = two
    run(panel)
    ofA = panel.parameters.segmentation
    panel.ui.inputSelector.setCurrentNode(b)
    panel.ui.segmentationSelector.setCurrentNode(ofA)
    settle()
    run(panel)
    assert panel.parameters.segmentation is ofA
    assert names(ofA) == ["mandible", "mandible (2)"]


def test_a_run_that_ends_when_another_volume_is_chosen_sets_no_output_for_it(two):
    panel, a, b = two
    gui.useFakeEngine(FAKE_STEP_S="0.05")
    click(panel.ui.segmentButton)
    spin(lambda: panel.isRunning and panel.task.fraction > 0.1)
    panel.ui.inputSelector.setCurrentNode(b)
    spin(lambda: not panel.isRunning)
    assert panel.parameters.segmentation is None
    panel.ui.inputSelector.setCurrentNode(a)
    settle()
    assert panel.parameters.segmentation is segmentations()[0]


def test_a_segmentation_made_with_the_selector_shows_the_result(two):
    """Such a node has no display node: the result would be in the scene and in no view."""
    panel, _a, _b = two
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "by selector")
    panel.ui.segmentationSelector.setCurrentNode(node)
    run(panel)
    assert names(node) == ["mandible"]
    assert node.GetDisplayNode() is not None


def test_the_kind_of_image_is_that_of_the_volume(two):
    panel, a, b = two
    panel.parameters.modality = "pet"
    panel.ui.inputSelector.setCurrentNode(b)
    settle()
    assert panel.parameters.modality == ""
    assert panel.ui.modalityComboBox.currentText == "Automatic"
    panel.ui.inputSelector.setCurrentNode(a)
    settle()
    assert panel.parameters.modality == "pet"


def test_a_scene_s_output_and_kind_of_image_hold_until_another_volume_is_chosen(two, tmp_path):
    panel, _a, _b = two
    run(panel)
    panel.parameters.modality = "pet"
    path = str(tmp_path / "scene.mrml")
    assert slicer.mrmlScene.Commit(path)
    slicer.mrmlScene.Clear(0)
    settle()
    slicer.mrmlScene.SetURL(path)
    slicer.mrmlScene.Import()
    settle()
    p = panel.parameters
    assert (p.inputVolume.GetName(), p.segmentation.GetName(), p.modality) == ("A", "A segmentation", "pet")
    panel.ui.inputSelector.setCurrentNode(slicer.util.getNode("B"))
    settle()
    assert (p.inputVolume.GetName(), p.segmentation, p.modality) == ("B", None, "")


def test_the_model_of_a_scene_is_shown_and_the_default_can_be_chosen_again(panel):
    assert panel.ui.modelComboBox.currentIndex == 0
    panel.parameters.parameterNode.SetParameter("model", "/data/site.safetensors")
    settle()
    assert panel.ui.modelComboBox.currentText == "site.safetensors"
    panel.ui.modelComboBox.setCurrentIndex(0)
    settle()
    assert panel.parameters.model == ""
