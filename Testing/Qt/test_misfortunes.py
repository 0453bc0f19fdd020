"""Bad input and bad luck, met in the panel and in the effect: a clear message, and nothing lost."""

from __future__ import annotations

import importlib.metadata
import locale
import os
import subprocess

import numpy as np
import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed: pip install -r Testing/requirements-slicer.txt")
pytest.importorskip("PySide6", reason="PySide6-Essentials is not installed")

import gui_cases as gui
import slicer
import vtk
from effect_cases import MASK, PAROTID
from gui_cases import click, enter, settle, spin
from mrml_cases import addVolume
from RefSAM3DSlicer.segmentation_writer import Existing, isHidden


@pytest.fixture
def panel():
    with gui.shownPanel(430, 900) as shown:
        yield shown


def run(panel, prompt="mandible"):
    if prompt not in panel.prompts.texts:
        panel.prompts.add(prompt)
    click(panel.ui.segmentButton)
    spin(lambda: not panel.isRunning)


def curved():
    """A non-linear transform."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLBSplineTransformNode", "Curved")
    spline = vtk.vtkThinPlateSplineTransform()
    points, moved = vtk.vtkPoints(), vtk.vtkPoints()
    for index in range(5):
        place = np.eye(3)[index % 3] * (10 + index)
        points.InsertNextPoint(place)
        moved.InsertNextPoint(place + index)
    spline.SetSourceLandmarks(points)
    spline.SetTargetLandmarks(moved)
    spline.SetBasisToR()
    node.SetAndObserveTransformToParent(spline)
    return node


def test_no_volume_and_no_prompt(panel):
    panel.prompts.add("mandible")
    assert not panel.ui.segmentButton.enabled
    assert panel.ui.statusLabel.text == "Choose a volume first."
    addVolume()
    panel.enter()
    assert panel.ui.segmentButton.enabled
    panel.prompts.remove("mandible")
    enter(panel.ui.promptLineEdit, "   ")
    assert not panel.ui.segmentButton.enabled
    assert panel.ui.statusLabel.text == "Type what to segment."


def test_volume_under_a_non_linear_transform(panel):
    volume = addVolume()
    volume.SetAndObserveTransformNodeID(curved().GetID())
    panel.enter()
    assert "non-linear transform 'Curved'; harden" in panel.messages.text
    run(panel)
    assert "non-linear transform 'Curved'" in panel.messages.text
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == 0
    volume.SetAndObserveTransformNodeID(None)
    run(panel)
    assert panel.parameters.segmentation is not None


def test_vector_volume(panel):
    vector = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLVectorVolumeNode", "colours")
    image = vtk.vtkImageData()
    image.SetDimensions(4, 5, 6)
    image.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 3)
    vector.SetAndObserveImageData(image)
    panel.enter()
    panel.ui.inputSelector.setCurrentNode(vector)
    assert panel.parameters.inputVolume is None, "not offered"
    panel.parameters.inputVolume = vector  # as a script or a saved scene does
    run(panel)
    assert "3 values per voxel" in panel.messages.text
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == 0


def test_completed_segment_is_not_replaced(panel):
    addVolume()
    panel.enter()
    run(panel)
    node = panel.parameters.segmentation
    segmentID = node.GetSegmentation().GetNthSegmentID(0)
    logic = slicer.vtkSlicerSegmentationsModuleLogic
    logic.SetSegmentStatus(node.GetSegmentation().GetSegment(segmentID), logic.Completed)
    panel.parameters.existing = Existing.SUBTRACT
    run(panel)
    assert "'mandible' is marked as completed" in panel.messages.text
    np.testing.assert_array_equal(slicer.util.arrayFromSegmentBinaryLabelmap(node, segmentID, panel.parameters.inputVolume), MASK)


@pytest.mark.parametrize("what", ["segmentation", "segment"])
def test_result_in_a_hidden_segmentation_is_said_and_shown_by_a_click(panel, what):
    addVolume()
    panel.enter()
    run(panel)
    node = panel.parameters.segmentation
    panel.parameters.existing = Existing.REPLACE
    segmentID = node.GetSegmentation().GetNthSegmentID(0)
    display = node.GetDisplayNode()
    display.SetVisibility(what != "segmentation")
    display.SetSegmentVisibility(segmentID, what != "segment")
    run(panel)
    assert "is hidden, and the result was written into it: mandible" in panel.messages.text
    assert panel.messages.kind == "warning"
    assert isHidden(node, segmentID), "not shown unasked"
    panel.messages._onLink("Show it")
    assert not isHidden(node, segmentID)
    run(panel)
    assert "hidden" not in panel.messages.text


def test_effect_into_a_hidden_segmentation(bench):
    b = bench()
    b.node.GetDisplayNode().SetVisibility(False)
    b.apply()
    assert b.count(b.A) == MASK.sum()
    assert "'Seg' is hidden" in b.controller.messages.text
    b.controller.messages._onLink("Show it")
    assert b.node.GetDisplayNode().GetVisibility()


def test_two_runs_at_once_in_panel_and_effect(panel, bench):
    b = bench()
    gui.useFakeEngine(FAKE_STEP_S="0.05")
    panel.enter()
    panel.prompts.add("mandible")
    click(panel.ui.segmentButton)
    b.type(PAROTID)
    click(b.controller.applyButton)
    assert "running already" in b.controller.messages.text
    assert panel.isRunning, "the first goes on"
    spin(lambda: not panel.isRunning)
    assert panel.parameters.segmentation is not None
    assert b.count(b.A) == 0


def test_graphics_memory_that_is_exhausted(panel):
    addVolume()
    panel.enter()
    run(panel, "gpu memory")
    assert "CUDA out of memory" in panel.messages.text
    assert "choose another device under Advanced" in panel.messages.text
    assert panel.parameters.segmentation is None
    panel.prompts.remove("gpu memory")
    run(panel)
    assert panel.parameters.segmentation is not None


def test_package_that_the_engine_cannot_import(panel):
    gui.useFakeEngine(FAKE_LOAD_ERROR="package")
    addVolume()
    panel.enter()
    run(panel)
    assert "a_package_that_nobody_has" in panel.messages.text
    assert "Diagnostics" in panel.messages.text


@pytest.mark.parametrize("where", ["panel", "effect"])
def test_package_of_a_wrong_version_is_refused_before_it_computes_nonsense(panel, bench, monkeypatch, where):
    version = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "2.9.1" if name == "torch" else version(name))
    b = bench()
    if where == "panel":
        panel.enter()
        run(panel)
        messages = panel.messages
    else:
        b.type(PAROTID)
        click(b.controller.applyButton)
        assert not b.controller.isRunning
        messages = b.controller.messages
    assert "torch 2.9.1 is installed, but torch>=2.4,!=2.9.* is needed" in messages.text
    assert b.count(b.A) == 0


def test_disk_that_fills_up_while_packages_are_installed(panel, monkeypatch):
    from RefSAM3DSlicer import installer

    def full(requirements, path):
        raise OSError(28, "No space left on device")

    addVolume()
    panel.enter()
    panel.prompts.add("mandible")
    monkeypatch.setattr(installer, "missingPackages", lambda: ["safetensors"])
    monkeypatch.setattr(installer, "_pipInstall", full)
    click(panel.ui.segmentButton)
    panel.messages._onLink("Install")
    settle()
    assert "No space left" in panel.messages.text
    assert "Try again" in panel.messages._actions
    assert not panel.isRunning
    monkeypatch.undo()
    run(panel)
    assert panel.parameters.segmentation is not None


@pytest.fixture
def commaLocale(tmp_path, monkeypatch):
    """A real locale with a decimal comma, made by the C library's own tool if none is installed."""
    before = locale.setlocale(locale.LC_ALL)
    try:
        locale.setlocale(locale.LC_ALL, "de_DE.UTF-8")
    except locale.Error:
        place = tmp_path / "locales"
        place.mkdir()
        made = subprocess.run(["localedef", "-i", "de_DE", "-f", "UTF-8", str(place / "de_DE.UTF-8")], capture_output=True, text=True, check=False)
        assert made.returncode <= 1, made.stderr  # 1: warnings
        monkeypatch.setenv("LOCPATH", str(place))
        locale.setlocale(locale.LC_ALL, "de_DE.UTF-8")
    assert locale.localeconv()["decimal_point"] == ","
    yield
    locale.setlocale(locale.LC_ALL, before)


