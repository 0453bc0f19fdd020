"""The ``evaluate`` command: every case of a split through the engine, then the tables."""

from __future__ import annotations

import logging
import platform
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from RefSAM3DLib.batch.content_hash import hash_file, hash_request
from RefSAM3DLib.checkpoint import file_sha256
from RefSAM3DLib.engine import RefSAM3DEngine
from RefSAM3DLib.errors import InputError

from ..export import calibration_sha256, tensors_sha256
from ..manifest import SPLITS, Manifest, ManifestCase
from .case_record import Extras, measure_case, measure_foreign
from .ellipsoid import ellipsoid_baseline
from .journal import Journal
from .probes import is_familiar
from .report import write_csv, write_json, write_page, write_reliability
from .summary import Record, summarise

logger = logging.getLogger(__name__)

DEFAULT_SETS = ("openkbp_ct", "msd_hippocampus", "sts_tumour")
#: Abdominal images without a manifest: asked for what they cannot hold.
FOREIGN_SET = "totalsegmentator_examples"
#: Cases per set whose wordings are varied: each asks some 30 texts per structure, twice.
PARAPHRASE_CASES, PARAPHRASE_TEMPLATES = 3, 2
#: Raised whenever the same settings measure something else than before, so that no journal mixes the two.
RECORD_FORMAT = 7


def collect(
    engine: RefSAM3DEngine, data: Path, split: str, sets: tuple[str, ...], output: Path, extras: Extras, limit: int | None = None,
    paraphrase_cases: int = 0, pictures: bool = True, purpose: str = "evaluate",
) -> list[Record]:  # fmt: skip
    """Records of all cases, from the journal where they are there.

    Raises:
        InputError: unknown split, or no case at all.
    """
    if split not in SPLITS:
        raise InputError(f"The split '{split}' is unknown; use {', '.join(SPLITS)}.")
    output.mkdir(parents=True, exist_ok=True)
    adapter = engine.adapter and file_sha256(Path(engine.adapter))
    journal = Journal(output, {"model": engine.model_sha256, "device": engine.device.type, "adapter": adapter, "split": split, "extras": asdict(extras),
                               "paraphrase_cases": paraphrase_cases, "purpose": purpose, "format": RECORD_FORMAT})  # fmt: skip
    work, learnt, strange = [], set(), set()
    for name in sets:
        manifest = Manifest.read(data / name)
        if extras.absent and not is_familiar(engine, manifest.labels.values()):
            strange.add(name)
            logger.warning("'%s' labels structures that the base does not know, so nothing tells what else its images cannot show: no name is asked "
                           "there as an absent one, and presence is judged by its own labels alone.", name)  # fmt: skip
        learnt |= {(name, c.patient) for c in manifest.cases["training"] if c.patient}
        cases = manifest.cases[split]
        chosen = [c for c in cases if set(c.known.values()) & set(engine.vocabulary.names)][: limit or None]
        work += [(name, n, case) for n, case in enumerate(chosen)]
    if not work:
        raise InputError(f"None of {', '.join(sets)} has {split} cases of structures that this model knows; check --sets and --data.")
    records = []
    started, done = time.monotonic(), 0
    for number, (name, index, case) in enumerate(work):
        stamp = _stamp(case)
        if not journal.holds(case.name, stamp):
            own = replace(extras, paraphrases=extras.paraphrases if index < paraphrase_cases else 0, absent=extras.absent and name not in strange)
            journal.add(case.name, measure_case(engine, case, own, output / "pictures" if pictures else None), stamp)
            done += 1
            left = (time.monotonic() - started) / done * (len(work) - number - 1) / 60
            scores = " ".join(f"{v['dice']:.2f}" for v in journal.records[case.name]["structures"].values())
            logger.info("%d/%d %s  Dice %s  about %.0f min left", number + 1, len(work), case.name, scores, left)
        records.append({**journal.records[case.name], "patient_in_training": (name, case.patient) in learnt})
    # They belong to no list, so they are asked with the test lists alone: what a calibration has seen is no test of it.
    foreign = sorted((data / FOREIGN_SET / "images").glob("*.nii.gz"))[: limit or None] if extras.absent and split == "test" else []
    for image in foreign:
        key = f"{FOREIGN_SET}/{image.name.split('.')[0]}"
        stamp = hash_request(image=image.stat().st_size)
        if not journal.holds(key, stamp):
            journal.add(key, measure_foreign(engine, key, image, extras), stamp)
        records.append(journal.records[key])
    return records


def _stamp(case: ManifestCase) -> str:
    """Changes with the case: a label or a list that was corrected is measured anew."""
    return hash_request(image=[case.image.stat().st_size, case.image.stat().st_mtime_ns], label=hash_file(case.label), known=sorted(case.known.items()),
                        composites=sorted(case.composites.items()), modality=case.modality)  # fmt: skip


def dice_alone(record: Record) -> Record:
    """What ``compare`` needs of a case: small enough to be kept beside the tables, so that later references need no second evaluation."""
    told = {k: record.get(k, "") for k in ("case", "grid", "modality", "patient", "patient_in_training")}
    return {**told, "structures": {n: {"dice": r["dice"]} for n, r in record["structures"].items()}}


def evaluate(
    model: Path, data: Path, split: str, output: Path, sets: tuple[str, ...] = DEFAULT_SETS, limit: int | None = None, device: str = "auto",
    adapter: Path | None = None, paraphrase_cases: int = PARAPHRASE_CASES, pictures: bool = True,
) -> dict[str, Any]:  # fmt: skip
    """Measure a model file on a split; writes evaluation.json, .csv, .html, reliability.png, case_scores.json and
    summary.json; returns the summary."""
    engine = RefSAM3DEngine.from_checkpoint(model, device, adapter)
    extras = Extras(paraphrases=PARAPHRASE_TEMPLATES if paraphrase_cases else 0)
    records = collect(engine, data, split, sets, output, extras, limit, paraphrase_cases, pictures)
    summary: dict[str, Any] = {
        "model": {"name": engine.model_name, "sha256": engine.model_sha256, "tensors_sha256": tensors_sha256(engine.checkpoint.state),
                  "calibration_sha256": calibration_sha256(engine.checkpoint.calibration),
                  "adapter": engine.adapter and Path(engine.adapter).name, "training": engine.model_card.get("training", {})},
        "split": split, "limit": limit,
        "device": f"{engine.device_name}, {torch.get_num_threads()} threads, torch {torch.__version__.split('+')[0]}, {platform.machine()}",
        **summarise(records),
    }  # fmt: skip
    summary["centred_ellipsoid"] = {}
    if "sts_tumour" in sets:
        summary["centred_ellipsoid"] = ellipsoid_baseline(Manifest.read(data / "sts_tumour"), split)
    write_json(output / "evaluation.json", {**summary, "records": records})
    write_json(output / "summary.json", summary)
    write_json(output / "case_scores.json", {**summary, "records": [dice_alone(r) for r in records if r.get("structures")]})
    write_csv(output / "evaluation.csv", records)
    write_reliability(output / "reliability.png", summary["presence"])
    write_page(output / "evaluation.html", summary, records)
    return summary
