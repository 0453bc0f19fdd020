"""One call of ``segment``: look where each structure can be, encode the missing tiles, decode, write back."""

from __future__ import annotations

import math
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from ..errors import Cancelled, DeviceError
from ..text.wording import swap_sides
from ..types import SIDE_UNSURE, Cancel, Progress, PromptResult, PromptStatus, ResolvedPrompt, Term, Verdict
from .decode import decode_views, tiles_for
from .localize import BOX_PROBABILITY, Finding, box_above, inside_roi, localize, transfer_box
from .plan import FINE_TILES, is_read_closely
from .postprocess import NativeMap, combine, parts_of, remove_specks, tight_box, to_native
from .preprocess import Box
from .sides import SIDE_UNSURE_WARNING, side_doubt
from .verdict import not_subtracted, nothing_in_region, outline_doubt, part_doubt, verdict_of

if TYPE_CHECKING:
    from ..checkpoint import Calibration
    from ..config import GridConfig
    from ..engine import RefSAM3DEngine, VolumeEmbedding
    from ..modeling.refsam3d import PromptFeatures
    from .embed import GridEmbedding

#: Share of the progress bar for the view that decides presence.
LOOK_SHARE = 0.4


@dataclass
class TermAnswer:
    """One structure of one prompt. branch: of the engine, that answers for it. presence: calibrated. close: looked at on fine tiles.
    native: probabilities, None if it is not drawn."""

    term: Term
    grid: GridConfig
    text: str
    branch: int = 0
    presence: float = float("nan")
    box: Box | None = None
    #: the same box in voxels of the coarse look, None where there was none
    look: Box | None = None
    close: bool = False
    native: NativeMap | None = None
    warnings: list[str] = field(default_factory=list)


