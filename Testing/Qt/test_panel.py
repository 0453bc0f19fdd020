"""The panel through its real widget class: typed, clicked, over the real scene, with real worker processes."""

from __future__ import annotations

import sys

import numpy as np
import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed: pip install slicer-core==5.13.31053.0")
pytest.importorskip("PySide6", reason="PySide6-Essentials is not installed")
gui = pytest.importorskip("gui_cases")

import slicer  # noqa: E402
from gui_cases import click, enter, press, settle, spin  # noqa: E402
from mrml_cases import addVolume, bright  # noqa: E402
from PySide6.QtCore import Qt  # noqa: E402
from RefSAM3DSlicer import installer, prompt_box, session  # noqa: E402
from RefSAM3DSlicer.segmentation_writer import Existing  # noqa: E402


@pytest.fixture
def panel():
    slicer.app.userSettings().remove(prompt_box.RECENT_KEY)
    with gui.shownPanel(430, 900) as shown:
        yield shown


def rows(panel):
    found = []
    for number in range(panel.ui.promptList.count):
        row = panel.ui.promptList.itemWidget(panel.ui.promptList.item(number))
        found.append([label.text for label in row.findChildren(gui.qt.QLabel)])
    return found


def table(panel):
    t = panel.ui.resultsTable
    return [[t.item(r, c).text() if t.item(r, c) else "" for c in range(1, 5)] for r in range(t.rowCount)]


def run(panel):
    click(panel.ui.segmentButton)
    spin(lambda: not panel.isRunning)


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


def test_advanced_choices_reach_the_run(panel):
    volume = addVolume(matrix=np.eye(4))
    panel.enter()
    panel.prompts.add("mandible")
    run(panel)
    node = panel.parameters.segmentation
    panel.ui.existingComboBox.setCurrentIndex(3)
    assert panel.parameters.existing is Existing.SUBTRACT
    panel.ui.regionComboBox.setCurrentIndex(1)
    assert not panel.ui.roiSelector.isHidden()
    run(panel)
    assert "No region of interest" in panel.messages.text
    roi = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "ROI")
    roi.SetCenter(20, 17, 20)
    roi.SetSize(80, 80, 20)
    panel.ui.roiSelector.setCurrentNode(roi)
    panel.ui.probabilityCheckBox.checked = True
    run(panel)
    assert panel.parameters.probability is True
    left = bright()[1].copy()
    left[10:] = 0
    np.testing.assert_array_equal(slicer.util.arrayFromSegmentBinaryLabelmap(node, node.GetSegmentation().GetNthSegmentID(0), volume), left)
    assert slicer.mrmlScene.GetFirstNodeByName("mandible probability (%)")
    panel.ui.deviceComboBox.setCurrentIndex(2)
    run(panel)
    assert "'cuda' is not available" in panel.messages.text
    assert "CPU always works" in panel.messages.text


def test_weights_from_a_file(panel, tmp_path):
    addVolume()
    panel.enter()
    panel.prompts.add("mandible")
    weights = tmp_path / "Modell ä 1.safetensors"
    weights.write_bytes(b"x")
    panel.models.askForFile = lambda: str(weights)
    click(panel.ui.modelFileButton)
    assert panel.parameters.model == str(weights)
    assert panel.ui.modelComboBox.currentText == weights.name
    run(panel)
    assert "Modell ä 1" in panel.ui.modelCardLabel.text
    weights.unlink()
    session.stop()
    run(panel)
    assert "does not exist" in panel.messages.text


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


def test_release_ends_the_engine(panel):
    addVolume()
    panel.enter()
    panel.prompts.add("mandible")
    run(panel)
    assert session.engineRunner().isAlive
    click(panel.ui.releaseButton)
    assert not session.engineRunner().isAlive
    assert panel.ui.memoryLabel.text == "not running"


def test_missing_packages_are_asked_for_once_inside_the_panel(panel, monkeypatch):
    addVolume()
    panel.enter()
    panel.prompts.add("mandible")
    installed, missing = [], ["torch", "open_clip_torch"]
    monkeypatch.setattr(installer, "missingPackages", lambda: list(missing))
    monkeypatch.setattr(installer, "install", lambda names: (installed.extend(names), missing.clear()))
    click(panel.ui.segmentButton)
    assert not panel.isRunning
    assert "torch, open_clip_torch" in panel.messages.text
    assert "2.5 GB" in panel.messages.text
    panel.messages._onLink("Not now")
    assert installed == []
    click(panel.ui.segmentButton)
    panel.messages._onLink("Install")
    spin(lambda: panel.isRunning, timeout=400)
    spin(lambda: not panel.isRunning)
    assert installed == ["torch", "open_clip_torch"]
    assert table(panel)[0][0] == "mandible"


def test_failed_installation_is_shown_and_can_be_tried_again(panel, monkeypatch):
    addVolume()
    panel.enter()
    panel.prompts.add("mandible")
    monkeypatch.setattr(installer, "missingPackages", lambda: ["torch"])

    def broken(names):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(installer, "install", broken)
    click(panel.ui.segmentButton)
    panel.messages._onLink("Install")
    settle()
    assert "No space left" in panel.messages.text


