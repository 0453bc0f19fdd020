"""From records of cases to the numbers that are published."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import numpy as np

from .measures import auroc, bootstrap_interval, described, reliability
from .probes import PAINTED

Record = dict[str, Any]
#: Pairs that overlap by definition: a part and its whole say nothing about prompt use.
NESTED = frozenset({"hippocampus"})
MIRRORED = (("left parotid gland", "right parotid gland"), ("right parotid gland", "left parotid gland"))
CUT_KINDS = ("below the chin", "above the larynx")


def structure_key(record: Record, name: str) -> str:
    """Structures read from several modalities are reported apart."""
    return f"{name} ({record['modality'].upper()})" if record["grid"] == "limb" else name


def drawn_by(record: Record) -> str:
    """What a bootstrap draws: the patient, with all images of them, or the case where no patient is known."""
    return str(record.get("patient") or record["case"])


def by_structure(records: Iterable[Record]) -> dict[str, Any]:
    """Dice, surface Dice and volume error per structure (and modality), with intervals over patients."""
    rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
    patients: dict[str, list[str]] = defaultdict(list)
    for record in records:
        for name, row in record.get("structures", {}).items():
            rows[structure_key(record, name)].append(row)
            patients[structure_key(record, name)].append(drawn_by(record))
    out = {}
    for key, group in sorted(rows.items()):
        drawn = patients[key]
        error = [100 * (r["volume_ml"] - r["truth_ml"]) / r["truth_ml"] for r in group]
        out[key] = {"dice": described([r["dice"] for r in group], drawn, share=True)}
        for tolerance in group[0].get("nsd", {}):
            out[key][f"nsd_{tolerance}mm"] = described([r["nsd"][tolerance] for r in group], drawn, share=True)
        out[key]["volume_error_percent"] = described(error, drawn)
        out[key]["absolute_volume_error_percent"] = described([abs(e) for e in error], drawn)
        out[key]["drawn_share"] = round(float(np.mean([r["volume_ml"] > 0 for r in group])), 4)
    return out


def grid_mean(records: Iterable[Record], grid: str, score: str = "dice") -> dict[str, Any]:
    """Mean over structures of the mean over cases; the bootstrap draws patients with all of their cases."""
    mine = [r for r in records if r["grid"] == grid and r.get("structures")]
    names = sorted({n for r in mine for n in r["structures"]})
    table = np.array([[r["structures"].get(n, {}).get(score, np.nan) for n in names] for r in mine])
    if not table.size:
        return described([])

    low, high = bootstrap_interval(table, [drawn_by(r) for r in mine], lambda means: np.nanmean(means, axis=1))
    mean = float(np.nanmean(np.nanmean(table, axis=0)))
    return {"mean": round(mean, 4), "interval": [round(low, 4), round(high, 4)], "n": len(mine), "structures": len(names)}


def by_patient(records: Iterable[Record], grids: list[str]) -> dict[str, Any]:
    """Mean Dice of the cases whose patient has another image in the training list, and of the others, where a grid has both."""
    out = {}
    for grid in grids:
        mine = [r for r in records if r["grid"] == grid and r.get("structures")]
        seen = [r for r in mine if r.get("patient_in_training")]
        if seen:
            out[grid] = {"patient_in_training": grid_mean(seen, grid), "patient_unseen": grid_mean([r for r in mine if r not in seen], grid)}
    return out


def prompt_use(records: Iterable[Record]) -> dict[str, Any]:
    """Dice of what one prompt draws with the truth of every other structure of the image."""
    cells: dict[tuple[str, str], list[float]] = defaultdict(list)
    patients: dict[tuple[str, str], list[str]] = defaultdict(list)
    for record in records:
        for asked, row in record.get("matrix", {}).items():
            for truth, value in row.items():
                if not NESTED & {asked, truth}:
                    cells[asked, truth].append(value)
                    patients[asked, truth].append(drawn_by(record))
    matrix = {f"{a} -> {t}": round(float(np.mean(v)), 4) for (a, t), v in sorted(cells.items())}
    groups = {"all": list(cells), "head and neck": [k for k in cells if "hippocampus" not in k[0]], "hippocampus": [k for k in cells if "hippocampus" in k[0]]}
    means = {g: round(float(np.mean([np.mean(cells[k]) for k in keys])), 4) for g, keys in groups.items() if keys}
    side = {f"{a} -> {t}": described(cells[a, t], patients[a, t]) for a, t in MIRRORED if cells.get((a, t))}
    return {"off_diagonal_mean": means, "matrix": matrix, "side_confusion": side}


def paraphrases(records: Iterable[Record]) -> dict[str, Any]:
    """Mean Dice of unseen wordings beside the canonical one, on the same cases."""
    rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for record in records:
        for name, row in record.get("paraphrases", {}).items():
            if row["raw"]:  # else it has no unseen wording, and nothing was measured
                rows[structure_key(record, name)].append(row)
    out: dict[str, Any] = {}
    for key, group in sorted(rows.items()):
        out[key] = {
            "cases": len(group), "wordings": group[0]["wordings"], "texts": len(group[0]["raw"]),
            "canonical": round(float(np.mean([r["canonical"] for r in group])), 4),
            "resolver": round(float(np.mean([v for r in group for v in r["resolver"]])), 4),
            "raw": round(float(np.mean([v for r in group for v in r["raw"]])), 4),
            "unresolved": group[0]["unresolved"],
        }  # fmt: skip
    if out:
        values = list(out.values())
        out = {"structures": out, "mean": {k: round(float(np.mean([v[k] for v in values])), 4) for k in ("canonical", "resolver", "raw")}}
        out["mean"]["unresolved_texts"] = sum(len(v["unresolved"]) for v in values)
        out["mean"]["texts"] = sum(v["texts"] for v in values)
    return out


def composites(records: Iterable[Record]) -> dict[str, Any]:
    """Dice of prompts that name several structures, one mask each."""
    rows: dict[str, list[tuple[float, str]]] = defaultdict(list)
    for record in records:
        for text, value in record.get("composites", {}).items():
            rows[text].append((value, drawn_by(record)))
    return {text: described([v for v, _ in pairs], [p for _, p in pairs]) for text, pairs in sorted(rows.items())}


def presence(records: Iterable[Record]) -> dict[str, Any]:
    """How well "is it there?" is answered: trained names over all and inside head CTs; painted images and untrained names apart."""
    rows = [row for record in records for row in record.get("presence", [])]
    trained = [r for r in rows if r["kind"] not in ("distractor", "stranger", "own synonym", PAINTED)]
    painted = [r for r in rows if r["kind"] == PAINTED]
    inside = [r for r in trained if r["kind"] in CUT_KINDS or (r["kind"] == "own" and r["grid"] == "head_neck")]
    distractors, strangers = [r for r in rows if r["kind"] == "distractor"], [r for r in rows if r["kind"] == "stranger"]
    own = [r for r in rows if r["kind"] == "own"]
    error, bins = reliability([r["probability"] for r in trained], [r["present"] for r in trained])
    error_inside, _ = reliability([r["probability"] for r in inside], [r["present"] for r in inside])
    kinds = sorted({r["kind"] for r in rows if not r["present"]})
    absent = {k: [r for r in rows if r["kind"] == k and not r["present"]] for k in kinds}
    return {
        "auroc_all": _auroc(trained),
        "auroc_inside_head_and_neck": _auroc(inside),
        "auroc_painted_over": _auroc(painted),
        "auroc_by_grid": {g: _auroc([r for r in trained if r["grid"] == g]) for g in sorted({r["grid"] for r in trained})},
        "ece": round(error, 4),
        "ece_inside_head_and_neck": round(error_inside, 4) if inside else None,
        "reliability": bins,
        "prompts": {"present": sum(r["present"] for r in trained), "absent": sum(not r["present"] for r in trained)},
        "present_but_not_drawn": _share([not r["drawn"] for r in trained if r["present"]]),
        "absent_and_not_drawn": _share([not r["drawn"] for r in trained if not r["present"]]),
        "absent_and_not_drawn_inside_head_and_neck": _share([not r["drawn"] for r in inside if not r["present"]]),
        "absent_and_not_drawn_by_kind": {k: {**_share([not r["drawn"] for r in v]), "verdict_absent": _share([r["verdict"] == "absent" for r in v])["share"]}
                                         for k, v in absent.items()},
        "painted_over": {"verdicts": _verdicts([r for r in painted if not r["present"]]), "verdicts_beside": _verdicts([r for r in painted if r["present"]])},
        # Names that training asked for where they are absent, and names that it never met, both as raw text.
        "trained_absent_names_raw_text": _raw_names(distractors, own),
        "untrained_names_raw_text": _raw_names(strangers, own),
    }  # fmt: skip


def _raw_names(rows: list[dict[str, Any]], own: list[dict[str, Any]]) -> dict[str, Any]:
    return {"prompts": len(rows), "not_drawn": _share([not r["drawn"] for r in rows])["share"], "auroc_against_own": _auroc([*rows, *own], "logit")}


def _verdicts(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Share of each verdict."""
    return {v: _share([r["verdict"] == v for r in rows])["share"] for v in ("present", "uncertain", "absent")} | {"n": len(rows)}


