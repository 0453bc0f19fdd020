"""Two segmentations in slice views of their own; afterwards every view and display is as it was before."""

from __future__ import annotations

from typing import Any

import slicer

VIEWS = ("Red", "Yellow")


def linkViews(linked: bool) -> None:
    """Moving one slice view moves those of the same orientation."""
    for node in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode"):
        node.SetLinkedControl(linked)
        node.SetHotLinkedControl(linked)


class SideBySide:
    """Remembers what it changes: layout, orientations, links, and in which views the two are seen."""

    def __init__(self) -> None:
        self._layout: int | None = None
        self._orientations: dict[str, tuple[str, Any]] = {}
        self._links: dict[str, tuple[bool, bool]] = {}
        self._displays: dict[str, tuple[str, ...]] = {}  # display node -> its views; none means all

    @property
    def isOn(self) -> bool:
        """True between :meth:`show` and :meth:`restore`."""
        return bool(self._layout is not None or self._orientations or self._links or self._displays)

    def show(self, nodes: tuple[Any, Any]) -> None:
        """The first in the left, the second in the right view; again with others, the ones before are seen everywhere they were."""
        if not self.isOn:
            self._arrange()
        self._restoreDisplays()
        for node, view in zip(nodes, VIEWS, strict=True):
            display = node.GetDisplayNode() if node is not None else None
            sliceNode = _sliceNode(view)
            if display is None or sliceNode is None or display.GetID() in self._displays:
                continue
            self._displays[display.GetID()] = tuple(display.GetViewNodeIDs() or ())
            display.RemoveAllViewNodeIDs()
            display.AddViewNodeID(sliceNode.GetID())

    def restore(self) -> None:
        """What was changed goes back, unless the user has changed the layout since."""
        self._restoreDisplays()
        for view, (name, matrix) in self._orientations.items():
            sliceNode = _sliceNode(view)
            if sliceNode is not None and sliceNode.HasSliceOrientationPreset(name):
                sliceNode.SetOrientation(name)
            elif sliceNode is not None:  # turned by hand: a plane without a name
                sliceNode.GetSliceToRAS().DeepCopy(matrix)
                sliceNode.UpdateMatrices()
        for nodeID, (linked, hot) in self._links.items():
            node = slicer.mrmlScene.GetNodeByID(nodeID)
            if node is not None:
                node.SetLinkedControl(linked)
                node.SetHotLinkedControl(hot)
        manager = slicer.app.layoutManager()
        if manager is not None and self._layout is not None and manager.layout == slicer.vtkMRMLLayoutNode.SlicerLayoutSideBySideView:
            manager.setLayout(self._layout)
        self._layout = None
        self._orientations.clear()
        self._links.clear()

    def _arrange(self) -> None:
        manager = slicer.app.layoutManager()
        if manager is not None:
            self._layout = manager.layout
            manager.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutSideBySideView)
        for view in VIEWS:
            sliceNode = _sliceNode(view)
            if sliceNode is not None:
                matrix = slicer.util.vtkMatrixFromArray(slicer.util.arrayFromVTKMatrix(sliceNode.GetSliceToRAS()))
                self._orientations[view] = (sliceNode.GetOrientation(), matrix)
                sliceNode.SetOrientation("Axial")
        for node in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode"):
            self._links[node.GetID()] = (bool(node.GetLinkedControl()), bool(node.GetHotLinkedControl()))
        linkViews(True)

    def _restoreDisplays(self) -> None:
        for displayID, viewIDs in self._displays.items():
            display = slicer.mrmlScene.GetNodeByID(displayID)
            if display is not None:
                display.RemoveAllViewNodeIDs()
                for viewID in viewIDs:
                    display.AddViewNodeID(viewID)
        self._displays.clear()


def _sliceNode(view: str) -> Any:
    return slicer.mrmlScene.GetNodeByID(f"vtkMRMLSliceNode{view}")
