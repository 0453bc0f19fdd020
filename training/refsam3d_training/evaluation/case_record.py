"""Everything that is measured on one volume, as plain values for the journal."""

from __future__ import annotations

import time
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from RefSAM3DLib.config import GridConfig
from RefSAM3DLib.engine import RefSAM3DEngine, VolumeEmbedding
from RefSAM3DLib.inference.postprocess import remove_specks, tight_box
from RefSAM3DLib.types import PromptResult, PromptStatus, Volume

from ..manifest import ManifestCase
from .measures import dice, surface_dice
from .pictures import write_picture
from .probes import FAR_AWAY, STRANGERS, absent_names, answer_texts, cut_views, painted_view, presence_logits

TOLERANCES_MM = (2.0, 5.0)
#: Candidates of the mask threshold; the engine keeps no voxel below 0.15.
THRESHOLDS = (0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7)
#: Trained synonyms whose presence logits help to calibrate.
SYNONYMS = 4
#: Prompts of several structures: which are united, and which are taken away.
COMPOSITES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "left and right parotid glands": (("left parotid gland", "right parotid gland"), ()),
    "hippocampus minus posterior hippocampus": (("hippocampus",), ("posterior hippocampus",)),
}


@dataclass(frozen=True)
class Extras:
    """What is asked beside the structures themselves.

    paraphrases: held-out templates per held-out wording (0: none). views: cut the field of view. painted: with ``views``, paint a
    structure over. thresholds: Dice and confidence at each of ``THRESHOLDS``. surfaces: surface Dice. wordings: presence logits of
    trained synonyms too. absent: ask for what the image cannot hold. draw_absent: send absent names through the front door; else
    their logits alone. composites: ask ``COMPOSITES``.
    """

    paraphrases: int = 0
    views: bool = True
    painted: bool = True
    thresholds: bool = False
    surfaces: bool = True
    wordings: bool = False
    absent: bool = True
    draw_absent: bool = True
    composites: bool = True


def measure_case(engine: RefSAM3DEngine, case: ManifestCase, extras: Extras, pictures: Path | None = None) -> dict[str, Any]:
    """Encode a labelled volume once and ask everything about it."""
    started = time.perf_counter()
    volume = case.volume()
    truth = {n: m for n, m in case.truth(volume).items() if n in engine.vocabulary.names}
    loaded = time.perf_counter()
    embedding = engine.embed(volume)
    embedded = time.perf_counter()
    grid = engine.checkpoint.config.grid_of(next(iter(truth)))
    names = [n for n in grid.structures if n in engine.vocabulary.names]
    answers = dict(zip(names, engine.segment(embedding, names, probability=extras.thresholds), strict=True))
    segmented = time.perf_counter()
    record: dict[str, Any] = {
        "case": case.name, "grid": grid.name, "modality": embedding.modality.value, "patient": case.patient,
        "seconds": {"load": loaded - started, "embed": embedded - loaded, "segment": segmented - embedded, "prompts": len(names)},
        "structures": _scores(volume, truth, answers, extras),
        "matrix": {a: {t: dice(answers[a].mask, m) for t, m in truth.items() if t != a and m.any()} for a in names},
        "presence": _own_presence(engine, embedding, grid, truth, answers, extras),
    }  # fmt: skip
    if extras.composites:
        record["composites"] = _composites(engine, embedding, truth)
    if extras.absent:
        record["presence"] += _elsewhere(engine, embedding, absent_names(engine, grid.name), "other set", extras)
    if extras.absent and extras.draw_absent:
        record["presence"] += _far_away(engine, embedding, grid)
    if extras.views and grid.name == "head_neck":
        record["presence"] += _altered_presence(engine, volume, truth, case.name, extras)
    if extras.paraphrases:
        record["paraphrases"] = _paraphrases(engine, embedding, truth, extras.paraphrases)
    if pictures is not None:
        write_picture(pictures / f"{case.name.replace('/', '_')}.png", volume, truth, {n: a.mask for n, a in answers.items()})
    engine.release()
    return record


