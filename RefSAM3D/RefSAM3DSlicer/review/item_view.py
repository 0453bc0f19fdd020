"""Opens one item of a review in the scene, keeps its clock, and stores what is not decided yet."""

from __future__ import annotations

from typing import Any

import numpy as np
from slicer.i18n import tr as _

from RefSAM3DLib.errors import InputError, RefSAM3DError

from .review_scene import ReviewScene
from .scene_arrays import isOnGrid
from .work_clock import WorkClock


class ItemView:
    """One item of ``session`` at a time. ``clock`` counts the seconds that were spent on it."""

    def __init__(self, session: Any, scene: ReviewScene) -> None:
        self.session, self.scene = session, scene
        self.item: Any = None
        self.clock = WorkClock()
        self.draft: Any = None
        self.comment = ""
        self._comments: dict[str, str] = {}  # of items without a mask, which can have no draft

    @property
    def seconds(self) -> float:
        """Spent on this item so far, pauses left out, earlier visits that ended in a draft included."""
        return self.clock.seconds

    def open(self, item: Any, selectedVolume: Any = None) -> str:
        """Show an item; returns why something of it cannot be shown, "" if nothing is amiss.

        The scene's ``selectedVolume`` stands in for an image that is not where it was, if its voxels fit.
        """
        self.item, self.draft = item, None
        self.comment = self._comments.get(item.id, "")
        self.clock.start()
        problems = [item.error] if item.error else []
        mask = geometry = None
        if item.segmentation is not None:
            try:
                mask, geometry = self._startMask(item)
            except RefSAM3DError as error:
                problems.append(str(error))
        try:
            self.scene.showVolume(item.case, self.session, item)
        except (RefSAM3DError, OSError) as error:
            if geometry is not None and isOnGrid(selectedVolume, geometry):
                self.scene.adoptVolume(item.case, selectedVolume)
            else:
                problems.append(str(error))
                self.scene.clear()
        if mask is not None and self.scene.volumeNode is not None and not isOnGrid(self.scene.volumeNode, geometry):
            problems.append(_("The image has another voxel grid than the result; it is shown without it."))
            mask = None
        if mask is not None and self.scene.volumeNode is not None:
            self.scene.showMask(item, mask, np.array_equal(mask, self.session.machine_mask(item)[0]))
        else:
            self.scene.clearItem()
        return "\n".join(dict.fromkeys(problems))

    def _startMask(self, item: Any) -> tuple[np.ndarray, Any]:
        """The unsaved edit, else the recorded edit, else the machine's mask."""
        machine, geometry = self.session.machine_mask(item)
        self.draft = self.session.draft(item)
        if self.draft is not None and self.draft.mask.shape == machine.shape:
            self.clock.start(self.draft.seconds)
            self.comment = self.draft.comment
            return self.draft.mask, geometry
        decision = item.decision or {}
        if decision.get("verdict") == "accept_edited" and decision.get("mask_file") and item.status != "changed":
            return self.session.masks.read(self.session.folder / decision["mask_file"], item.structure, decision["mask"])[0], geometry
        return machine, geometry

    def editedMask(self) -> np.ndarray | None:
        """The mask as it is now if it differs from the machine's, else None.

        Raises:
            RefSAM3DError: it cannot be read.
        """
        mask = self.scene.mask() if self.item is not None else None
        return None if mask is None or np.array_equal(mask, self.session.machine_mask(self.item)[0]) else mask

    def save(self, comment: str) -> None:
        """Store what was done since the last time: the edit and the comment. Cheap if that is nothing.

        Raises:
            RefSAM3DError, OSError: it could not be stored.
        """
        if self.item is None:
            return
        self._comments[self.item.id] = comment
        touched = self.scene.wasTouched()
        if not touched and comment == self.comment:
            return
        mask = self.scene.mask()
        if mask is None:
            return
        if touched or comment.strip() or self.draft is not None:
            if not comment.strip() and np.array_equal(mask, self._decidedMask()):
                self.session.discard_draft(self.item)
            else:
                self.session.store_draft(self.item, mask, self.seconds, comment)
        self.comment = comment
        self.scene.markSaved()

    def _decidedMask(self) -> np.ndarray:
        """What stands without a draft."""
        decision = self.item.decision or {}
        if decision.get("verdict") == "accept_edited" and decision.get("mask_file") and self.item.status != "changed":
            return self.session.masks.read(self.session.folder / decision["mask_file"], self.item.structure, decision["mask"])[0]
        return self.session.machine_mask(self.item)[0]

    def decide(self, verdict: str, reason: str, comment: str) -> None:
        """Record a decision. A skipped item keeps its edits as a draft.

        Raises:
            RefSAM3DError, OSError: it is incomplete or could not be recorded; the text says what became of it.
        """
        edited = self.editedMask() if verdict in ("accept_edited", "skip") else None
        if verdict == "accept_edited" and edited is None:
            raise InputError(_("The mask is as the machine drew it: change it in the Segment Editor, or press Accept."))
        seconds = self.seconds
        self.session.decide(self.item, verdict, reason, comment, edited if verdict == "accept_edited" else None, seconds)
        if verdict == "skip" and edited is not None:
            self.session.store_draft(self.item, edited, seconds, comment)
        self._comments.pop(self.item.id, None)
        self.comment, self.draft = comment, None
        self.scene.markSaved()

    def dropEdits(self) -> None:
        """Go back to the machine's mask; the draft goes too."""
        self.session.discard_draft(self.item)
        self.draft, self.comment = None, ""
        self.scene.showMask(self.item, self.session.machine_mask(self.item)[0])

    def leave(self, comment: str) -> None:
        """Store what is not decided and forget the item; its nodes stay until the next one is shown.

        Raises:
            RefSAM3DError, OSError: it could not be stored; then the item stays.
        """
        self.save(comment)
        self.item = None