def test_diagnostics_report_can_be_copied(panel):
    click(panel.ui.diagnosticsButton)
    spin(lambda: "Devices:" in panel.ui.diagnosticsTextEdit.toPlainText(), timeout=400)
    click(panel.ui.copyReportButton)
    text = gui.qt.QApplication.clipboard().text()
    assert "RefSAM3D" in text
    assert "torch" in text


def test_a_slot_that_fails_says_so_in_the_panel(panel, monkeypatch):
    monkeypatch.setattr(session, "stop", lambda: 1 / 0)
    click(panel.ui.releaseButton)
    assert "division by zero" in panel.messages.text


class Downloads:
    """Stands for the process that downloads."""

    def __init__(self):
        self.asked, self.cancelled = [], []

    def ask(self, kind, answer, onProgress=None, **fields):
        self.asked.append((kind.__name__, fields))
        self.answer, self.progress = answer, onProgress
        return 7

    def cancelAsk(self, number):
        self.cancelled.append(number)


def test_a_listed_model_is_installed_stopped_and_removed(panel, tmp_path, monkeypatch):
    from RefSAM3DLib.models_registry import ModelEntry
    from RefSAM3DSlicer import models_section

    entry = ModelEntry("refsam3d-big", "big.safetensors", "https://example.org/big", 4, "0" * 64, "CC-BY-4.0", ("larynx",))
    monkeypatch.setattr(ModelEntry, "path", property(lambda self: tmp_path / self.file))
    monkeypatch.setattr(models_section, "knownModels", lambda: [entry])
    downloads = Downloads()
    monkeypatch.setattr(session, "downloadRunner", lambda: downloads)
    panel.models.refresh()
    assert panel.ui.modelComboBox.itemText(1).startswith("refsam3d-big")
    assert "not installed" in panel.ui.modelComboBox.itemText(1)
    panel.ui.modelComboBox.setCurrentIndex(1)
    assert panel.parameters.model == str(entry.path)
    assert not panel.ui.installModelButton.isHidden()
    panel.models.installOrCancel()
    assert downloads.asked == [("Fetch", {"name": "refsam3d-big"})]
    assert "CC-BY-4.0" in panel.messages.text
    downloads.progress(0.42)
    assert "42 %" in panel.messages.text
    assert panel.ui.installModelButton.text == "Stop"
    panel.models.installOrCancel()
    assert downloads.cancelled == [7]
    downloads.answer({"cancelled": True})
    assert "stopped" in panel.messages.text
    panel.models.installOrCancel()
    downloads.answer({"error": "wrong checksum"})
    assert panel.messages.text == "wrong checksum"
    panel.models.installOrCancel()
    entry.path.write_bytes(b"1234")
    downloads.answer({"path": str(entry.path)})
    assert "is installed" in panel.messages.text
    assert panel.ui.installModelButton.isHidden()
    assert not panel.ui.removeModelButton.isHidden()
    panel.models.remove()
    assert not entry.path.exists()


def test_read_only_settings_and_a_comma_locale_do_no_harm(panel, monkeypatch):
    import locale

    class ReadOnly:
        def value(self, key, default=None):
            return default

        def setValue(self, key, value):
            """Nothing is written; QSettings reports that only in its status."""

    monkeypatch.setattr(slicer.app, "userSettings", lambda: ReadOnly())
    previous = locale.setlocale(locale.LC_NUMERIC)
    try:
        for name in ("de_DE.UTF-8", "fr_FR.UTF-8", "C"):
            try:
                locale.setlocale(locale.LC_NUMERIC, name)
                break
            except locale.Error:
                continue
        addVolume()
        panel.enter()
        panel.prompts.add("mandible")
        run(panel)
    finally:
        locale.setlocale(locale.LC_NUMERIC, previous)
    node = panel.parameters.segmentation
    import vtk

    value = vtk.reference("")
    node.GetSegmentation().GetNthSegment(0).GetTag("RefSAM3D.Presence", value)
    assert str(value) == "0.5500"


def test_model_card_of_a_real_checkpoint_reads_like_one(panel):
    from RefSAM3DSlicer.card_view import cardHtml
    from RefSAM3DSlicer.runs import EngineInfo

    card = {
        "intended_use": "Research.",
        "disclaimer": "Not for diagnosis.",
        "limits": ["Trained on <few> sets."],
        "data": [{"name": "OpenKBP", "licence": "CC BY-NC", "citation": "x"}],
        "scores": {"split": "test", "structures": {"larynx": {"dice": {"mean": 0.713, "n": 40, "interval": [0.6, 0.8]}}}},
    }
    text = cardHtml(card, EngineInfo("refsam3d-small", "ab" * 32))
    for part in ("refsam3d-small", "abababababab", "Not for diagnosis.", "larynx", "0.71", "40", "(test)", "OpenKBP: CC BY-NC", "&lt;few&gt;"):
        assert part in text
    assert cardHtml({}) == ""
    assert "Not for diagnosis." in cardHtml({"structures": ["larynx"]})