@pytest.mark.apt
def test_numbers_keep_their_point_where_the_decimal_sign_is_a_comma(panel, commaLocale, tmp_path):
    """Application and engine under the locale: tags, geometry and saved file are the same as elsewhere."""
    from RefSAM3DSlicer import session

    gui.useFakeEngine(LC_ALL="de_DE.UTF-8", LOCPATH=os.environ.get("LOCPATH", ""))
    volume = addVolume()
    panel.enter()
    run(panel)
    node = panel.parameters.segmentation
    segmentID = node.GetSegmentation().GetNthSegmentID(0)
    np.testing.assert_array_equal(slicer.util.arrayFromSegmentBinaryLabelmap(node, segmentID, volume), MASK)
    value = vtk.reference("")
    assert node.GetSegmentation().GetSegment(segmentID).GetTag("RefSAM3D.Presence", value)
    assert str(value) == "0.5500"
    from RefSAM3DLib.geometry import Geometry
    from RefSAM3DLib.segmentation_io import read_segmentation
    from RefSAM3DSlicer.review.scene_arrays import exportCurrent, geometryOf

    _image, path = exportCurrent(volume, node, tmp_path / "Ausgabe ä")
    ((_name, mask, _tags),), geometry = read_segmentation(path)
    np.testing.assert_array_equal(mask, MASK)
    assert isinstance(geometry, Geometry)
    np.testing.assert_allclose(geometry.ijk_to_ras, geometryOf(volume).ijk_to_ras, atol=1e-4)
    assert session.engineRunner().isAlive
