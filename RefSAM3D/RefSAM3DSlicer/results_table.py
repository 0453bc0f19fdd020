"""The answers, one line each: colour, structure, verdict, confidence, volume, and a jump to the place."""

from __future__ import annotations

from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from .pythonqt import connect
from .sequence_browser import showFrame
from .task import Outcome

_VERDICTS = {
    "present": (_("present"), "#1a7f37"),
    "uncertain": (_("uncertain"), "#9a6700"),
    "absent": (_("absent"), "#57606a"),
    "unknown": (_("unknown word"), "#b42318"),
}


#: Pixels: of the header and frame, of a table without lines, and from which height on it scrolls rather than grows.
HEADER_PX, EMPTY_PX, FULL_PX = 32, 70, 280


def percent(value: float | None) -> str:
    """Empty for a number that does not exist."""
    return "" if value is None else f"{100.0 * value:.0f} %"


def verdictText(outcome: Outcome) -> str:
    """ "present (97 %)"; the number is the calibrated probability that the structure is in the image."""
    text = _VERDICTS.get(outcome.result.verdict, (outcome.result.verdict, ""))[0]
    return f"{text} ({percent(outcome.result.presence)})" if outcome.result.presence is not None else text


def nameOf(outcome: Outcome) -> str:
    """The structure; for one of several frames with its number, counted from 1."""
    name = outcome.result.resolved or outcome.result.prompt
    return name if outcome.frame is None else _("{name}, frame {number}").format(name=name, number=outcome.frame + 1)


class ResultsTable:
    """Fills a QTableWidget with the outcomes of a task."""

    HEADERS = ("", _("Structure"), _("Verdict"), _("Conf."), _("mL"), "")
    TIPS = ((2, _("Calibrated probability that the structure is in the image")), (3, _("Confidence: mean certainty of the drawn voxels")), (4, _("Volume")))

    def __init__(self, table: Any) -> None:
        self._table = table
        self._segmentationID = ""
        self._outcomes: list[Outcome] = []
        table.setColumnCount(len(self.HEADERS))
        table.setHorizontalHeaderLabels(list(self.HEADERS))
        for column, tip in self.TIPS:
            table.horizontalHeaderItem(column).setToolTip(tip)
        table.verticalHeader().hide()
        for column, width in ((0, 24), (3, 52), (4, 56), (5, 52)):
            table.setColumnWidth(column, width)
        table.horizontalHeader().setSectionResizeMode(1, qt.QHeaderView.Stretch)
        table.horizontalHeader().setSectionResizeMode(2, qt.QHeaderView.ResizeToContents)
        self._fit(0)
        connect(table, "cellDoubleClicked(int,int)", lambda row, column: self.jump(row))

    def fill(self, outcomes: list[Outcome], segmentationNode: Any) -> None:
        """Show the outcomes of one task."""
        self._outcomes = list(outcomes)
        self._segmentationID = segmentationNode.GetID() if segmentationNode is not None else ""
        self._table.setRowCount(0)
        self._table.setRowCount(len(outcomes))
        for row, outcome in enumerate(outcomes):
            result = outcome.result
            colour = self._colour(outcome)
            texts = (
                "",
                nameOf(outcome),
                verdictText(outcome),
                percent(result.confidence),
                f"{result.volumeMl:.1f}" if outcome.segmentID else "",
            )
            notes = [outcome.note, *result.warnings]
            if result.suggestions:
                notes.append(_("Did you mean: {names}?").format(names=", ".join(result.suggestions[:3])))
            tip = "\n".join(n for n in (_("Asked for: {prompt}").format(prompt=result.prompt), *notes) if n)
            for column, text in enumerate(texts):
                item = qt.QTableWidgetItem(text)
                item.setToolTip(tip)
                if column == 2:
                    item.setForeground(qt.QBrush(qt.QColor(_VERDICTS.get(result.verdict, ("", "#000000"))[1])))
                if column == 0 and outcome.segmentID:
                    item.setBackground(qt.QBrush(qt.QColor(*colour)))
                self._table.setItem(row, column, item)
            if outcome.segmentID:
                button = qt.QToolButton()
                button.setText(_("Go to"))
                button.setAutoRaise(True)
                button.setToolTip(_("Centre the slice views on this structure"))
                connect(button, "clicked()", lambda row=row: self.jump(row))
                self._table.setCellWidget(row, 5, button)
        self._fit(len(outcomes))

    def _fit(self, rows: int) -> None:
        """As high as its lines, within reason: the sections below stay in sight."""
        height = HEADER_PX + rows * (self._table.rowHeight(0) if rows else 0)
        self._table.setMinimumHeight(min(max(height, EMPTY_PX), FULL_PX))
        self._table.setMaximumHeight(max(height, EMPTY_PX))

    def clear(self) -> None:
        """No results."""
        self.fill([], None)

    def jump(self, row: int) -> None:
        """Centre the slice views on a structure; nothing happens if it is not there any more."""
        node = slicer.mrmlScene.GetNodeByID(self._segmentationID) if self._segmentationID else None
        if node is None or not 0 <= row < len(self._outcomes) or not self._outcomes[row].segmentID:
            return
        frame = self._outcomes[row].frame
        if frame is not None:
            showFrame(node, frame)
        if node.GetSegmentation().GetSegment(self._outcomes[row].segmentID) is None:
            return
        centre = node.GetSegmentCenterRAS(self._outcomes[row].segmentID)
        if centre is not None:
            slicer.vtkMRMLSliceNode.JumpAllSlices(slicer.mrmlScene, *centre, slicer.vtkMRMLSliceNode.CenteredJumpSlice)

    def _colour(self, outcome: Outcome) -> tuple[int, int, int]:
        node = slicer.mrmlScene.GetNodeByID(self._segmentationID) if self._segmentationID else None
        segment = node.GetSegmentation().GetSegment(outcome.segmentID) if node is not None and outcome.segmentID else None
        if segment is None:
            return outcome.result.colour
        red, green, blue = (round(255 * part) for part in segment.GetColor())
        return red, green, blue
