"""The Compare section: two segmentations of one volume as numbers, difference segments and linked slice views."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import qt
import slicer
from slicer.i18n import tr as _

from RefSAM3DLib.errors import InputError, RefSAM3DError

from ..pythonqt import TickTimer, connect
from ..segmentation_writer import SegmentationWriter, createSegmentation
from ..volume_bridge import checkVolume, shapeOf
from ..waiting import waiting
from .review_scene import jumpTo
from .review_widgets import button, row
from .scene_arrays import checkVoxels, geometryOf, segmentArray
from .side_by_side import SideBySide, linkViews

HEADERS = (_("Structure"), _("Dice"), _("NSD 2 mm"), _("Mean mm"), _("First mL"), _("Second mL"))
#: Columns of ``compare_masks`` and their decimals.
NUMBERS = (("dice", 3), ("nsd_2mm", 3), ("mean_surface_mm", 2), ("first_ml", 1), ("second_ml", 1))


def pairsByName(first: Any, second: Any) -> list[tuple[str, str, str]]:
    """Name and both segment IDs ("" where one has none); case does not matter.

    Raises:
        InputError: the two have no structure in common.
    """
    sides: list[dict[str, tuple[str, str]]] = []
    for node in (first, second):
        segmentation, found = node.GetSegmentation(), {}
        for index in range(segmentation.GetNumberOfSegments()):
            name = segmentation.GetNthSegment(index).GetName()
            names = itertools.chain([name], (f"{name} ({number})" for number in itertools.count(2)))
            unique = next(candidate for candidate in names if candidate.casefold() not in found)
            found[unique.casefold()] = (unique, segmentation.GetNthSegmentID(index))
        sides.append(found)
    a, b = sides
    if not set(a) & set(b):
        raise InputError(
            _("'{first}' and '{second}' have no structure of the same name; rename the segments.").format(first=first.GetName(), second=second.GetName())
        )
    return [((a.get(key) or b[key])[0], a.get(key, ("", ""))[1], b.get(key, ("", ""))[1]) for key in dict.fromkeys([*a, *b])]


def compareNodes(first: Any, second: Any, volumeNode: Any) -> Iterator[Any]:
    """A ``Comparison`` a structure, on the voxels of the volume.

    Raises:
        RefSAM3DError: nothing in common, or a segment was removed meanwhile.
    """
    from RefSAM3DLib.compare import Comparison, compare_masks

    geometry, empty = geometryOf(volumeNode), np.zeros(shapeOf(volumeNode), bool)
    for name, idA, idB in pairsByName(first, second):
        a, b = (segmentArray(node, segmentID, volumeNode) if segmentID else empty for node, segmentID in ((first, idA), (second, idB)))
        yield Comparison(name, a, b, {"structure": name, "in_first": bool(idA), "in_second": bool(idB), **compare_masks(a, b, geometry)})


class CompareSection:
    """One structure a tick, so that the application stays alive."""

    def __init__(self, container: Any, messages: Any, getParameters: Callable[[], Any]) -> None:
        self._messages, self._parameters = messages, getParameters
        self._steps: Iterator[Any] | None = None
        self._timer = TickTimer(self._tick)
        self._ids = ("", "", "")
        self._differencesID = ""
        self.comparisons: list[Any] = []
        self._sideBySide = SideBySide()
        self.firstSelector, self.secondSelector = self._selector(), self._selector()
        self.compareButton = button(_("Compare"), _("On the voxels of the volume chosen above"))
        self.differencesBox = qt.QCheckBox(_("Difference segments"))
        self.differencesBox.checked = True
        self.sideBySideBox = qt.QCheckBox(_("Side by side"))
        self.sideBySideBox.setToolTip(_("The first in the left, the second in the right slice view; both move together"))
        self.table = qt.QTableWidget()
        self.table.setMinimumHeight(120)
        self.table.setColumnCount(len(HEADERS))
        self.table.setHorizontalHeaderLabels(list(HEADERS))
        self.table.verticalHeader().hide()
        self.table.setEditTriggers(qt.QAbstractItemView.NoEditTriggers)
        self.table.setSelectionBehavior(qt.QAbstractItemView.SelectRows)
        self.table.horizontalHeader().setSectionResizeMode(0, qt.QHeaderView.Stretch)
        for column in range(1, len(HEADERS)):
            self.table.setColumnWidth(column, 66)
        form = qt.QFormLayout()
        form.addRow(_("First:"), self.firstSelector)
        form.addRow(_("Second:"), self.secondSelector)
        layout = container.layout()
        layout.addLayout(form)
        layout.addLayout(row(self.differencesBox, self.sideBySideBox))
        layout.addWidget(self.compareButton)
        layout.addWidget(self.table)
        connect(self.compareButton, "clicked()", self.compareOrStop)
        connect(self.sideBySideBox, "toggled(bool)", lambda on: self.showSideBySide(on))
        for selector in (self.firstSelector, self.secondSelector):
            connect(selector, "currentNodeChanged(vtkMRMLNode*)", lambda node: self.showSideBySide(True) if self.sideBySideBox.checked else None)
        connect(self.table, "itemSelectionChanged()", self._jump)
        self._observer = slicer.mrmlScene.AddObserver(slicer.mrmlScene.StartCloseEvent, lambda *_a: self._sceneCloses())

    @staticmethod
    def _selector() -> Any:
        selector = slicer.qMRMLNodeComboBox()
        selector.nodeTypes = ["vtkMRMLSegmentationNode"]
        selector.noneEnabled = True
        selector.addEnabled = selector.removeEnabled = False
        selector.setMRMLScene(slicer.mrmlScene)
        return selector

    @property
    def isRunning(self) -> bool:
        """True until the last structure is compared."""
        return self._steps is not None

    @property
    def differencesNode(self) -> Any:
        """Segmentation of what only the first, only the second and both have; None without one."""
        return slicer.mrmlScene.GetNodeByID(self._differencesID) if self._differencesID else None

    def cleanup(self) -> None:
        """The panel goes away."""
        self._end()
        self._sideBySide.restore()
        slicer.mrmlScene.RemoveObserver(self._observer)

    def _sceneCloses(self) -> None:
        self._end()
        self.sideBySideBox.checked = False
        self.comparisons, self._ids, self._differencesID = [], ("", "", ""), ""
        self.table.setRowCount(0)

    def compareOrStop(self) -> None:
        """The button."""
        if self.isRunning:
            self._end()
            return
        p = self._parameters()
        first, second, volumeNode = self.firstSelector.currentNode(), self.secondSelector.currentNode(), p.inputVolume if p is not None else None
        try:
            if first is None or second is None or first is second:
                raise InputError(_("Choose two different segmentations."))
            checkVolume(volumeNode)
            checkVoxels(first)
            checkVoxels(second)
            pairsByName(first, second)
        except RefSAM3DError as error:
            self._messages.show("error", str(error))
            return
        self._messages.clear()
        self._ids = (first.GetID(), second.GetID(), volumeNode.GetID())
        self.comparisons = []
        self.table.setRowCount(0)
        self._removeDifferences()
        self._steps = compareNodes(first, second, volumeNode)
        self.compareButton.text = _("Stop")
        self._timer.start()

    def _tick(self) -> None:
        if self._steps is None or any(slicer.mrmlScene.GetNodeByID(nodeID) is None for nodeID in self._ids):
            self._end()
            return
        try:
            with waiting(_("Comparing structure {number} ...").format(number=len(self.comparisons) + 1)):
                comparison = next(self._steps, None)
                if comparison is not None:
                    self._add(comparison)
                    return
            self._end()
            linkViews(True)
        except (RefSAM3DError, ImportError) as error:
            self._end()
            self._messages.show("error", str(error))
        except Exception:
            self._end()
            raise

    def _end(self) -> None:
        self._timer.stop()
        self._steps = None
        self.compareButton.text = _("Compare")

    def _add(self, comparison: Any) -> None:
        number = self.table.rowCount
        self.table.setRowCount(number + 1)
        values = [comparison.row[name] for name, _digits in NUMBERS]
        texts = [comparison.structure, *("–" if v is None else f"{v:.{digits}f}" for v, (_name, digits) in zip(values, NUMBERS, strict=True))]
        for column, text in enumerate(texts):
            item = qt.QTableWidgetItem(text)
            missing = [word for word, key in ((_("first"), "in_first"), (_("second"), "in_second")) if not comparison.row[key]]
            item.setToolTip(_("Not in the {which} segmentation").format(which=missing[0]) if missing else comparison.structure)
            self.table.setItem(number, column, item)
        comparison.row["centre_ras"] = self._centre(comparison)
        self.comparisons.append(comparison)
        if self.differencesBox.checked:
            self._drawDifferences(comparison)
        comparison.first = comparison.second = None  # the numbers stay, the voxels need not

    def _centre(self, comparison: Any) -> tuple[float, float, float] | None:
        """Of what differs, or of the structure where nothing does."""
        from RefSAM3DLib.places import look_at

        mask = comparison.first ^ comparison.second
        geometry = geometryOf(slicer.mrmlScene.GetNodeByID(self._ids[2]))
        return look_at(mask if mask.any() else comparison.first, geometry).get("centre_ras")

    def _drawDifferences(self, comparison: Any) -> None:
        from RefSAM3DLib.compare import difference_results

        volumeNode = slicer.mrmlScene.GetNodeByID(self._ids[2])
        results = difference_results(comparison, geometryOf(volumeNode))
        if not results:
            return
        node = self.differencesNode
        if node is None:
            node = createSegmentation(volumeNode, _("Differences"))
            self._differencesID = node.GetID()
        writer = SegmentationWriter(volumeNode, node)
        for result in results:
            writer.write(result.mask_in_box().astype(np.uint8), result.box, result.resolved, result.colour, {}, {})

    def _removeDifferences(self) -> None:
        if self.differencesNode is not None:
            slicer.mrmlScene.RemoveNode(self.differencesNode)
        self._differencesID = ""

    def _jump(self) -> None:
        rows = {index.row() for index in self.table.selectionModel().selectedRows()}
        if len(rows) == 1:
            jumpTo(self.comparisons[rows.pop()].row.get("centre_ras"))

    def showSideBySide(self, on: bool) -> None:
        """Each segmentation in a slice view of its own, linked; off: all views as they were."""
        if on:
            self._sideBySide.show((self.firstSelector.currentNode(), self.secondSelector.currentNode()))
        else:
            self._sideBySide.restore()
