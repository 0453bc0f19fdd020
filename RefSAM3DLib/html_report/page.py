"""Builds the page: the template escapes every value, and a content security policy lets only our own script run."""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..atomic import write_aside
from ..batch.append_log import utc_now
from ..batch.outliers import FAILED, WARNED
from ..batch.pseudonyms import Identifiers
from ..batch.run_manifest import read_manifest
from ..resources import resource_path
from .histograms import HEIGHT, WIDTH, histograms

NAME = "report.html"
#: A shape beside each word, so that nothing is said by colour alone.
VERDICT_MARKS = {"present": "●", "uncertain": "◐", "absent": "○", "unknown": "?", "failed": "✕"}
REVIEW_MARKS = {"": "·", "accept": "✓", "accept_edited": "✎", "reject": "✕", "reprompt": "↻", "skip": "»", "changed": "!"}
#: From here on a row counts as one that needs eyes: an uncertain verdict, an outlier, low confidence or worse.
NEEDS_EYES = 15.0


def write_report(folder: Path, rows: Sequence[dict[str, Any]], show_identifiers: bool = False) -> Path:
    """Write ``report.html`` into ``folder`` from the rows of the summary.

    Args:
        rows: of ``collect_rows``, with or without the state of the review.
        show_identifiers: name patients; otherwise nothing of ``identifiers.json`` is on the page.
    """
    import jinja2

    folder = Path(folder)
    template_path = resource_path("Report", "report.html.j2")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["number"] = _number
    environment.filters["ml"] = _millilitres
    style, script = (resource_path("Report", name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    template = environment.from_string(template_path.read_text(encoding="utf-8"))
    stream = template.stream(
        style=_inline(style),
        script=_inline(script),
        style_hash=_csp_hash(style),
        script_hash=_csp_hash(script),
        rows=(_view(folder, row) for row in rows),
        **_context(folder, rows, show_identifiers),
    )
    path = folder / NAME
    with write_aside(path, overwrite=True) as aside, open(aside, "wb") as handle:
        stream.enable_buffering(50)
        stream.dump(handle, encoding="utf-8", errors="replace")  # pictures pass through one row at a time
    return path


def _context(folder: Path, rows: Sequence[dict[str, Any]], show_identifiers: bool) -> dict[str, Any]:
    manifest = read_manifest(folder)
    engine = manifest.get("engine", {})
    verdicts = Counter(row["verdict"] for row in rows)
    reviews = Counter(row.get("review") or "open" for row in rows)
    people = Identifiers(folder).cases if show_identifiers else {}
    return {
        "title": "RefSAM3D batch report",
        "made": utc_now()[:16].replace("T", " ") + " UTC",
        "engine": {
            "name": engine.get("name", ""),
            "sha256": engine.get("sha256", "")[:12],
            "adapter": engine.get("adapter", ""),
            "adapter_sha256": engine.get("adapter_sha256", "")[:12],
            "version": engine.get("version", ""),
            "device": engine.get("device", ""),
        },
        "warnings": engine.get("warnings", []),
        "case_count": len({row["case"] for row in rows}),
        "row_count": len(rows),
        "eyes_count": sum(row["attention"] >= NEEDS_EYES for row in rows),
        "verdicts": sorted(verdicts.items()),
        "reviews": sorted(reviews.items()),
        "structures": sorted({row["structure"] for row in rows if row["structure"]}),
        "marks": VERDICT_MARKS,
        "review_marks": REVIEW_MARKS,
        "needs_eyes": NEEDS_EYES,
        "histograms": histograms(rows),
        "svg_width": WIDTH,
        "svg_height": HEIGHT,
        "people": people,
        "show_identifiers": show_identifiers,
        "has_reference": any(row.get("reference_dice") is not None for row in rows),
    }


def _view(folder: Path, row: dict[str, Any]) -> dict[str, Any]:
    """A row with all fields that the template reads; pictures are read when its turn comes."""
    names = ("presence", "confidence", "volume_ml", "outlier_batch", "outlier_range", "reference_dice")
    place = folder / row["folder"]
    return {
        **{name: row.get(name) for name in names},
        "case": row["case"],
        "name": row["name"],
        "structure": row["structure"],
        "prompt": row["prompt"],
        "verdict": row["verdict"],
        "label": row["label"],
        "attention": row["attention"],
        # what is said in full beside it is not announced as well
        "reasons": [r for r in row["reasons"] if not ((r == FAILED and row.get("error")) or (r == WARNED and row.get("warnings")))],
        "review": row.get("review") or "open",
        "review_key": row.get("review_key") or "",
        "reviewer": row.get("reviewer") or "",
        "comment": row.get("review_comment") or "",
        "error": row.get("error") or "",
        "warnings": row.get("warnings") or [],
        "suggestions": row.get("suggestions") or [],
        "picture": _data_uri(place / row["picture"], "jpeg") if row.get("picture") else "",
        "mask": _data_uri(place / row["picture_mask"], "png") if row.get("picture_mask") else "",
    }


def _data_uri(path: Path, kind: str) -> str:
    try:
        return f"data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"
    except OSError:
        return ""  # a page without one picture is better than none


def _inline(text: str) -> Any:
    """Our own style and script, not to be escaped; they cannot end their element early."""
    import markupsafe

    if "</" in text:
        raise ValueError("style and script must not contain '</'")
    return markupsafe.Markup(text)


def _csp_hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")


def _number(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _millilitres(value: float | None) -> str:
    """Three digits that count: a volume is not known better.

    >>> _millilitres(64.07), _millilitres(0.123), _millilitres(312.4)
    ('64.1', '0.12', '312')
    """
    return _number(value, 2 if value is None or value < 10 else 1 if value < 100 else 0)
