"""Choice of the weights: what came with the extension, what was downloaded, a file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qt
from slicer.i18n import tr as _

from .advanced import select
from .message_strip import MessageStrip
from .parameters import RefSAM3DParameterNode
from .pythonqt import connect

WEIGHTS_FILTER = "Weights (*.safetensors *.refsam3d);;All files (*)"


class ModelsSection:
    """The model combo box and the buttons beside it."""

    def __init__(self, ui: Any, messages: MessageStrip, onChanged: Callable[[], None]) -> None:
        self._ui, self._messages, self._onChanged = ui, messages, onChanged
        self._parameters: RefSAM3DParameterNode | None = None
        #: Asks for a file name; replaced in tests.
        self.askForFile: Callable[[], str] = lambda: qt.QFileDialog.getOpenFileName(None, _("Weights of a model"), "", WEIGHTS_FILTER)
        connect(ui.modelComboBox, "currentIndexChanged(int)", self._onChosen)
        connect(ui.modelFileButton, "clicked()", self.chooseFile)
        self.refresh()

    def setParameterNode(self, parameters: RefSAM3DParameterNode | None) -> None:
        """None while the scene closes."""
        self._parameters = parameters
        self.refresh()

    def refresh(self) -> None:
        """Entries: the default, and the file in use if there is one."""
        combo, current = self._ui.modelComboBox, self._parameters.model if self._parameters else ""
        blocked = combo.blockSignals(True)
        combo.clear()
        combo.addItem(_("Default (comes with the extension)"), "")
        if current:
            combo.addItem(current.replace("\\", "/").rpartition("/")[2], current)
        combo.blockSignals(blocked)
        select(combo, current)
        for button in (self._ui.installModelButton, self._ui.removeModelButton):
            button.setVisible(False)

    def chooseFile(self) -> None:
        """Use a weights file from the disk; the engine checks it when it loads."""
        path = self.askForFile()
        if path and self._parameters is not None:
            self._parameters.model = str(path)
            self.refresh()
            self._onChanged()

    def _onChosen(self, index: int) -> None:
        if self._parameters is not None and index >= 0:
            self._parameters.model = str(self._ui.modelComboBox.itemData(index) or "")
            self._onChanged()
