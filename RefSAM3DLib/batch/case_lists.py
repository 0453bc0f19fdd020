"""Cases from a CSV or JSON list, or from a manifest of the training package (``datalist.json``)."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..types import Modality
from .cases import IMAGE_ENDINGS, Case, image_stem, slug

#: Columns of a list; only ``image`` must be there.
COLUMNS = ("case", "image", "prompts", "segmentation", "series", "patient", "modality")
#: Lists of a manifest, in this order.
SPLITS = ("training", "validation", "test")
#: What a manifest says as its modality if the entries differ.
PER_CASE = "per case"


def read_csv(path: Path, root: Path | None = None) -> list[Case]:
    """Cases of a CSV: see ``COLUMNS``; prompts are separated by ``;`` or ``|``."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"The list '{path}' cannot be read ({error}); save it as CSV in UTF-8.") from error
    first = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=first.count)  # Excel writes ';' where the comma is the decimal sign
    rows = list(csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True))
    header = [(name or "").strip().lower() for name in (next(csv.reader([first.strip("\r")], delimiter=delimiter), []))]
    if "image" not in header:
        raise InputError(f"The list '{path}' has no column 'image' (its columns: {', '.join(header) or 'none'}); it may have {', '.join(COLUMNS)}.")
    if twice := sorted({name for name in header if name and header.count(name) > 1}):
        raise InputError(f"The list '{path}' has the column '{twice[0]}' twice; remove one of them.")
    separator = "|" if delimiter == ";" else ";"
    records = []
    for number, row in enumerate(rows, 2):
        values = {(k or "").strip().lower(): (v or "").strip() for k, v in row.items() if isinstance(v, str | None)}
        if None in row or any(isinstance(v, list) for v in row.values()):
            raise InputError(f"Line {number} of '{path}' has more fields than the header; quote texts that contain '{delimiter}'.")
        if not any(values.values()):
            continue
        values["prompts"] = [p for p in values.get("prompts", "").replace("|", separator).split(separator) if p.strip()]  # type: ignore[assignment]
        records.append((f"line {number}", values))
    return _cases(path, root, records)


def read_json(path: Path, root: Path | None = None, split: Sequence[str] = ()) -> list[Case]:
    """Cases of a JSON list of objects (fields as the CSV's columns, prompts a list), or of a training manifest."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"The list '{path}' is no readable JSON ({error}); correct it or export it again.") from error
    if _has_splits(content):
        return _read_manifest(path, content, root, split)
    if isinstance(content, dict) and isinstance(content.get("cases"), list):
        content = content["cases"]
    if not isinstance(content, list):
        raise InputError(f"'{path}' is neither a list of cases nor a training manifest; it needs a list of objects with 'image'.")
    records = []
    for number, item in enumerate(content, 1):
        if isinstance(item, str):
            item = {"image": item}
        if not isinstance(item, dict) or not item.get("image"):
            raise InputError(f"Entry {number} of '{path}' has no 'image'; each entry may have {', '.join(COLUMNS)}.")
        prompts = item.get("prompts", [])
        records.append((f"entry {number}", {**item, "prompts": [prompts] if isinstance(prompts, str) else prompts}))
    return _cases(path, root, records)


def is_manifest(path: Path) -> bool:
    """Whether a file is a manifest of the training package, whose lists ``split`` chooses from."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return False
    return _has_splits(content)


def _has_splits(content: Any) -> bool:
    return isinstance(content, dict) and any(isinstance(content.get(name), list) for name in SPLITS)


