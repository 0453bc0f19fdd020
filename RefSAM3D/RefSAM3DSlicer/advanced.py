"""The Advanced section: model, adapter, device, output, region, memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from slicer.i18n import tr as _

from .card_view import cardHtml
from .parameters import RefSAM3DParameterNode
from .pythonqt import connect
from .runs import EngineInfo
from .segmentation_writer import Existing

EXISTING_TEXTS = (
    (Existing.NEW, _("Make a new segment")),
    (Existing.REPLACE, _("Replace it")),
    (Existing.ADD, _("Add to it")),
    (Existing.SUBTRACT, _("Subtract from it")),
    (Existing.INTERSECT, _("Keep only what both share")),
)
REGION_TEXTS = (("volume", _("Whole volume")), ("roi", _("Region of interest (ROI)")), ("view", _("What the slice views show")))
DEVICE_TEXTS = (("auto", _("Automatic")), ("cpu", _("Processor (CPU)")), ("cuda", _("NVIDIA GPU (CUDA)")), ("mps", _("Apple GPU (MPS)")))
MODALITY_TEXTS = (("", _("Automatic")), ("ct", _("CT")), ("mr", _("MR")), ("pet", _("PET")))
FRAME_TEXTS = (("current", _("Current frame")), ("all", _("All frames of the sequence")))


def fillCombo(combo: Any, texts: Any) -> None:
    """Entries with their key as user data."""
    blocked = combo.blockSignals(True)
    combo.clear()
    for key, text in texts:
        combo.addItem(text, key.name if isinstance(key, Existing) else key)
    combo.blockSignals(blocked)


def select(combo: Any, key: str) -> None:
    """Choose by key without a signal."""
    blocked = combo.blockSignals(True)
    index = next((n for n in range(combo.count) if (combo.itemData(n) or "") == key), 0)
    combo.setCurrentIndex(index)
    combo.blockSignals(blocked)


class AdvancedSection:
    """Keeps the combo boxes in step with the parameter node; what :func:`connectGui` can do itself is declared in the .ui file."""

    def __init__(self, ui: Any, onChanged: Callable[[], None]) -> None:
        self._ui, self._onChanged = ui, onChanged
        self._parameters: RefSAM3DParameterNode | None = None
        for combo, texts in (
            (ui.existingComboBox, EXISTING_TEXTS),
            (ui.regionComboBox, REGION_TEXTS),
            (ui.deviceComboBox, DEVICE_TEXTS),
            (ui.framesComboBox, FRAME_TEXTS),
            (ui.modalityComboBox, MODALITY_TEXTS),
        ):
            fillCombo(combo, texts)
        connect(ui.existingComboBox, "currentIndexChanged(int)", lambda i: self._set("existing", Existing[ui.existingComboBox.itemData(i)]))
        connect(ui.regionComboBox, "currentIndexChanged(int)", lambda i: self._set("region", ui.regionComboBox.itemData(i)))
        connect(ui.deviceComboBox, "currentIndexChanged(int)", lambda i: self._set("device", ui.deviceComboBox.itemData(i)))
        connect(ui.modalityComboBox, "currentIndexChanged(int)", lambda i: self._set("modality", ui.modalityComboBox.itemData(i) or ""))
        connect(ui.framesComboBox, "currentIndexChanged(int)", lambda i: self._set("frames", ui.framesComboBox.itemData(i)))
        connect(ui.adapterPathLineEdit, "currentPathChanged(QString)", lambda path: self._set("adapter", path))

    def setParameterNode(self, parameters: RefSAM3DParameterNode | None) -> None:
        """None while the scene closes."""
        self._parameters = parameters
        self.update()

    def update(self) -> None:
        """Parameters to widgets."""
        p, ui = self._parameters, self._ui
        if p is None:
            return
        select(ui.existingComboBox, p.existing.name)
        select(ui.regionComboBox, p.region)
        select(ui.deviceComboBox, p.device)
        select(ui.modalityComboBox, p.modality)
        select(ui.framesComboBox, p.frames)
        if ui.adapterPathLineEdit.currentPath != p.adapter:
            ui.adapterPathLineEdit.currentPath = p.adapter
        for widget in (ui.roiLabel, ui.roiSelector):
            widget.setVisible(p.region == "roi")

    def showCard(self, info: EngineInfo) -> None:
        """Of the engine that is loaded."""
        self._ui.modelCardLabel.setText(cardHtml(info.card, info))

    def showMemory(self, data: dict[str, Any] | None) -> None:
        """Answer of the worker; None without one."""
        if data is None:
            self._ui.memoryLabel.setText(_("not running"))
            return
        resident, cached = data.get("resident_bytes", 0) / 2**20, data.get("cached_bytes", 0) / 2**20
        text = _("{cached:.0f} MB in encoded images").format(cached=cached)
        if resident:
            text = _("{resident:.0f} MB in use, of it ").format(resident=resident) + text
        self._ui.memoryLabel.setText(f"{text} ({data.get('device', '')})")

    def _set(self, name: str, value: Any) -> None:
        if self._parameters is not None and getattr(self._parameters, name) != value:
            setattr(self._parameters, name, value)
            self.update()
            self._onChanged()
