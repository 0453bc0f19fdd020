"""The panel through its real widget class: typed, clicked, over the real scene, with real worker processes."""

from __future__ import annotations

import sys

import numpy as np
import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed: pip install slicer-core==5.13.31053.0")
pytest.importorskip("PySide6", reason="PySide6-Essentials is not installed")

import gui_cases as gui
import slicer
from gui_cases import click, enter, press, settle, spin
from mrml_cases import addVolume, bright
from panel_cases import rows, run, table
from PySide6.QtCore import Qt
from RefSAM3DSlicer import session


def test_nothing_heavy_is_imported_by_loading_and_opening_the_module(panel):
    assert not {"torch", "open_clip", "SimpleITK", "monai"} & set(sys.modules)


def test_from_typing_to_segments(panel):
    volume = addVolume()
    panel.enter()
    assert panel.ui.inputSelector.currentNode() is volume
    assert not panel.ui.segmentButton.enabled
    enter(panel.ui.promptLineEdit, "left parotid")
    press(panel.ui.promptLineEdit, Qt.Key_Return)
    settle()
    assert panel.ui.promptLineEdit.text == ""
    enter(panel.ui.promptLineEdit, "larynx")
    assert panel.ui.segmentButton.enabled
    run(panel)  # the text that is typed but not added counts
    assert table(panel) == [
        ["left parotid gland", "present (97 %)", "90 %", f"{bright()[1].sum() * 0.0022:.1f}"],
        ["larynx", "absent (3 %)", "", ""],
    ]
    node = panel.parameters.segmentation
    segment = node.GetSegmentation().GetNthSegment(0)
    assert node.GetSegmentation().GetNumberOfSegments() == 1
    assert segment.GetName() == "left parotid gland"
    np.testing.assert_array_equal(slicer.util.arrayFromSegmentBinaryLabelmap(node, node.GetSegmentation().GetNthSegmentID(0), volume), bright()[1])
    assert panel.ui.segmentButton.text == "Segment"
    assert not panel.ui.runProgressBar.visible
    assert "1 of 2 structures drawn" in panel.ui.statusLabel.text
    assert "fake-default" in panel.ui.modelCardLabel.text
    assert "Not for diagnosis" in panel.ui.modelCardLabel.text
    spin(lambda: "MB" in panel.ui.memoryLabel.text)


def test_completion_by_keyboard_adds_the_chosen_word_once_and_clears_the_line(panel):
    enter(panel.ui.promptLineEdit, "mand")
    assert panel.prompts._completer.popup().isVisible()
    press(panel.prompts._completer.popup(), Qt.Key_Down)
    assert panel.ui.promptLineEdit.text == "mandible"
    press(panel.prompts._completer.popup(), Qt.Key_Return)
    settle()
    assert panel.prompts.texts == ["mandible"]
    assert panel.ui.promptLineEdit.text == ""
    assert not panel.isRunning


def test_status_of_each_prompt_is_known_before_anything_runs(panel):
    for text in ("Parotid_L", "left parotd gland", "flux capacitor", "<b>x</b>"):
        panel.prompts.add(text)
    settle()
    shown = rows(panel)
    assert shown[0][0] == "Parotid_L"
    assert "left parotid gland" in shown[0][1]
    assert "close to" in shown[1][1]
    assert 'href="left parotid gland"' in shown[1][1]
    assert "unknown" in shown[2][1]
    assert shown[3][0] == "<b>x</b>"
    row = panel.ui.promptList.itemWidget(panel.ui.promptList.item(1))
    row.findChildren(gui.qt.QLabel)[1].linkActivated.emit("left parotid gland")
    settle()
    assert panel.prompts.texts[1] == "left parotid gland"
    assert list(panel.parameters.prompts) == panel.prompts.texts
    button = panel.ui.promptList.itemWidget(panel.ui.promptList.item(2)).findChildren(gui.qt.QToolButton)[0]
    click(button)
    assert "flux capacitor" not in panel.prompts.texts
    assert not session.engineRunner().isAlive


def test_prompts_live_in_the_scene_and_come_back_with_it(panel):
    panel.parameters.prompts = ["mandible"]
    settle()
    assert rows(panel)[0][0] == "mandible"
    slicer.mrmlScene.Clear(0)
    settle()
    assert panel.prompts.texts == []
    assert not panel.ui.segmentButton.enabled


