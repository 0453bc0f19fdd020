"""The panel's Advanced section and what it needs: model, adapter, device, packages, diagnostics."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed: pip install slicer-core==5.13.31053.0")
pytest.importorskip("PySide6", reason="PySide6-Essentials is not installed")

import gui_cases as gui
import slicer
from gui_cases import click, settle, spin
from mrml_cases import addVolume, bright
from panel_cases import run, table
from RefSAM3DSlicer import diagnostics, installer, session
from RefSAM3DSlicer.segmentation_writer import Existing


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
    monkeypatch.setattr(installer, "hasGpu", lambda: True)
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


def test_packages_can_be_installed_before_there_is_an_image(panel, monkeypatch):
    installed, missing = [], ["torch"]
    monkeypatch.setattr(installer, "missingPackages", lambda: list(missing))
    monkeypatch.setattr(installer, "install", lambda names: (installed.extend(names), missing.clear()))
    panel.enter()
    panel.updateButton()
    assert panel.ui.segmentButton.enabled
    assert panel.ui.segmentButton.text == "Install what is missing"
    click(panel.ui.segmentButton)
    assert "torch" in panel.messages.text
    panel.messages._onLink("Install")
    spin(lambda: panel.ui.segmentButton.text == "Segment", timeout=400)
    assert installed == ["torch"]
    assert not panel.isRunning
    assert not panel.ui.segmentButton.enabled


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


def test_the_report_names_no_user_however_windows_writes_the_path(monkeypatch):
    monkeypatch.setattr(diagnostics.Path, "home", lambda: r"C:\Users\muster")
    text = r"C:\Users\muster\x 'C:\\Users\\muster\\y' C:/Users/muster/AppData"
    assert diagnostics.withoutHome(text) == r"~\x '~\\y' ~/AppData"


def test_diagnostics_report_can_be_copied(panel):
    click(panel.ui.diagnosticsButton)
    spin(lambda: "Devices:" in panel.ui.diagnosticsTextEdit.toPlainText(), timeout=400)
    click(panel.ui.copyReportButton)
    text = gui.qt.QApplication.clipboard().text()
    assert "RefSAM3D" in text
    assert "torch" in text


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
    assert "Adapter" not in text
    tuned = cardHtml({**card, "adapter": {"answers_for": ["larynx", "<b>"], "cases": 20}})
    assert "answers for larynx, &lt;b&gt;, tuned on 20 cases and not measured; the model itself answers for everything else." in tuned
    assert cardHtml({}) == ""
    assert "Not for diagnosis." in cardHtml({"structures": ["larynx"]})
