"""Which sequence shows a node one frame at a time."""

from __future__ import annotations

from typing import Any

import slicer


def browserOf(node: Any) -> Any:
    """The sequence browser that shows one frame at a time in the node, or None."""
    for browser in slicer.util.getNodesByClass("vtkMRMLSequenceBrowserNode"):
        if browser.IsProxyNode(node.GetID()):
            return browser
    return None


def frameOf(node: Any) -> int | None:
    """Number of the frame that the node shows, counted from 0; None for a node that follows no sequence."""
    browser = browserOf(node)
    return browser.GetSelectedItemNumber() if browser is not None else None


def showFrame(node: Any, frame: int) -> None:
    """Turn the sequence that shows ``node`` to a frame, counted from 0."""
    browser = browserOf(node)
    if browser is not None and 0 <= frame < browser.GetNumberOfItems():
        browser.SetSelectedItemNumber(frame)
        slicer.modules.sequences.logic().UpdateProxyNodesFromSequences(browser)