def measure_foreign(engine: RefSAM3DEngine, name: str, image: Path, extras: Extras) -> dict[str, Any]:
    """Ask trained names about an image that holds none of them (abdomen)."""
    from RefSAM3DLib.volume_io import load_volume

    embedding = engine.embed(load_volume(image, modality="mr" if "_mr" in image.name else "ct"))
    record = {"case": name, "grid": "abdomen", "modality": embedding.modality.value}
    record["presence"] = _elsewhere(engine, embedding, absent_names(engine, "abdomen"), "abdomen", extras)
    engine.release()
    return record


def _scores(volume: Volume, truth: dict[str, np.ndarray], answers: dict[str, PromptResult], extras: Extras) -> dict[str, Any]:
    spacing = volume.geometry.spacing_xyz_mm[::-1]
    unit = volume.geometry.voxel_volume_ml
    scores = {}
    for name, mask in truth.items():
        if not mask.any() or name not in answers:
            continue
        answer = answers[name]
        row: dict[str, Any] = {
            "dice": dice(answer.mask, mask), "volume_ml": answer.volume_ml, "truth_ml": float(mask.sum()) * unit,
            "verdict": answer.verdict.value, "confidence": None if np.isnan(answer.confidence) else answer.confidence,
        }  # fmt: skip
        if extras.surfaces:
            row["nsd"] = dict(zip((f"{t:g}" for t in TOLERANCES_MM), surface_dice(answer.mask, mask, spacing, TOLERANCES_MM), strict=True))
        if extras.thresholds and answer.probability is not None:
            row["dice_at"], row["confidence_at"] = _at_thresholds(answer.probability, mask)
        scores[name] = row
    return scores


def _at_thresholds(probability: np.ndarray, mask: np.ndarray) -> tuple[dict[str, float], dict[str, float]]:
    """Dice, and mean probability of the outline's voxels (0 where there are none), at each of ``THRESHOLDS``."""
    box = tight_box((probability > 0) | mask)
    assert box is not None
    cut = tuple(slice(box[2 * a], box[2 * a + 1]) for a in range(3))
    scores, confidences = {}, {}
    for threshold in THRESHOLDS:
        outline = remove_specks(probability[cut] > threshold)
        scores[f"{threshold:g}"] = dice(outline, mask[cut])
        confidences[f"{threshold:g}"] = float(probability[cut][outline].astype(np.float32).mean()) if outline.any() else 0.0
    return scores, confidences


def _presence_row(kind: str, name: str, grid: str, present: bool, answer: PromptResult | None, logit: float) -> dict[str, Any]:
    row: dict[str, Any] = {"kind": kind, "name": name, "grid": grid, "present": present, "logit": logit}
    if answer is not None:
        row |= {"probability": answer.presence, "drawn": bool(answer.mask.any()), "verdict": answer.verdict.value}
    return row


def _own_presence(
    engine: RefSAM3DEngine, embedding: VolumeEmbedding, grid: GridConfig, truth: dict[str, np.ndarray], answers: dict[str, PromptResult], extras: Extras
) -> list[dict[str, Any]]:
    names = [n for n in truth if n in answers]
    rows = []
    for name, logit in zip(names, presence_logits(engine, embedding, grid, [(n, n) for n in names]), strict=True):
        rows.append(_presence_row("own", name, grid.name, bool(truth[name].any()), answers[name], logit))
    if extras.wordings:
        for name in names:
            synonyms = list(engine.vocabulary.structure(name).synonyms)[:SYNONYMS]
            for logit in presence_logits(engine, embedding, grid, [(name, s) for s in synonyms]):
                rows.append(_presence_row("own synonym", name, grid.name, bool(truth[name].any()), answers[name], logit))
    return rows


def _elsewhere(engine: RefSAM3DEngine, embedding: VolumeEmbedding, names: list[str], kind: str, extras: Extras) -> list[dict[str, Any]]:
    """Absent names through the front door; their logits on their own grids."""
    rows = []
    for grid in engine.checkpoint.config.grids:
        mine = [n for n in names if n in grid.structures]
        if mine:
            answers: list[PromptResult | None] = list(engine.segment(embedding, mine)) if extras.draw_absent else [None] * len(mine)
            logits = presence_logits(engine, embedding, grid, [(n, n) for n in mine])
            rows += [_presence_row(kind, n, grid.name, False, a, v) for n, a, v in zip(mine, answers, logits, strict=True)]
    return rows