class PromptSession:
    """Answers resolved prompts on an embedding."""

    def __init__(
        self, engine: RefSAM3DEngine, embedding: VolumeEmbedding, progress: Progress | None, cancel: Cancel | None, probability: bool, roi: Box | None
    ) -> None:
        self.engine, self.embedding, self.progress, self.cancel = engine, embedding, progress, cancel
        self.probability, self.roi = probability, roi

    def run(self, resolved: list[ResolvedPrompt], allow_unknown: bool) -> list[PromptResult]:
        """All prompts; results in order."""
        plans = [self._terms(prompt, allow_unknown) for prompt in resolved]
        self._look([t for terms in plans for t in terms])
        results = []
        for n, (prompt, terms) in enumerate(zip(resolved, plans, strict=True)):
            low, high = (LOOK_SHARE + (1 - LOOK_SHARE) * m / len(plans) for m in (n, n + 1))
            results.append(self._answer(prompt, terms, low, high))
            self._report(high, prompt.resolved or prompt.prompt)
        return results

    def _report(self, fraction: float, stage: str) -> None:
        if self.cancel is not None and self.cancel():
            raise Cancelled
        if self.progress is not None:
            self.progress(fraction, stage)

    def _terms(self, prompt: ResolvedPrompt, allow_unknown: bool) -> list[TermAnswer]:
        """Structures of a result and the text that each is read by."""
        config = self.engine.checkpoint.config
        if prompt.status is PromptStatus.KNOWN:
            texts = [prompt.text] if len(prompt.terms) == 1 else [t.structure for t in prompt.terms]
            return [
                TermAnswer(t, config.grid_of(t.structure), text, self.engine.branch_of(t.structure)) for t, text in zip(prompt.terms, texts, strict=True)
            ]
        if not allow_unknown:
            return []
        from .scope import best_grid

        extents = {g.name: self.embedding.whole_view(g).extent_mm for g in config.grids}
        return [TermAnswer(Term(prompt.prompt), best_grid(config, self.embedding.modality, extents), prompt.text or prompt.prompt)]

    def _look(self, terms: list[TermAnswer]) -> None:
        """Presence and box of every structure; the whole view of each grid is encoded once."""
        readings = {(t.grid.name, t.branch): t.grid for t in terms}
        asked = Counter((t.grid.name, t.branch) for t in terms)
        self.engine._check_memory(self.embedding, [(name, n) for (name, _), n in asked.items()])
        for grid in readings.values():
            if not self.embedding.is_direct(grid) and self._fits(grid):
                self.embedding.read_both(grid)
        views = {key: self.embedding.views(g, not self.embedding.is_direct(g), key[1]) for key, g in readings.items()}
        wanted: list[tuple[GridEmbedding, list[int] | None]] = [(view, None) for pair in views.values() for view in pair]
        self.engine._encode(wanted, self.progress, self.cancel, 0.0, LOOK_SHARE, "reading the image")
        for (name, branch), pair in views.items():
            mine = [t for t in terms if (t.grid.name, t.branch) == (name, branch)]
            texts = list(dict.fromkeys(t.text for t in mine))
            findings = dict(zip(texts, localize(pair, self._wordings(pair, texts, branch)), strict=True))
            for term in mine:
                self._place(term, pair[0], findings[term.text])

    def _fits(self, grid: GridConfig) -> bool:
        """Whether a working copy for a close look is small enough."""
        return is_read_closely(grid, self.embedding.volume.geometry)

    def _wordings(self, views: list[GridEmbedding], texts: list[str], branch: int) -> list[PromptFeatures]:
        """Text features for each view: a mirror image is asked for the other side."""
        read = self.engine.branches[branch].text_features
        return [read([swap_sides(t) for t in texts] if view.mirrored else texts) for view in views]

    def _calibration(self, term: TermAnswer) -> Calibration:
        return self.engine.branches[term.branch].calibration(term.grid.name)

    def _place(self, term: TermAnswer, view: GridEmbedding, finding: Finding) -> None:
        calibration = self._calibration(term)
        logit = calibration.scale * finding.presence + calibration.bias
        if not math.isfinite(logit):
            raise DeviceError(
                f"{self.engine.device_name} computed no number for '{term.term.structure}', so nothing it says of this image can be trusted; choose the "
                "device cpu, and report it if that does not help."
            )
        term.presence = 1 / (1 + math.exp(-max(-700.0, min(700.0, logit))))
        if term.presence < calibration.absent_below:
            return
        if not view.coarse:
            term.box = view.whole_box()
        elif finding.box is not None:
            term.look = finding.box
            if self._fits(term.grid):
                term.box = transfer_box(finding.box, view, self.embedding.grid(term.grid, coarse=False))

    def _answer(self, prompt: ResolvedPrompt, terms: list[TermAnswer], low: float, high: float) -> PromptResult:
        started = time.perf_counter()
        shape = self.embedding.volume.geometry.shape_dhw
        if not terms:
            return PromptResult(
                prompt.prompt, "", Verdict.UNKNOWN, float("nan"), float("nan"), np.zeros(shape, bool), 0.0, None, time.perf_counter() - started,
                warnings=(prompt.note,) if prompt.note else (), suggestions=prompt.suggestions,
            )  # fmt: skip
        plain = [t for t in terms if not t.term.subtract]
        # One that its own calibration does not deny comes first: an adapter's denies less than the base's.
        likeliest = max(plain, key=lambda t: (t.presence >= self._calibration(t).absent_below, t.presence))
        presence, calibration = likeliest.presence, self._calibration(likeliest)
        warnings = [w for t in {(t.grid.name, t.branch): t for t in terms}.values() for w in self._scope_warnings(t)]
        if self.embedding.volume.metadata.get(SIDE_UNSURE) and any(self._side(t.term.structure) for t in terms):
            warnings.append(SIDE_UNSURE_WARNING)
        if prompt.note:
            warnings.append(prompt.note)
        encoding = 0.0
        for n, term in enumerate(terms):
            if term.box is not None or term.look is not None:
                encoding += self._draw(term, low + (high - low) * n / len(terms), low + (high - low) * (n + 1) / len(terms))
        warnings += [w for t in terms for w in t.warnings]
        drawn = [t for t in terms if t.native is not None]
        joint, small = self._outlines_joined(drawn)
        confidence = float(joint.values[small].mean()) if small.any() else float("nan")
        verdict = verdict_of(presence, bool(small.any()), calibration)
        if verdict is Verdict.ABSENT and self.embedding.units_warning:
            verdict = Verdict.UNCERTAIN  # in other units nothing looks like itself
        if verdict is not Verdict.ABSENT:
            warnings += [part_doubt(t.term.structure, t.presence, t.term.subtract, self._calibration(t)) for t in terms if t is not likeliest]
            warnings += self._outline_doubts(terms, confidence, bool(small.any()))
            warnings += self._side_warning(plain, joint, small)
            warnings = [w for w in warnings if w]
            if any(w is not prompt.note for w in warnings):
                verdict = Verdict.UNCERTAIN
        else:
            small, confidence = np.zeros_like(small), float("nan")
        frame = self.embedding.whole_view(plain[0].grid).frame  # every frame of a volume has the same native side
        inner = tight_box(small)
        box = None if inner is None else frame.native_box_of(tuple(v + joint.box[n // 2 * 2] for n, v in enumerate(inner)))  # type: ignore[arg-type]
        mask = frame.place(small, joint.box)
        details = {"encoding_s": encoding, "grid": plain[0].grid.name, **self._answered_by(terms)}
        probability = frame.place(joint.values.astype(np.float16), joint.box) if self.probability else None
        return PromptResult(
            prompt=prompt.prompt, resolved=prompt.resolved, verdict=verdict, presence=presence, confidence=confidence,
            mask=mask, volume_ml=float(small.sum()) * self.embedding.volume.geometry.voxel_volume_ml, box=box,
            elapsed_s=time.perf_counter() - started, probability=probability, warnings=tuple(dict.fromkeys(warnings)),
            suggestions=prompt.suggestions, colour=self._colour(prompt), details=details,
        )  # fmt: skip

    def _scope_warnings(self, term: TermAnswer) -> tuple[str, ...]:
        """An adapter was tuned on images of its own, which its grid tells of."""
        return self.embedding.scope_warnings(term.grid, self.engine.branches[term.branch].checkpoint.config.grid(term.grid.name))

    def _answered_by(self, terms: list[TermAnswer]) -> dict[str, str]:
        """Whose result it is, where an adapter is loaded: a mixed one counts as the adapter's."""
        if len(self.engine.branches) == 1:
            return {}
        return {"answered_by": "adapter" if any(t.branch for t in terms) else "base"}

    def _draw(self, term: TermAnswer, low: float, high: float) -> float:
        """Encode what is missing and decode one structure; returns the seconds that encoding took."""
        if term.box is None:
            return self._draw_coarse(term)
        fine = self.embedding.grid(term.grid, coarse=False)
        box = term.box if self.roi is None else inside_roi(fine, term.box, self.roi)
        if box is None:
            return 0.0
        started = time.perf_counter()
        views = self.embedding.views(term.grid, False, term.branch)
        if term.look is not None and len(tiles_for(fine, box)) > FINE_TILES:
            return self._draw_coarse(term)
        wanted: list[tuple[GridEmbedding, list[int] | None]] = [(view, tiles_for(view, view.in_view(box))) for view in views]
        self.engine._encode(wanted, self.progress, self.cancel, low, high, f"looking closer for {term.term.structure}")
        encoding = time.perf_counter() - started
        self._outline(term, views, box)
        term.close = True
        return encoding

    def _draw_coarse(self, term: TermAnswer) -> float:
        """Outline from the look at the whole volume, where a closer look would take too many tiles."""
        views = self.embedding.views(term.grid, True, term.branch)
        assert term.look is not None
        self._outline(term, views, term.look)
        term.warnings.append(
            f"'{term.term.structure}' was outlined from the coarse look alone ({views[0].frame.spacing_mm:.0f} mm), since the place to search is too "
            "large for a close one; crop the volume to the region for a fine outline."
        )
        return 0.0

    def _outline(self, term: TermAnswer, views: list[GridEmbedding], box: Box) -> None:
        """Decode one structure inside a box of the plain view and bring its probabilities to the native grid."""
        logits = decode_views(views, self._wordings(views, [term.text], term.branch), box).logits[0]
        tight = box_above(logits, BOX_PROBABILITY)
        if tight is None:
            return
        # One voxel around, so that interpolation to the native grid sees the boundary fall.
        grown = tuple(max(0, v - 1) if n % 2 == 0 else min(logits.shape[n // 2], v + 1) for n, v in enumerate(tight))
        cut = logits[grown[0] : grown[1], grown[2] : grown[3], grown[4] : grown[5]]
        at = tuple(v + box[n // 2 * 2] for n, v in enumerate(grown))
        term.native = to_native(views[0], cut, at)  # type: ignore[arg-type]

    def _outlines_joined(self, drawn: list[TermAnswer]) -> tuple[NativeMap, np.ndarray]:
        """Joint probabilities over an oriented native box, cut to the region asked for, and the mask inside that box."""
        if not any(not t.term.subtract for t in drawn):
            return NativeMap(np.zeros((1, 1, 1), np.float32), (0, 1, 0, 1, 0, 1)), np.zeros((1, 1, 1), bool)
        maps, subtract = [t.native for t in drawn if t.native is not None], [t.term.subtract for t in drawn]
        joint, parts = combine(maps, subtract), parts_of(maps, subtract, [self._calibration(t).mask_threshold for t in drawn])
        if self.roi is not None:
            region = self.embedding.whole_view(drawn[0].grid).frame.oriented_box_of(self.roi)
            inside = np.zeros(joint.values.shape, bool)
            inside[tuple(slice(max(0, region[2 * a] - joint.box[2 * a]), max(0, region[2 * a + 1] - joint.box[2 * a])) for a in range(3))] = True
            joint, parts = NativeMap(np.where(inside, joint.values, 0), joint.box), [part & inside for part in parts]
        # Structure by structure: beside a far larger one, a small one is no speck.
        return joint, np.logical_or.reduce([remove_specks(part) for part in parts])

    def _outline_doubts(self, terms: list[TermAnswer], confidence: float, drawn: bool) -> list[str]:
        """Structures that nothing could be outlined of, or with less confidence than usual.

        Args:
            drawn: whether the result has any voxel. confidence: of the whole result, which is that of its structure where there is only one.
        """
        if self.roi is not None:
            # A region cuts outlines short, so that their confidence says little; that nothing lies in it must be said.
            return [nothing_in_region(t.term.structure) for t in terms if not drawn and not t.term.subtract and t.presence >= self._calibration(t).present_from]
        doubts = []
        for term in terms:
            calibration = self._calibration(term)
            if term.native is None:
                known = term.term.structure in self.engine.vocabulary.names  # of an unknown text nobody knows the place
                if known and term.presence >= calibration.present_from:
                    doubts.append(not_subtracted(term.term.structure) if term.term.subtract else outline_doubt(term.term.structure, None, calibration))
            elif term.close:
                own = confidence
                if len(terms) > 1:
                    inside = term.native.values[remove_specks(term.native.values > calibration.mask_threshold)]
                    own = float(inside.mean()) if inside.size else float("nan")
                doubts.append(outline_doubt(term.term.structure, None if math.isnan(own) else own, calibration))
        return [d for d in doubts if d]

    def _side_warning(self, terms: list[TermAnswer], joint: NativeMap, mask: np.ndarray) -> list[str]:
        """Compare a left or right structure with the midline of the body."""
        sides = {self._side(t.term.structure) for t in terms}
        view = self.embedding.whole_view(terms[0].grid)
        if len(sides) != 1 or "" in sides or not mask.any() or view.frame.rotated:
            return []
        across = mask.sum((0, 1))
        index = joint.box[4] + float((across * np.arange(len(across))).sum() / across.sum())
        return [side_doubt(view, self.embedding.modality, sides.pop(), index)]

    def _side(self, name: str) -> str:
        names = self.engine.vocabulary.names
        return self.engine.vocabulary.structure(name).side if name in names else ""

    def _colour(self, prompt: ResolvedPrompt) -> tuple[int, int, int]:
        for term in prompt.terms:
            if term.structure in self.engine.vocabulary.names:
                return self.engine.vocabulary.structure(term.structure).colour
        return 127, 127, 127
