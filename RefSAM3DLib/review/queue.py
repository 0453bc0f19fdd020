"""The items of a review, and the order in which they deserve eyes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .subject import Subject
from .verdicts import STATUS_WORDS, ReviewVerdict


@dataclass
class ReviewItem:
    """One result to look at: a structure of a case, or a case that failed (``label`` 0).

    Attributes:
        case, label: identify the item. name: of the case, for people. patient: groups cases of one person, "" if unknown.
        structure: what was segmented, "" for a failure.
        verdict: of the engine: present, uncertain, absent, unknown, failed. presence, confidence, volume_ml: None if undefined.
        attention: how urgent, 0 is "nothing unusual". reasons: why, in words.
        centre_ras, worst_ras: where to jump (mm), None if there is nothing to see.
        image, series: source of the case ("" if unknown). modality: that the batch read it as.
        segmentation: file of the machine's result. probability: file or "".
        assisted: a person had a share in the mask before this review.
        mask_sha256: of the mask under review (the batch's, or this reviewer's last re-prompt). batch: what the folder has, which decisions are tied to.
        status: key of ``STATUS_WORDS`` by this reviewer's own decisions. decision: this reviewer's last one.
        others: last decisions of the other reviewers by name.
        warnings: about the result and its image. case_warnings: those about the image, which hold for the answer to another wording too.
    """

    case: str
    label: int
    name: str = ""
    patient: str = ""
    structure: str = ""
    prompt: str = ""
    verdict: str = ""
    presence: float | None = None
    confidence: float | None = None
    volume_ml: float | None = None
    attention: float = 0.0
    reasons: tuple[str, ...] = ()
    centre_ras: tuple[float, float, float] | None = None
    worst_ras: tuple[float, float, float] | None = None
    colour: tuple[int, int, int] = (127, 127, 127)
    image: str = ""
    series: str = ""
    modality: str = ""
    segmentation: Path | None = None
    probability: Path | None = None
    assisted: bool = False
    mask_sha256: str = ""
    batch: Subject = field(default_factory=Subject)
    model: dict[str, Any] = field(default_factory=dict)
    status: str = ""
    decision: dict[str, Any] | None = None
    others: dict[str, dict[str, Any]] = field(default_factory=dict)
    error: str = ""
    warnings: tuple[str, ...] = ()
    case_warnings: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """``case/label``."""
        return f"{self.case}/{self.label}"

    @property
    def status_words(self) -> str:
        """Status for people."""
        return STATUS_WORDS[self.status]

    @property
    def is_open(self) -> bool:
        """Whether this reviewer has still to decide."""
        return self.status in ("", "changed", ReviewVerdict.REPROMPT.value, ReviewVerdict.SKIP.value)


@dataclass(frozen=True)
class QueueFilter:
    """What the queue shows. Empty tuples and texts let everything through.

    Attributes:
        status: keys of ``STATUS_WORDS``; ("open",) means all that this reviewer has still to decide.
        verdicts, structures, cases: of the engine, exact. text: part of case, structure or prompt, any case.
        attention_from: lowest attention. undecided_by_others: leave out what another reviewer decided.
        sort: "attention" (most urgent first), "case" or "structure".
    """

    status: tuple[str, ...] = ()
    verdicts: tuple[str, ...] = ()
    structures: tuple[str, ...] = ()
    cases: tuple[str, ...] = ()
    text: str = ""
    attention_from: float = 0.0
    undecided_by_others: bool = False
    sort: str = "attention"

    def admits(self, item: ReviewItem) -> bool:
        """Whether an item passes."""
        if self.status and item.status not in self.status and not ("open" in self.status and item.is_open):
            return False
        if self.undecided_by_others and any(ReviewVerdict(d["verdict"]).is_final for d in item.others.values()):
            return False
        needle = self.text.casefold()
        return (
            (not self.verdicts or item.verdict in self.verdicts)
            and (not self.structures or item.structure in self.structures)
            and (not self.cases or item.case in self.cases)
            and item.attention >= self.attention_from
            and (not needle or any(needle in text.casefold() for text in (item.case, item.name, item.structure, item.prompt)))
        )


def ordered(items: Sequence[ReviewItem], wanted: QueueFilter) -> list[ReviewItem]:
    """Items that pass the filter, in its order; ties keep cases together, so that an image is loaded once."""
    keys: dict[str, Callable[[ReviewItem], Any]] = {
        "attention": lambda item: (-item.attention, item.case, item.label),
        "case": lambda item: (item.case, item.label),
        "structure": lambda item: (item.structure, -item.attention, item.case),
    }
    # Skipped items wait at the end, whatever their attention.
    chosen = [item for item in items if wanted.admits(item)]
    return sorted(chosen, key=lambda item: (item.status == ReviewVerdict.SKIP.value, keys[wanted.sort](item)))