def _composites(engine: RefSAM3DEngine, embedding: VolumeEmbedding, truth: dict[str, np.ndarray]) -> dict[str, float]:
    """Dice of the union of what a composite prompt draws, where all of its structures are known and there."""
    out = {}
    for text, (united, taken) in COMPOSITES.items():
        if all(n in truth and truth[n].any() for n in (*united, *taken)):
            mask = np.logical_or.reduce([truth[n] for n in united])
            for name in taken:
                mask = mask & ~truth[name]
            out[text] = dice(np.logical_or.reduce([a.mask for a in engine.segment(embedding, [text])]), mask)
    return out


def _far_away(engine: RefSAM3DEngine, embedding: VolumeEmbedding, grid: GridConfig) -> list[dict[str, Any]]:
    # Unknown texts are always read by the base: a host that an adapter answers for would send them to the adapter.
    hosts = [n for n in grid.structures if n in engine.vocabulary.names]
    host = min(hosts, key=lambda n: (engine.branch_of(n), bool(engine.vocabulary.structure(n).side)))  # better one without a side
    names = [(n, "distractor") for n in FAR_AWAY if n in engine.vocabulary.distractors]
    names += [(n, "stranger") for n in STRANGERS if n not in engine.vocabulary.distractors]
    asked = [(host, n) for n, _ in names]
    answers = answer_texts(engine, embedding, asked)
    logits = presence_logits(engine, embedding, grid, asked)
    return [_presence_row(kind, n, grid.name, False, a, v) for (n, kind), a, v in zip(names, answers, logits, strict=True)]


def _altered_presence(engine: RefSAM3DEngine, volume: Volume, truth: dict[str, np.ndarray], case: str, extras: Extras) -> list[dict[str, Any]]:
    rows = []
    views = cut_views(volume, truth)
    if extras.painted:
        painted = painted_view(volume, truth, engine.checkpoint.config.intensity, zlib.crc32(case.encode()))
        views += [painted] if painted else []
    for view in views:
        names = [*view.present, *view.absent]
        embedding = engine.embed(view.volume)
        answers: list[PromptResult | None] = list(engine.segment(embedding, names)) if extras.draw_absent else [None] * len(names)
        grid = engine.checkpoint.config.grid_of(names[0])
        logits = presence_logits(engine, embedding, grid, [(n, n) for n in names])
        for name, answer, logit in zip(names, answers, logits, strict=True):
            rows.append(_presence_row(view.kind, name, grid.name, name in view.present, answer, logit))
    return rows


def _paraphrases(engine: RefSAM3DEngine, embedding: VolumeEmbedding, truth: dict[str, np.ndarray], templates: int) -> dict[str, Any]:
    """Dice of held-out wordings in held-out templates, through the resolver and as raw text. A structure that has none, as a site's own, is
    left out: every wording of it was trained."""
    held = engine.vocabulary.held_out_templates
    out: dict[str, Any] = {}
    for name, mask in truth.items():
        wordings = engine.vocabulary.structure(name).held_out
        if not wordings or not mask.any():
            continue
        texts = [held[(n + 5 * k) % len(held)].format(w) for n, w in enumerate(wordings) for k in range(templates)]
        resolved = [engine.resolve([t]) for t in texts]
        read = [r[0].text if len(r) == 1 and r[0].status is PromptStatus.KNOWN and r[0].resolved == name else "" for r in resolved]
        unique = list(dict.fromkeys([name, *(t for t in read if t), *texts]))
        scores = dict(zip(unique, (dice(a.mask, mask) for a in answer_texts(engine, embedding, [(name, t) for t in unique])), strict=True))
        out[name] = {
            "canonical": scores[name], "resolver": [scores[t] if t else 0.0 for t in read], "raw": [scores[t] for t in texts],
            "unresolved": [t for t, r in zip(texts, read, strict=True) if not r], "wordings": len(wordings),
        }  # fmt: skip
    return out
