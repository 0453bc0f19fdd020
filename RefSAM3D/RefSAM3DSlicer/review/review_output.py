"""What comes out of a review: report, agreement of the reviewers, signed-off results, training manifest.

Each is the command of ``refsam3d review`` in a process of its own, so that hundreds of cases do not stop the application.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import qt
from slicer.i18n import tr as _

from RefSAM3DLib.errors import InputError

from .cli_task import CommandTask

AGREEMENT_HEADERS = (_("Reviewers"), _("Structure"), _("Items"), _("Same"), _("Kappa"), _("Dice"))
#: Folders below the chosen one.
SIGNED, TRAINING = "signed-off", "training"


def openFile(path: Path) -> bool:
    """Show a file or folder with what the system uses for it."""
    return bool(qt.QDesktopServices.openUrl(qt.QUrl.fromLocalFile(str(path))))


def fillAgreement(table: Any, rows: list[dict[str, Any]]) -> None:
    """One line a pair of reviewers and structure; a dash where a number does not exist."""
    table.setRowCount(0)
    table.setRowCount(len(rows))
    for number, row in enumerate(rows):
        kappa, dice = ("–" if row[name] is None else f"{row[name]:.2f}" for name in ("kappa", "dice"))
        texts = (f"{row['first']} / {row['second']}", row["structure"], str(row["items"]), str(row["same_verdict"]), kappa, dice)
        tips = (
            *texts[:2],
            _("Items that both have decided"),
            _("Items with the same verdict"),
            _("Cohen's kappa of the verdicts: agreement beyond chance; – where chance alone explains everything"),
            _("Mean over {n} items of which both kept a mask").format(n=row["dice_items"]),
        )
        for column, (text, tip) in enumerate(zip(texts, tips, strict=True)):
            item = qt.QTableWidgetItem(text)
            item.setToolTip(tip)
            table.setItem(number, column, item)


class ReviewOutput:
    """Works for the review that is open in a :class:`~.review_section.ReviewSection`, one command at a time."""

    def __init__(self, section: Any) -> None:
        self._section = section
        self.task: CommandTask | None = None

    @property
    def isRunning(self) -> bool:
        """True while a command is not over."""
        return self.task is not None and not self.task.isOver

    def cancel(self) -> None:
        """Stop; files are only renamed into place when they are complete."""
        if self.task is not None:
            self.task.cancel()

    # ---- the buttons

    def report(self) -> None:
        """Write ``report.html`` anew, with the state of the review, and show it in the browser."""
        self._run(_("Writing the report"), ["report"], self._onReport, self._section.ui.identifiersBox.checked, "--show-identifiers")

    def agreement(self) -> None:
        """Compare the decisions and masks of all reviewers of the folder."""
        self._run(_("Comparing the reviewers"), ["agreement", self._reviewer(), "--json"], self._onAgreement)

    def signOff(self, overwrite: bool = False) -> None:
        """Write the result of the study that is open: JSON, and DICOM SEG where the image is DICOM.

        Raises:
            InputError: no item is open, or no folder is chosen.
        """
        item = self._section.view.item if self._section.view is not None else None
        if item is None:
            raise InputError(_("No item is open; choose one of the study in the table."))
        target = self._target() / SIGNED
        if not overwrite and (target / f"{item.case}.reviewed.json").exists():
            replace = {_("Replace it"): lambda: self._section.attempt(lambda: self.signOff(overwrite=True))}
            self._section.messages.show("warning", _("'{name}' was signed off before.").format(name=item.name or item.case), replace)
            return
        command = ["result", self._reviewer(), "-o", str(target)]
        self._run(_("Signing off"), command, lambda task: self._onSignedOff(task, target), overwrite, "--overwrite", positional=item.case)

    def export(self) -> None:
        """Write the accepted cases for the training package's ``finetune``.

        Raises:
            InputError: no folder is chosen.
        """
        target = self._target() / TRAINING
        command = ["export", self._reviewer(), "-o", str(target)]
        only = f"--only={self._section.session.reviewer}" if self._section.session is not None else ""
        self._run(_("Exporting"), command, lambda task: self._onExported(task, target), self._section.ui.mineOnlyBox.checked, only)

    # ---- inside

    def _reviewer(self) -> str:
        return f"--reviewer={self._section.session.reviewer}" if self._section.session is not None else ""

    def _target(self) -> Path:
        text = self._section.ui.targetEdit.currentPath.strip()
        if not text:
            raise InputError(_("No folder for the results is chosen; choose one beside 'Results go to'."))
        return Path(text)

    def _run(self, doing: str, command: list[str], onDone: Callable[[CommandTask], None], flag: bool = False, option: str = "", positional: str = "") -> None:
        section = self._section
        if section.session is None:
            raise InputError(_("No review is open."))
        if self.isRunning:
            raise InputError(_("Something is being written already; wait for it or stop it first."))
        section.saveDraft()
        arguments = ["review", command[0], str(section.session.folder), *([positional] if positional else []), *command[1:], *([option] if flag else [])]
        section.messages.show("info", doing + " …", {_("Stop"): self.cancel})
        self.task = CommandTask(arguments, lambda task: self._onEnd(task, onDone))
        section.update()

    def _onEnd(self, task: CommandTask, onDone: Callable[[CommandTask], None]) -> None:
        self.task, section = None, self._section
        if section.session is None:
            return
        section.update()
        if task.wasCancelled:
            section.messages.show("info", _("Stopped."))
        elif task.failure:
            section.messages.show("error", task.failure)
        else:
            onDone(task)

    def _done(self, task: CommandTask, text: str, place: Path) -> None:
        """Say it, with what the command remarked and a link to the folder."""
        notes = [line for line in task.notes if line not in self._section.session.notes]
        self._section.messages.show("warning" if notes else "info", "\n".join([text, *notes]), {_("Open folder"): lambda: openFile(place)})

    def _onReport(self, task: CommandTask) -> None:
        path = self._section.session.folder / "report.html"
        self._section.messages.show("info", str(path), {_("Show again"): lambda: openFile(path)})
        if not openFile(path):
            self._section.messages.show("warning", _("The report is written, but no browser could be started: {path}").format(path=path))

    def _onAgreement(self, task: CommandTask) -> None:
        rows = json.loads("\n".join(task.lines))
        table = self._section.ui.agreementTable
        fillAgreement(table, rows)
        table.setVisible(bool(rows))
        self._section.messages.clear()
        if not rows:
            self._section.messages.show("info", _("Fewer than two reviewers have decided on the same items of this folder."))

    def _onSignedOff(self, task: CommandTask, target: Path) -> None:
        names = ", ".join(Path(line).name for line in task.lines if line.strip())
        self._done(task, _("Signed off: {names}").format(names=names), target)

    def _onExported(self, task: CommandTask, target: Path) -> None:
        numbers = task.lines[-1].rpartition(": ")[2] if task.lines else ""
        self._done(task, _("Exported: {numbers}. 'python -m refsam3d_training finetune' takes the folder.").format(numbers=numbers), target)
