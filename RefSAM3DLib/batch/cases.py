"""What a batch works on: a case is one image with its prompts. Finding the cases reads names, lists and DICOM headers only."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..provenance import file_name

#: Endings that ``load_volume`` reads, longest first so that ``.nii.gz`` wins over ``.gz``.
IMAGE_ENDINGS = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd")
#: Endings of results, which are never taken for images.
SEGMENTATION_ENDINGS = (".seg.nrrd", ".seg.nhdr", ".seg.nii.gz", ".seg.nii")
#: Leaves room for endings within the 255 bytes of a file name and the 260 characters of a Windows path.
MAX_KEY_LENGTH = 64
_WINDOWS_DEVICES = {"con", "prn", "aux", "nul", *(f"com{n}" for n in range(10)), *(f"lpt{n}" for n in range(10))}


@dataclass(frozen=True)
class Case:
    """One image to segment.

    Attributes:
        name: for people, any text. key: for files, unique in the batch, letters, digits, ``-`` and ``_`` only.
        image: file, or folder of a DICOM series. series: its UID, "" if it is no DICOM.
        prompts: what to ask; empty means the prompts of the command.
        segmentation: a segmentation to compare with, or "".
        labels: where that segmentation is a label map, its values and names.
        patient: groups the cases of one person (a pseudonym), or "".
        modality: "ct", "mr", "pet", or "" to decide by the file.
        private: True if the image's own name or path may identify a person (DICOM).
    """

    name: str
    key: str
    image: str
    series: str = ""
    prompts: tuple[str, ...] = ()
    segmentation: str = ""
    labels: tuple[tuple[int, str], ...] = ()
    patient: str = ""
    modality: str = ""
    private: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for another process."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Case:
        """Inverse of :meth:`as_dict`."""
        labels = tuple((int(value), str(name)) for value, name in values.get("labels", ()))
        return cls(**{**values, "prompts": tuple(values.get("prompts", ())), "labels": labels})


def slug(text: str) -> str:
    """A file name made of ``text`` that is the same on every system; a short hash is added where something was lost.

    >>> slug("Müller 1/2")
    'Muller_1_2-c4e9ad'
    >>> slug("kbp_001")
    'kbp_001'
    """
    text = unicodedata.normalize("NFC", text)  # macOS and some archives store letters and their accents apart
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    plain = re.sub(r"[^A-Za-z0-9_-]+", "_", plain).strip("_-")[:MAX_KEY_LENGTH]
    if plain == text and plain.lower() not in _WINDOWS_DEVICES:
        return plain
    return f"{plain or 'case'}-{hashlib.sha256(text.encode('utf-8', 'replace')).hexdigest()[:6]}"


def identity(name: str, image: str, series: str) -> tuple[str, str, str]:
    """What makes a case the same wherever its data lie: its name (the path below the searched folder, or the list's), file name and series."""
    return unicodedata.normalize("NFC", name), unicodedata.normalize("NFC", file_name(image)), series


def with_unique_keys(cases: Sequence[Case]) -> list[Case]:
    """Cases whose keys differ even where a file system ignores case: all that share a key get a hash of their :func:`identity`.

    The hash depends neither on the other cases nor on where the data lie, so that a case keeps its key when others are added or the data move.
    """
    count = Counter(case.key.lower() for case in cases)
    taken: set[str] = set()
    unique = []
    for case in cases:
        key = case.key if count[case.key.lower()] == 1 else _hashed_key(case)
        if key.lower() in taken:
            raise InputError(f"The image '{case.image}' is listed twice; list each case once.")
        taken.add(key.lower())
        unique.append(replace(case, key=key))
    return unique


def with_known_keys(cases: Sequence[Case], known: Mapping[str, Mapping[str, Any]]) -> list[Case]:
    """Cases under the keys that an output folder has for them; pseudonymous ones stay as they are, their keys are kept by :mod:`.pseudonyms`.

    A case that the folder knows by its :func:`identity` goes on under the key that it has there: that of a folder of an earlier version, which
    hashed absolute paths, and that of a case whose name became ambiguous since. A key of another case is never taken over, or decisions about one
    patient would stand on another one's result. Another image under the same name keeps the key, and so does the same image under another name.

    Args:
        known: the journal's last entry of each key.
    """
    keys = {identity(str(e.get("name", "")), e["image"], str(e.get("series") or "")): key for key, e in known.items() if e.get("image")}
    holders = {key.lower(): entry for key, entry in known.items()}

    def is_free(key: str, case: Case) -> bool:
        holder = holders.get(key.lower())
        same_image = holder is not None and (holder.get("image"), holder.get("series") or "") == (case.image, case.series)
        return holder is None or same_image or unicodedata.normalize("NFC", str(holder.get("name"))) == unicodedata.normalize("NFC", case.name)

    own = {n: keys[known_as] for n, case in enumerate(cases) if not case.private and (known_as := identity(case.name, case.image, case.series)) in keys}
    claimed = {key.lower() for key in own.values()}
    found = []
    for number, case in enumerate(cases):
        key = own.get(number, case.key)
        if not case.private and number not in own and (key.lower() in claimed or not is_free(key, case)):
            key = _hashed_key(case)
        found.append(replace(case, key=key))
    return found


def _hashed_key(case: Case) -> str:
    return f"{case.key}-{hashlib.sha256('|'.join(identity(case.name, case.image, case.series)).encode('utf-8', 'replace')).hexdigest()[:8]}"


def image_stem(name: str) -> str:
    """File name without its image ending, or "" if it is no image that can be read.

    >>> image_stem("a.b.nii.gz"), image_stem("a.seg.nrrd"), image_stem("notes.txt")
    ('a.b', '', '')
    """
    lower = name.lower()
    if lower.startswith(".") or lower.endswith(SEGMENTATION_ENDINGS):
        return ""
    for ending in IMAGE_ENDINGS:
        if lower.endswith(ending):
            return name[: -len(ending)]
    return ""


def is_list(source: Path | str) -> bool:
    """Whether the names of the cases are a list's, which somebody gave, and not those of files in a folder."""
    source = Path(source)
    return source.suffix.lower() in (".csv", ".json") or (source / "datalist.json").is_file()


def find_cases(source: Path | str, root: Path | None = None, split: Sequence[str] = ()) -> tuple[list[Case], list[str]]:
    """Cases of a folder, a CSV or JSON list, a training manifest, or a single image, and notes for the user.

    Args:
        source: a folder is searched recursively; one that holds ``datalist.json`` is read as that manifest.
        root: paths of a list are relative to this folder and must stay in it; default: the list's folder.
        split: of a manifest, the lists to take (training, validation, test); default all.

    Raises:
        InputError: nothing usable, or a list with a fault; the text names file, line and next step.
    """
    from . import case_folder, case_lists

    source = Path(source)
    if not source.exists():
        raise InputError(f"The input '{source}' does not exist; give a folder, an image, a .csv or .json list, or a datalist.json.")
    notes: list[str] = []
    if source.is_dir() and (source / "datalist.json").is_file():
        notes.append(f"'{source}' holds a datalist.json: its cases are used, not the files of the folder.")
        source = source / "datalist.json"
    if any(split) and not (source.suffix.lower() == ".json" and case_lists.is_manifest(source)):
        notes.append(f"'{source}' is no training manifest, which alone has lists: --split {' '.join(split)} is ignored, and all its cases are taken.")
    if source.is_dir():
        cases, more = case_folder.read_folder(source)
    elif source.suffix.lower() == ".csv":
        cases, more = case_lists.read_csv(source, root), []
    elif source.suffix.lower() == ".json":
        cases, more = case_lists.read_json(source, root, split), []
    elif stem := image_stem(source.name):
        cases, more = [Case(name=stem, key=slug(stem), image=str(source.resolve()))], []
    else:
        raise InputError(f"The input '{source}' is no folder, image ({', '.join(IMAGE_ENDINGS)}), .csv or .json list; choose one of these.")
    if not cases:
        raise InputError(f"No image was found in '{source}'; it is searched for {', '.join(IMAGE_ENDINGS)} and DICOM series. {' '.join(more)}".strip())
    return with_unique_keys(cases), notes + more
