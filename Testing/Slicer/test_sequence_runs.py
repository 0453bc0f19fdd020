"""Runs on sequences that cannot begin, take their time, or are overtaken by another frame."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed: pip install -r Testing/requirements-slicer.txt")
pytest.importorskip("PySide6", reason="PySide6-Essentials is not installed")

import gui_cases as gui
import slicer
import vtk
from mrml_cases import addVolume, bright
from panel_cases import run
from RefSAM3DLib.errors import RefSAM3DError
from RefSAM3DSlicer import sequences, session
from RefSAM3DSlicer.logic import RefSAM3DLogic


@pytest.fixture
def series():
    """Three frames; frame 2 (of 1 to 3) is shown."""
    gui.useFakeEngine()
    sequence = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceNode", "4D")
    for frame in range(3):
        node = addVolume(np.roll(bright()[0], 2 * frame, axis=0))
        sequence.SetDataNodeAtValue(node, str(frame))
        slicer.mrmlScene.RemoveNode(node)
    browser = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode")
    browser.SetAndObserveMasterSequenceNodeID(sequence.GetID())
    logic = slicer.modules.sequences.logic()
    browser.SetSelectedItemNumber(1)
    logic.UpdateProxyNodesFromSequences(browser)
    tag = browser.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda *_a: logic.UpdateProxyNodesFromSequences(browser))
    yield browser, browser.GetProxyNode(sequence)
    browser.RemoveObserver(tag)
    session.stop()
    slicer.mrmlScene.Clear(0)


def test_a_run_over_all_frames_that_cannot_begin_leaves_the_frame_that_was_shown(series):
    browser, proxy = series
    with pytest.raises(RefSAM3DError):
        sequences.AllFrames(RefSAM3DLogic(), proxy, ["mandible"], roi=object())
    assert browser.GetSelectedItemNumber() == 1


def test_seconds_of_all_frames_are_counted(series):
    gui.useFakeEngine(FAKE_STEP_S="0.02")
    _browser, proxy = series
    task = sequences.AllFrames(RefSAM3DLogic(), proxy, ["mandible"])
    gui.spin(lambda: task.isOver, timeout=400)
    assert task.elapsedS > 2 * task.run.elapsedS > 0


def test_a_frame_turned_meanwhile_is_said(series):
    browser, proxy = series
    task = RefSAM3DLogic().segment(proxy, "mandible", wait=False)
    browser.SetSelectedItemNumber(2)
    gui.spin(lambda: task.isOver)
    assert "The result is that of frame 2, but frame 3 is shown now; turn back to compare, or choose all frames." in task.warnings
    again = RefSAM3DLogic().segment(proxy, "mandible")
    assert not any("is shown now" in text for text in again.warnings)


def test_the_panel_says_it_and_names_the_seconds_of_all_frames(series):
    browser, proxy = series
    with gui.shownPanel(430, 900) as panel:
        panel.ui.inputSelector.setCurrentNode(proxy)
        panel.prompts.add("mandible")
        gui.click(panel.ui.segmentButton)
        browser.SetSelectedItemNumber(0)
        gui.spin(lambda: not panel.isRunning)
        assert "frame 1 is shown now" in panel.messages.text
        panel.parameters.frames = "all"
        seen = []
        show = panel._showResults
        panel._showResults = lambda task: (seen.append(task), show(task))
        run(panel)
        assert f"{seen[0].elapsedS:.1f} s" in panel.ui.statusLabel.text
        assert "is shown now" not in panel.messages.text