def _read_manifest(path: Path, content: dict[str, Any], root: Path | None, split: Sequence[str]) -> list[Case]:
    """``labels`` names the values; ``labelled`` says which of them were contoured in a case: these become its prompts."""
    unknown = [name for name in split if name not in SPLITS]
    if unknown:
        raise InputError(f"A manifest has the lists {', '.join(SPLITS)}; '{unknown[0]}' is none of them.")
    try:
        names = {int(value): str(name) for value, name in content.get("labels", {}).items()}
    except (AttributeError, ValueError) as error:
        raise InputError(f"The labels of '{path}' are no table of values and names; write them as value: name.") from error
    records = []
    for wanted in split or SPLITS:
        for number, item in enumerate(content.get(wanted, []), 1):
            if not isinstance(item, dict) or not item.get("image"):
                raise InputError(f"Entry {number} of '{wanted}' in '{path}' has no 'image'; prepare the manifest again.")
            labelled = item.get("labelled", list(names))
            if not isinstance(labelled, list) or not all(isinstance(v, int) for v in labelled):
                raise InputError(f"'labelled' of entry {number} of '{wanted}' in '{path}' is {labelled!r}; write a list of label values, as [1, 2].")
            labelled = [v for v in labelled if v in names]
            record = {
                "image": item["image"],
                "segmentation": item.get("label", ""),
                "prompts": [names[v] for v in labelled],
                "labels": [(v, names[v]) for v in labelled],
                "patient": str(item.get("patient", "")),
                "modality": item.get("modality") or content.get("modality", ""),
            }
            records.append((f"entry {number} of '{wanted}'", record))
    return _cases(path, root, records)


def _cases(path: Path, root: Path | None, records: Iterable[tuple[str, dict[str, Any]]]) -> list[Case]:
    folder = (root or path.parent).resolve()
    cases: list[Case] = []
    seen: dict[str, str] = {}
    for where, values in records:
        if wrong := next((c for c in ("image", "segmentation") if not isinstance(values.get(c) or "", str)), ""):
            raise InputError(f"The {wrong} of {where} in '{path}' is {values[wrong]!r} and no text; correct the list.")
        image = _inside(str(values.get("image", "")), folder, path, where, "image")
        segmentation = str(values.get("segmentation") or "")
        name = str(values.get("case") or "") or image_stem(image.name) or image.name
        if name in seen:
            raise InputError(f"The case '{name}' of {where} in '{path}' is listed already in {seen[name]}; give each case its own name.")
        seen[name] = where
        prompts = values.get("prompts") or []
        if not isinstance(prompts, list) or not all(isinstance(p, str) for p in prompts):
            raise InputError(f"The prompts of {where} in '{path}' are no list of texts; write them as [\"left parotid gland\", ...].")
        cases.append(
            Case(
                name=name,
                key=slug(name),
                image=str(image),
                series=str(values.get("series") or ""),
                prompts=tuple(p.strip() for p in prompts if p.strip()),
                segmentation=str(_inside(segmentation, folder, path, where, "segmentation")) if segmentation else "",
                labels=tuple(values.get("labels", ())),
                patient=str(values.get("patient") or ""),
                modality=modality_of(str(values.get("modality") or ""), path, where),
                private=bool(values.get("series")) or _is_dicom(image),
            )
        )
    return cases


def _is_dicom(image: Path) -> bool:
    """Whether an image of a list is DICOM; one that is not there and has no other image's ending is taken for it, since its name may be a person's."""
    if image.name.lower().endswith(IMAGE_ENDINGS):
        return image.is_dir()
    from ..volume_io import is_dicom_input

    return not image.is_file() or is_dicom_input(image)


def modality_of(text: str, path: Path, where: str) -> str:
    """A value of ``Modality``, or "" where the list leaves it to the file."""
    name = {"": "", "pt": "pet", "mri": "mr", PER_CASE: ""}.get(text.strip().lower(), text.strip().lower())
    if name and name not in {m.value for m in Modality}:
        raise InputError(f"The modality '{text}' of {where} in '{path}' is none of {', '.join(m.value for m in Modality)}; correct it or leave it empty.")
    return name


def _inside(text: str, folder: Path, path: Path, where: str, column: str) -> Path:
    """Absolute path of a list's entry. Whether it exists is asked when its turn comes: one lost image stops no batch."""
    if not text:
        raise InputError(f"The {column} of {where} in '{path}' is empty; fill it in or remove the line.")
    if "\0" in text:
        raise InputError(f"The {column} of {where} in '{path}' contains a NUL character; correct the list.")
    resolved = (folder / text).resolve()
    if not resolved.is_relative_to(folder):
        raise InputError(
            f"The {column} '{text}' of {where} in '{path}' lies outside '{folder}'; put the list beside its images or name their folder with --root."
        )
    return resolved
