"""All results of an output folder as rows: one per case and structure, one per failed case. The table of everything else."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..atomic import write_aside
from .case_work import read_result
from .cases import Case
from .folder_state import FolderState, case_folder
from .outliers import add_scores
from .pseudonyms import Identifiers, hide_identity

COLUMNS = (
    "case", "name", "structure", "prompt", "verdict", "presence", "confidence", "volume_ml", "outlier_batch", "outlier_range",
    "attention", "reasons", "reference_dice", "review", "reviewer", "elapsed_s", "warnings", "error", "segmentation", "label",
)  # fmt: skip
#: A cell that starts so would be run as a formula by a spreadsheet (OWASP, CSV injection).
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
#: So would what follows a semicolon or a line's end: Excel takes ';' for the separator where the comma is the decimal sign, and then knows no quotes.
_FORMULA_WITHIN = re.compile(r"([;\r\n] *)(?=[=+\-@\t])")


def collect_rows(folder: Path, state: FolderState | None = None) -> list[dict[str, Any]]:
    """Rows of every case that the journal calls done or failed, with outlier scores and attention.

    What concerns a whole case (an orientation that its image does not state) is a warning of each of its rows, and alone in ``case_warnings``.
    """
    folder = Path(folder)
    state = state or FolderState.read(folder)
    private = Identifiers(folder).cases
    rows: list[dict[str, Any]] = []
    for key, case in state.cases.items():
        common = {"case": key, "name": case.entry.get("name", key), "patient": case.entry.get("patient", ""), "folder": f"cases/{key}"}
        if case.status == "failed":
            place = str(Path(case.entry.get("image") or "").parent)  # folders have people's names too; the journal has the whole path
            error = str(case.entry.get("error", ""))
            for written in (place + os.sep, (place + os.sep).replace("\\", "\\\\")) if len(place) > 1 else ():  # the text of an error doubles Windows'
                error = error.replace(written, "")
            failed = {"structure": "", "prompt": "", "verdict": "failed", "label": 0, "voxels": 0, "error": error}
            rows.append({**common, **failed})
            continue
        if case.status != "done":
            continue
        stored = read_result(case_folder(folder, key), key)
        if stored is None:
            lost = "The result of this case is not in the folder any more; run the batch again to make it."
            rows.append({**common, "structure": "", "prompt": "", "verdict": "failed", "label": 0, "voxels": 0, "error": lost})
            continue
        of_case = [str(text) for text in stored["warnings"]]
        if known := private.get(key):  # earlier versions left file names in them
            source = Case(key, key, known.get("image", ""), known.get("series", ""), private=True)
            of_case = [hide_identity(text, source) for text in of_case]
        for row in stored["prompts"]:
            rows.append(
                {
                    **common,
                    "model": stored["model"],
                    **row,
                    "warnings": list(dict.fromkeys([*row.get("warnings", ()), *of_case])),
                    "segmentation": f"cases/{key}/{stored['segmentation']}",
                    "modality": stored.get("modality"),
                    "case_warnings": of_case,
                }
            )
    return add_scores(rows)


def write_summary(folder: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """Write ``summary.csv``."""
    path = Path(folder) / "summary.csv"
    write_csv(path, COLUMNS, rows)
    return path


def write_csv(path: Path, columns: Sequence[str], rows: Sequence[dict[str, Any]], overwrite: bool = True) -> None:
    """A CSV in UTF-8 with a byte order mark (Excel) whose text cells no spreadsheet takes for formulas."""
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer)
    writer.writerow(columns)
    for row in rows:
        writer.writerow([plain_cell(row.get(column)) for column in columns])
    with write_aside(path, overwrite=overwrite) as aside:
        aside.write_text("\ufeff" + buffer.getvalue(), encoding="utf-8", errors="replace", newline="")


def plain_cell(value: Any) -> Any:
    """A value as it may stand in a CSV."""
    if value is None:
        return ""
    if isinstance(value, list | tuple):
        value = "; ".join(str(v) for v in value)
    if not isinstance(value, str):
        return value
    value = _FORMULA_WITHIN.sub(r"\1'", value)
    return "'" + value if value.startswith(_FORMULA_STARTS) else value