def test_recent_prompts(panel):
    addVolume()
    panel.enter()
    panel.prompts.add("mandible")
    run(panel)
    panel.prompts.fillRecent()
    actions = panel.prompts._recentMenu.actions()
    assert [a.text for a in actions] == ["mandible"]
    panel.prompts.remove("mandible")
    actions[0].trigger()
    settle()
    assert panel.prompts.texts == ["mandible"]


def test_button_becomes_cancel_with_a_percentage_and_time_left(panel):
    gui.useFakeEngine(FAKE_STEP_S="0.15")
    addVolume()
    panel.enter()
    panel.prompts.add("mandible")
    click(panel.ui.segmentButton)
    assert panel.ui.segmentButton.text == "Cancel"
    seen = []
    spin(lambda: seen.append(panel.ui.statusLabel.text) or " left" in panel.ui.statusLabel.text)
    assert panel.ui.runProgressBar.visible
    assert 50 < panel.ui.runProgressBar.value < 1000
    assert any("starting the engine" in text for text in seen)
    click(panel.ui.segmentButton)
    spin(lambda: not panel.isRunning, timeout=1.0)
    assert "Cancelled" in panel.ui.statusLabel.text
    assert panel.ui.segmentButton.text == "Segment"
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == 0
    run(panel)
    assert table(panel)[0][0] == "mandible"


@pytest.mark.parametrize(
    ("word", "text"),
    [
        ("crash", "native library"),
        ("killed", "out of memory"),
        ("memory", "99 GiB"),
        ("input", "non-finite"),
        ("side", "could not be told"),
    ],
)
def test_misfortunes_and_warnings_appear_inside_the_panel(panel, word, text):
    addVolume()
    panel.enter()
    panel.prompts.add(word)
    run(panel)
    assert text in panel.messages.text
    assert panel.messages.kind == ("warning" if word == "side" else "error")
    assert panel.ui.messageFrame.visible
    click(panel.ui.messageCloseButton)
    assert not panel.ui.messageFrame.visible


def test_bad_volumes_are_named_as_soon_as_they_are_chosen(panel):
    empty = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "empty")
    panel.ui.inputSelector.setCurrentNode(empty)
    settle()
    assert "'empty' has no voxels" in panel.messages.text
    panel.prompts.add("mandible")
    run(panel)
    assert "'empty' has no voxels" in panel.messages.text
    panel.ui.inputSelector.setCurrentNode(addVolume())
    settle()
    assert panel.messages.text == ""


def test_label_maps_and_vectors_are_not_offered(panel):
    slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "labels")
    panel.enter()
    assert panel.ui.inputSelector.nodeCount() == 0
    assert panel.parameters.inputVolume is None


def test_scene_closed_during_a_run(panel):
    gui.useFakeEngine(FAKE_STEP_S="0.1")
    addVolume()
    panel.enter()
    panel.prompts.add("mandible")
    click(panel.ui.segmentButton)
    spin(lambda: panel.isRunning and panel.task.fraction > 0.1)
    slicer.mrmlScene.Clear(0)
    spin(lambda: not panel.isRunning, timeout=1.5)
    assert "scene was closed" in panel.messages.text
    addVolume(name="next")
    panel.enter()
    panel.prompts.add("mandible")
    run(panel)
    assert table(panel)[0][0] == "mandible"


def test_quit_during_a_run_leaves_no_process(panel):
    gui.useFakeEngine(FAKE_STEP_S="0.5")
    addVolume()
    panel.enter()
    panel.prompts.add("mandible")
    click(panel.ui.segmentButton)
    spin(lambda: panel.isRunning and panel.task.fraction > 0.06)
    slicer.app.signals.emit("aboutToQuit()")
    assert not session.engineRunner().isAlive
    settle()
    assert not panel.isRunning


def test_a_slot_that_fails_says_so_in_the_panel(panel, monkeypatch):
    monkeypatch.setattr(session, "release", lambda: 1 / 0)
    click(panel.ui.releaseButton)
    assert "division by zero" in panel.messages.text


def test_read_only_settings_do_no_harm(panel, monkeypatch):
    class ReadOnly:
        def value(self, key, default=None):
            return default

        def setValue(self, key, value):
            """Nothing is written; QSettings reports that only in its status."""

    monkeypatch.setattr(slicer.app, "userSettings", lambda: ReadOnly())
    addVolume()
    panel.enter()
    panel.prompts.add("mandible")
    run(panel)
    assert table(panel)[0][0] == "mandible"
