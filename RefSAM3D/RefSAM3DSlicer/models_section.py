"""Choice of the weights: what came with the extension, what can be downloaded, a file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qt
from slicer.i18n import tr as _

from RefSAM3DLib.errors import RefSAM3DError
from RefSAM3DLib.models_registry import DEFAULT_NAME, ModelEntry, read_registry
from RefSAM3DLib.worker_protocol import Fetch

from . import session
from .advanced import select
from .message_strip import MessageStrip
from .parameters import RefSAM3DParameterNode
from .pythonqt import connect

WEIGHTS_FILTER = "Weights (*.safetensors);;All files (*)"


def knownModels() -> list[ModelEntry]:
    """Of the registry, without the one that ships. A broken list leaves the default model usable."""
    try:
        return [entry for entry in read_registry() if entry.name != DEFAULT_NAME]
    except RefSAM3DError:
        return []


class ModelsSection:
    """The model combo box and the buttons beside it."""

    def __init__(self, ui: Any, messages: MessageStrip, onChanged: Callable[[], None]) -> None:
        self._ui, self._messages, self._onChanged = ui, messages, onChanged
        self._parameters: RefSAM3DParameterNode | None = None
        self._download = 0
        #: Asks for a file name; replaced in tests.
        self.askForFile: Callable[[], str] = lambda: qt.QFileDialog.getOpenFileName(None, _("Weights of a model"), "", WEIGHTS_FILTER)
        connect(ui.modelComboBox, "currentIndexChanged(int)", self._onChosen)
        connect(ui.modelFileButton, "clicked()", self.chooseFile)
        connect(ui.installModelButton, "clicked()", self.installOrCancel)
        connect(ui.removeModelButton, "clicked()", self.remove)
        self.refresh()

    def setParameterNode(self, parameters: RefSAM3DParameterNode | None) -> None:
        """None while the scene closes."""
        self._parameters = parameters
        self.refresh()

    @property
    def chosen(self) -> ModelEntry | None:
        """The registry's entry that is chosen, or None for the default and for a file."""
        key = self._ui.modelComboBox.itemData(self._ui.modelComboBox.currentIndex) or ""
        return next((entry for entry in knownModels() if str(entry.path) == key), None)

    def follow(self) -> None:
        """The parameters may have come with a scene: show the model that is used, not the one that was chosen before."""
        combo = self._ui.modelComboBox
        if self._parameters is not None and (combo.itemData(combo.currentIndex) or "") != self._parameters.model:
            self.refresh()
            self._onChanged()

    def refresh(self) -> None:
        """Entries: the default, those of the registry, and the file in use if there is one."""
        combo, current = self._ui.modelComboBox, self._parameters.model if self._parameters else ""
        blocked = combo.blockSignals(True)
        combo.clear()
        combo.addItem(_("Default (comes with the extension)"), "")
        for entry in knownModels():
            size = "" if entry.is_installed else _(" – {size:.0f} MB, not installed").format(size=entry.size_bytes / 1e6)
            combo.addItem(entry.name + size, str(entry.path))
        if current and current not in [combo.itemData(n) for n in range(combo.count)]:
            combo.addItem(current.replace("\\", "/").rpartition("/")[2], current)
        combo.blockSignals(blocked)
        select(combo, current)
        self._updateButtons()

    def chooseFile(self) -> None:
        """Use a weights file from the disk; the engine checks it when it loads."""
        path = self.askForFile()
        if path and self._parameters is not None:
            self._parameters.model = str(path)
            self.refresh()
            self._onChanged()

    def installOrCancel(self) -> None:
        """Download the chosen model, or stop its download. Only ever after a click; nothing is uploaded."""
        entry = self.chosen
        if self._download:
            session.downloadRunner().cancelAsk(self._download)
            return
        if entry is None or not entry.url:
            return
        text = _("Downloading {name} ({size:.0f} MB, licence: {licence})").format(name=entry.name, size=entry.size_bytes / 1e6, licence=entry.licence)
        self._messages.show("info", text + "…")

        def answered(data: dict[str, Any] | None) -> None:
            self._download = 0
            self.refresh()
            if data is None:
                self._messages.show("error", _("The download ended unexpectedly; try again, it continues where it stopped."))
            elif data.get("cancelled"):
                self._messages.show("info", _("The download was stopped; it continues there next time."))
            elif "error" in data:
                self._messages.show("error", data["error"])
            else:
                self._messages.show("info", _("{name} is installed.").format(name=entry.name))
                self._onChanged()

        def progressed(fraction: float) -> None:
            self._messages.show("info", f"{text}: {int(100 * fraction)} %")

        self._download = session.downloadRunner().ask(Fetch, answered, progressed, name=entry.name)
        self._updateButtons()

    def remove(self) -> None:
        """Delete a downloaded model and what is left of a broken download."""
        entry = self.chosen
        if entry is None or not entry.url:
            return
        if self._download:
            self._messages.show("info", _("{name} is being downloaded; stop the download, then remove it.").format(name=entry.name))
            return
        if not session.release():  # Windows deletes no file that a process has open
            self._messages.show("info", _("A segmentation is running; wait for it or cancel it, then remove {name}.").format(name=entry.name))
            return
        try:
            for path in (entry.path, entry.path.with_name(entry.path.name + ".part")):
                path.unlink(missing_ok=True)
        except OSError as error:
            text = _("{name} could not be removed: {reason}. Close other programs that use it, such as a batch, and try again.")
            self._messages.show("error", text.format(name=entry.name, reason=error.strerror or error))
            return
        self.refresh()
        self._messages.show("info", _("{name} was removed from this computer.").format(name=entry.name))

    def _updateButtons(self) -> None:
        entry, install, remove = self.chosen, self._ui.installModelButton, self._ui.removeModelButton
        install.setVisible(bool(self._download or (entry is not None and entry.url and not entry.is_installed)))
        install.text = _("Stop") if self._download else _("Install")
        remove.setVisible(entry is not None and bool(entry.url) and entry.is_installed)

    def _onChosen(self, index: int) -> None:
        if self._parameters is not None and index >= 0:
            self._parameters.model = str(self._ui.modelComboBox.itemData(index) or "")
            self._updateButtons()
            self._onChanged()
