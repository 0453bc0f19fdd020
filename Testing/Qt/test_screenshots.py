"""Pictures of the panel and the effect after a run on the phantom. To Docs/images with REFSAM3D_SCREENSHOTS=1, else to a temporary folder.

The pictures in Docs show the default model's real answers; without its weights the fake engine answers and nothing is written to Docs.
"""

from __future__ import annotations

import os

import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed: pip install -r Testing/requirements-slicer.txt")
pytest.importorskip("PySide6", reason="PySide6-Essentials is not installed")

import gui_cases as gui
import slicer
from effect_host import SegmentEditorHost
from gui_cases import click, enter, grab, settle, spin
from RefSAM3DLib.models_registry import DEFAULT_NAME, models_folder
from RefSAM3DSlicer import sample_data, session

REAL = (models_folder() / f"{DEFAULT_NAME}.safetensors").is_file()
PROMPTS = ("left parotid gland", "Mandible", "spinal cord", "left parotd", "gall bladder")


@pytest.fixture(autouse=True)
def engine():
    gui.useFakeEngine(FAKE_STEP_S="0.1")
    if REAL:
        session.workerArguments.clear()
    yield
    session.stop()
    slicer.mrmlScene.Clear(0)


@pytest.fixture
def folder(tmp_path):
    return gui.slicer_app.ROOT / "Docs" / "images" if REAL and os.environ.get("REFSAM3D_SCREENSHOTS") else tmp_path


def test_panel_before_during_and_after_a_run(folder):
    sample_data.loadPhantom()
    widget = gui.slicer_app.open_widget(gui.module)
    widget.parent.resize(460, 720)
    widget.parent.show()
    panel = widget.panel
    for text in PROMPTS:
        panel.prompts.add(text)
    settle(0.3)
    widget.parent.resize(460, 600)  # as high as it needs to be: sections that are folded up were laid out open before the first show
    grab(widget.parent, folder / "panel_prompts.png")
    click(panel.ui.segmentButton)
    spin(lambda: not panel.isRunning or panel.task.fraction > 0.4, timeout=600)
    grab(widget.parent, folder / "panel_running.png")
    spin(lambda: not panel.isRunning, timeout=600)
    assert panel.ui.resultsTable.rowCount >= 4
    widget.parent.resize(460, 780)
    grab(widget.parent, folder / "panel.png")
    panel.ui.advancedCollapsibleButton.collapsed = False
    widget.parent.resize(460, 1100)
    settle(0.3)
    grab(widget.parent, folder / "panel_advanced.png")
    widget.cleanup()
    widget.parent.hide()


def test_effect_after_a_run(folder):
    volume, _truth = sample_data.loadPhantom()
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Segmentation")
    node.CreateDefaultDisplayNodes()
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    editor = SegmentEditorHost(node, volume)
    effect = editor.setActiveEffectByName("RefSAM3D")
    window = editor.show(460, 240)
    controller = effect.self().controller
    enter(controller.promptEdit, "mandible")
    controller.completer.popup().hide()
    click(controller.applyButton)
    spin(lambda: not controller.isRunning, timeout=600)
    assert "mandible" in controller.statusLabel.text
    grab(window, folder / "effect.png")
    window.hide()
    editor.close()