def by_verdict(records: Iterable[Record]) -> dict[str, Any]:
    """Dice of structures that are there by what was said of them: a verdict that can be trusted parts good outlines from bad ones."""
    rows: dict[str, list[tuple[float, str]]] = defaultdict(list)
    for record in records:
        for row in record.get("structures", {}).values():
            rows[row["verdict"]].append((row["dice"], drawn_by(record)))
    return {verdict: described([v for v, _ in pairs], [p for _, p in pairs], share=True) for verdict, pairs in sorted(rows.items())}


def _share(flags: list[bool]) -> dict[str, Any]:
    return {"share": round(float(np.mean(flags)), 4) if flags else None, "n": len(flags)}


def _auroc(rows: list[dict[str, Any]], score: str = "probability") -> float | None:
    value = auroc([r[score] for r in rows if r["present"]], [r[score] for r in rows if not r["present"]])
    return None if np.isnan(value) else round(value, 4)


def seconds(records: Iterable[Record]) -> dict[str, Any]:
    """Median seconds per case: encoding the whole view, then all structures of the grid."""
    rows: dict[str, list[dict[str, float]]] = defaultdict(list)
    for record in records:
        if "seconds" in record:
            rows[record["grid"]].append(record["seconds"])
    return {
        grid: {k: round(float(np.median([r[k] for r in group])), 3) for k in ("load", "embed", "segment")} | {"prompts": int(group[0]["prompts"])}
        for grid, group in sorted(rows.items())
    }


def summarise(records: list[Record]) -> dict[str, Any]:
    """All aggregates: no name of a case, no voxel."""
    grids = sorted({r["grid"] for r in records if r.get("structures")})
    counts: dict[str, int] = defaultdict(int)
    for record in records:
        counts[record["case"].split("/")[0]] += 1
    return {
        "cases": dict(sorted(counts.items())), "structures": by_structure(records), "mean_dice_by_grid": {g: grid_mean(records, g) for g in grids},
        "by_patient": by_patient(records, grids),
        "prompt_use": prompt_use(records), "composites": composites(records), "paraphrases": paraphrases(records), "presence": presence(records),
        "dice_by_verdict": by_verdict(records), "seconds_per_case": seconds(records),
    }  # fmt: skip
