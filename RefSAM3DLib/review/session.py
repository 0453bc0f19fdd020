"""One reviewer at work on one folder: the queue, the decisions, the edits. A user interface adds only widgets."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from .. import __version__
from ..atomic import make_folder, write_aside
from ..batch.cases import slug
from ..batch.folder_state import FolderState
from ..batch.pseudonyms import Identifiers
from ..batch.summary import collect_rows
from ..errors import InputError
from ..geometry import Geometry
from ..places import look_at
from ..provenance import engine_values, model_values
from ..report import number_or_none
from ..types import PromptResult, Verdict, Volume
from .audit_trail import AuditTrail
from .decision_table import write_decisions
from .drafts import Draft, DraftStore
from .edit_metrics import edit_metrics
from .items import apply_decisions, make_item
from .masks import EDITS, REPROMPTS, MaskReader, store_mask
from .queue import QueueFilter, ReviewItem, ordered
from .status import is_whole, late_decisions
from .subject import image_hashes
from .verdicts import ReviewVerdict, clean_reviewer, clean_text, load_reasons

if TYPE_CHECKING:
    import numpy as np


_Answer = TypeVar("_Answer")


def answer_of(results: Sequence[_Answer], structure: str) -> _Answer:
    """Of the answers to one wording that about the structure under review, else the only one: "parotid" asks for both sides.

    Raises:
        InputError: there are several, and none is about the structure.
    """
    named = [result for result in results if result.resolved == structure]  # type: ignore[attr-defined]
    if named or len(results) == 1:
        return (named or list(results))[0]
    found = ", ".join(f"'{result.resolved}'" for result in results)  # type: ignore[attr-defined]
    raise InputError(f"These words name {len(results)} structures ({found}); ask for one of them.")


class ReviewSession:
    """Review of a folder that a batch wrote.

    Args:
        folder: output folder of a batch, or of :func:`~.single.add_segmentation`.
        reviewer: name that each decision is recorded with.

    Attributes:
        items: every result and every failed case, in the folder's order. reasons: offered for a rejection.
        notes: sentences for the user (cut lines of journal or trail, entries that were kept aside and are now recorded, or came too late).

    Raises:
        InputError: no batch is in the folder, or the reviewer's name is empty.
    """

    def __init__(self, folder: Path | str, reviewer: str) -> None:
        self.folder = Path(folder).resolve()
        self.reviewer = clean_reviewer(reviewer)
        if not (self.folder / "journal.jsonl").is_file():
            raise InputError(f"'{self.folder}' holds no batch; choose the output folder of 'refsam3d batch'.")
        self.trail = AuditTrail(self.folder, self.reviewer)
        self.draft_store = DraftStore(self.folder, self.reviewer)
        self.reasons = load_reasons(self.folder)
        self.notes: list[str] = []
        self.items: list[ReviewItem] = []
        self._entries: list[dict[str, Any]] = []
        self.masks = MaskReader()
        self._volume: tuple[str, Volume] | None = None
        try:
            if count := self.trail.flush_aside():
                self.notes.append(f"{count} decision(s) that could not be written earlier are now in the record.")
        except Exception as error:  # a read-only trail may still be looked at
            self.notes.append(str(error))
        self.refresh()

    def refresh(self) -> None:
        """Read results and decisions anew (after the batch went on, or to see what a colleague decided)."""
        state = FolderState.read(self.folder)
        content = self.trail.read()
        self._entries = content.entries
        strange = sum(entry.get("event") == "decision" and not is_whole(entry) for entry in content.entries)
        odd = f"'{self.trail.log.path}' has {strange} decision(s) that this program did not write; they are skipped." if strange else ""
        for complaint in (state.complaint, content.complaint(self.trail.log.path), odd, *late_decisions(content.entries)):
            if complaint and complaint not in self.notes:
                self.notes.append(complaint)
        sources = {key: case.entry for key, case in state.cases.items()}
        private = Identifiers(self.folder).cases
        images = image_hashes(self.folder, state)
        self.items = [
            make_item(self.folder, row, {**sources.get(row["case"], {}), **private.get(row["case"], {})}, images.get(row["case"], ""))
            for row in collect_rows(self.folder, state)
        ]
        apply_decisions(self.folder, self.items, self._entries, self.reviewer)

    # Queue ------------------------------------------------------------------------------------------------------------

    def queue(self, wanted: QueueFilter | None = None) -> list[ReviewItem]:
        """Items in the order of need; default: everything that is not decided."""
        return ordered(self.items, wanted or QueueFilter(status=("open",)))

    def find(self, item_id: str) -> ReviewItem:
        """The item ``case/label``."""
        for item in self.items:
            if item.id == item_id:
                return item
        near = [item.id for item in self.items if item_id in (item.case, item.name) or item.id.startswith(f"{item_id}/")]
        there = f"this case has {', '.join(near)}" if near else "'refsam3d review list' shows them"
        raise InputError(f"There is no item '{item_id}' in '{self.folder}'; {there}.")

    def progress(self) -> tuple[int, int]:
        """Items decided by this reviewer, and all."""
        return sum(not item.is_open for item in self.items), len(self.items)

    @property
    def _position_file(self) -> Path:
        return self.folder / "review" / "positions" / f"{slug(self.reviewer)}.json"

    def set_position(self, item: ReviewItem | None) -> None:
        """Remember where the reviewer is."""
        make_folder(self._position_file.parent)
        with write_aside(self._position_file, overwrite=True) as aside:
            aside.write_text(json.dumps({"item": item.id if item else ""}), encoding="utf-8")

    def resume(self, wanted: QueueFilter | None = None) -> ReviewItem | None:
        """Where the reviewer left off: that item if it is still in the queue, else the most urgent one, None at the end."""
        queue = self.queue(wanted)
        try:
            stored = json.loads(self._position_file.read_text(encoding="utf-8"))["item"]
        except (OSError, ValueError, KeyError, TypeError):
            stored = ""
        return next((item for item in queue if item.id == stored), queue[0] if queue else None)

    def next_item(self, item: ReviewItem, wanted: QueueFilter | None = None, step: int = 1) -> ReviewItem | None:
        """Neighbour of an item in the queue (``step`` -1: the one before), None at its end. A decided item keeps its place."""
        wanted = wanted or QueueFilter(status=("open",))
        queue = ordered([*[i for i in self.items if wanted.admits(i) and i is not item], item], QueueFilter(sort=wanted.sort))
        at = next(n for n, other in enumerate(queue) if other is item) + step
        return queue[at] if 0 <= at < len(queue) else None

    # Masks ------------------------------------------------------------------------------------------------------------

    def machine_mask(self, item: ReviewItem) -> tuple[np.ndarray, Geometry]:
        """The mask under review, bool (D, H, W), and its grid."""
        if item.segmentation is None:
            raise InputError(f"The case '{item.name}' failed and has no mask; run the batch with --retry-failed.")
        return self.masks.read(item.segmentation, item.structure, item.mask_sha256)

    def volume(self, item: ReviewItem) -> Volume:
        """The case's image; the last one is kept."""
        from ..volume_io import load_volume

        if self._volume is None or self._volume[0] != item.case:
            if not item.image:
                raise InputError(f"It is not recorded where the image of '{item.name}' lies; load it yourself.")
            self._volume = (item.case, load_volume(item.image, series=item.series or None, modality=item.modality or None))
        return self._volume[1]

    # Decisions --------------------------------------------------------------------------------------------------------

    def decide(
        self,
        item: ReviewItem,
        verdict: ReviewVerdict | str,
        reason: str = "",
        comment: str = "",
        edited_mask: np.ndarray | None = None,
        seconds: float | None = None,
    ) -> dict[str, Any]:
        """Record a decision at once and return its entry.

        Args:
            verdict: ``accept``, ``accept_edited`` (needs ``edited_mask``), ``reject`` (needs a reason) or ``skip``.
            edited_mask: bool (D, H, W) on the machine mask's grid. It is stored before the decision is recorded.
            seconds: time spent on the item, measured with a monotonic clock.

        Raises:
            InputError: the decision is incomplete. OutputError: it could not be recorded; the text says where it is kept.
        """
        verdict = ReviewVerdict(verdict)
        if verdict == ReviewVerdict.REPROMPT:
            raise InputError("A new wording is recorded with its result; use record_reprompt.")
        if verdict == ReviewVerdict.REJECT and not reason.strip():
            raise InputError("A rejection needs a reason; choose one of the list or write your own.")
        if item.label == 0 and verdict in (ReviewVerdict.ACCEPT, ReviewVerdict.ACCEPT_EDITED):
            raise InputError(f"The case '{item.name}' failed, there is nothing to accept; reject or skip it, or run it again.")
        if (verdict == ReviewVerdict.ACCEPT_EDITED) != (edited_mask is not None):
            raise InputError("Accept with edits needs the edited mask, and only it takes one.")
        extra: dict[str, Any] = {
            "machine_mask": item.mask_sha256,
            "edited_mask": None,
            "metrics": None,
        }
        if item.segmentation is not None and verdict == ReviewVerdict.ACCEPT:
            extra["mask_file"], extra["mask"] = self._relative(item.segmentation), item.mask_sha256
        if edited_mask is not None:
            machine, geometry = self.machine_mask(item)
            edited = edited_mask.astype(bool, copy=False)
            if edited.shape != machine.shape:
                raise InputError(f"The edited mask has shape {edited.shape}, the machine's {machine.shape}; edit on the grid of the result.")
            extra["mask_file"], extra["edited_mask"] = store_mask(self.folder, EDITS, item, self.reviewer, edited, geometry)
            extra["mask"], extra["metrics"] = extra["edited_mask"], edit_metrics(machine, edited, geometry)
        entry = self._record(item, verdict, reason, comment, seconds, extra)
        self.draft_store.discard(item.case, item.label)
        return entry

    def record_reprompt(
        self, item: ReviewItem, wording: str, result: PromptResult, seconds: float | None = None, comment: str = "",
        engine_info: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:  # fmt: skip
        """Record that the reviewer asked again in other words, with the engine's answer; the item then shows that answer.

        Args:
            engine_info: the engine that answered, as :func:`~RefSAM3DLib.provenance.engine_values`; default the one that made the item.
        """
        wording = clean_text(wording, "wording")
        if not wording:
            raise InputError("The new wording is empty; type what to segment.")
        _, geometry = self.machine_mask(item)
        model, places = model_values(item.model if engine_info is None else engine_info, result.details), look_at(result.mask, geometry)
        relative, sha256 = store_mask(self.folder, REPROMPTS, item, self.reviewer, result.mask, geometry, wording, result.resolved, model)
        extra = {
            "machine_mask": item.mask_sha256,
            "edited_mask": sha256,
            "mask_file": relative,
            "mask": sha256,
            "wording": wording,
            "answer": str(result.verdict.value),
            "answered": {
                "presence": number_or_none(result.presence), "confidence": number_or_none(result.confidence),
                "volume_ml": round(float(result.mask.sum()) * geometry.voxel_volume_ml, 5), "warnings": list(result.warnings),
                "centre_ras": places.get("centre_ras"), "worst_ras": places.get("worst_ras"),
            },
            "answer_structure": result.resolved or item.structure,
            "model": model,
            "metrics": edit_metrics(self.machine_mask(item)[0], result.mask, geometry),
        }
        return self._record(item, ReviewVerdict.REPROMPT, "", comment, seconds, extra)

    def reprompt(self, item: ReviewItem, wording: str, engine: Any, seconds: float | None = None) -> PromptResult:
        """Ask the engine in other words, record the answer and return it.

        Raises:
            InputError: the wording names several structures, none of which is the item's, or none that the engine knows: an empty answer would
                take the place of the result that there is.
        """
        result: PromptResult = answer_of(engine.segment(self.volume(item), [wording]), item.structure)
        if result.verdict is Verdict.UNKNOWN:
            quoted = "' or '".join(result.suggestions[:3])
            near = f"; did you mean '{quoted}'?" if result.suggestions else "."
            raise InputError(f"The engine does not know '{wording}', so nothing was recorded{near}")
        self.record_reprompt(item, wording, result, seconds, engine_info=engine_values(engine))
        return result

    def _record(self, item: ReviewItem, verdict: ReviewVerdict, reason: str, comment: str, seconds: float | None, extra: dict[str, Any]) -> dict[str, Any]:
        entry = {
            "event": "decision",
            "case": item.case,
            "label": item.label,
            "structure": item.structure,
            "prompt": item.prompt,
            "verdict": verdict.value,
            "reason": clean_text(reason, "reason"),
            "comment": clean_text(comment, "comment"),
            "seconds": None if seconds is None else round(max(0.0, float(seconds)), 2),
            "model": model_values(item.model),
            "machine": {"verdict": item.verdict, "presence": item.presence, "confidence": item.confidence},
            "version": __version__,
            "corrects": (item.decision or {}).get("id"),
            **item.batch.as_fields(),
            **extra,
        }
        try:
            stored = self.trail.record(entry)
        finally:  # an entry kept aside counts as well
            self._entries = self.trail.read().entries
            apply_decisions(self.folder, self.items, self._entries, self.reviewer)
        return stored

    def _relative(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()

    # Edits that are not decided ---------------------------------------------------------------------------------------

    def store_draft(self, item: ReviewItem, mask: np.ndarray, seconds: float = 0.0, comment: str = "") -> None:
        """Keep an edit under way, so that a crash does not lose it. Call it now and then, and when the item is left."""
        _, geometry = self.machine_mask(item)
        edited, comment = mask.astype(bool, copy=False), clean_text(comment, "comment")
        self.draft_store.store(item.case, item.label, edited, geometry, item.mask_sha256, seconds, comment, item.batch)

    def draft(self, item: ReviewItem) -> Draft | None:
        """The unsaved edit of an item if there is one that no decision has overtaken."""
        found = self.draft_store.read(self.draft_store.path(item.case, item.label))
        return found if found is not None and self._is_current(found, item) else None

    def drafts(self) -> list[Draft]:
        """All unsaved edits to offer back."""
        by_id = {(item.case, item.label): item for item in self.items}
        return [draft for draft in self.draft_store.all() if (item := by_id.get((draft.case, draft.label))) and self._is_current(draft, item)]

    def _is_current(self, draft: Draft, item: ReviewItem) -> bool:
        """A kill between the record and the removal of its draft leaves a draft that equals the recorded edit."""
        if draft.machine_mask != item.mask_sha256 or item.batch.differs(draft.batch):
            return False
        if item.decision is None or item.decision.get("edited_mask") is None:
            return True
        from ..batch.content_hash import hash_mask

        _, geometry = self.machine_mask(item)
        return hash_mask(draft.mask, geometry) != item.decision["edited_mask"]

    def discard_draft(self, item: ReviewItem) -> None:
        """The reviewer does not want it back."""
        self.draft_store.discard(item.case, item.label)

    # Tables -----------------------------------------------------------------------------------------------------------

    def agreement(self) -> list[dict[str, Any]]:
        """Rows of :func:`~.agreement.agreement` over all reviewers of the folder."""
        from .agreement import agreement

        return agreement(self.folder, self._entries)

    def export_csv(self, path: Path | str, overwrite: bool = False) -> None:
        """Every decision of every reviewer as CSV."""
        write_decisions(Path(path), self._entries, overwrite)
