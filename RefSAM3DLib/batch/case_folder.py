"""Cases from a folder: image files of any kind and DICOM series, searched recursively in a fixed order."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import RefSAM3DError
from .cases import Case, image_stem, slug

#: Names that mark a folder as the output of a batch; what lies in it is no input.
OUTPUT_MARK = "batch.json"
_DICOM_ENDINGS = ("", ".dcm", ".ima", ".dicom")
#: Most files of a folder that are opened to see whether one is DICOM, spread over all of them.
_LOOKED_AT = 2000


def read_folder(folder: Path) -> tuple[list[Case], list[str]]:
    """Cases below ``folder`` and notes about what was passed over."""
    from ..dicom_series import is_dicom_file

    cases: list[Case] = []
    notes: list[str] = []
    root = folder.resolve()

    def unreadable(error: OSError) -> None:
        notes.append(f"'{error.filename}' could not be searched ({error.strerror}); give yourself the right to read it, or its images are left out.")

    for place, folders, files in os.walk(root, onerror=unreadable):
        if OUTPUT_MARK in files:
            folders.clear()
            notes.append(f"'{place}' is the output of a batch and was not searched.")
            continue
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        here = Path(place)
        for name in folders:
            if _is_link(here / name):  # followed, it might lead round in a circle
                notes.append(f"'{here / name}' is a link to another folder and was not searched; put the folder itself here, or batch it by itself.")
        for name in sorted(files):
            if stem := image_stem(name):
                relative = (here / stem).relative_to(root)
                cases.append(Case(name=relative.as_posix(), key=slug(stem), image=str(here / name)))
        candidates = [name for name in sorted(files) if _may_be_dicom(name)]
        if any(is_dicom_file(here / name) for name in candidates[:: -(-len(candidates) // _LOOKED_AT) or 1]):
            found, complaint = _dicom_cases(here)
            cases += found
            notes += complaint
    return _whole_series(cases, notes)


def _is_link(folder: Path) -> bool:
    """Also a junction of Windows, which Python follows no longer since 3.12 (earlier versions do not know the word, and walk into it)."""
    return folder.is_symlink() or getattr(os.path, "isjunction", os.path.islink)(folder)


def _whole_series(cases: list[Case], notes: list[str]) -> tuple[list[Case], list[str]]:
    """Without the series whose files lie in several folders: each folder would be taken for the whole."""
    folders: dict[str, list[str]] = {}
    for case in cases:
        if case.series:
            folders.setdefault(case.series, []).append(case.image)
    parted = {series: places for series, places in folders.items() if len(places) > 1}
    for places in parted.values():
        where = ", ".join(f"'{place}'" for place in places)
        notes.append(f"A DICOM series has files in {len(places)} folders ({where}) and was passed over; put its files into one folder.")
    return [case for case in cases if case.series not in parted], notes


def _may_be_dicom(name: str) -> bool:
    """By its name: many archives name files by their UID, so that what follows the last dot is a number. The index of a disc has no pixels, nor
    have hidden files: macOS puts a "._IM0001" beside each IM0001 on foreign discs."""
    ending = os.path.splitext(name)[1].lower()
    return not name.startswith(".") and name.upper() != "DICOMDIR" and (ending in _DICOM_ENDINGS or ending[1:].isdigit())


def _dicom_cases(folder: Path) -> tuple[list[Case], list[str]]:
    """One case per series that has files here. Name and key are pseudonyms, given later by :mod:`.pseudonyms`; until then the UID stands there."""
    from ..dicom_series import list_series

    try:
        series = list_series(folder)
    except RefSAM3DError as error:
        return [], [f"A DICOM folder was passed over: {error}"]
    found = []
    for entry in series:
        if not any(Path(name).parent == folder for name in entry.files):
            continue  # of a folder within, whose turn comes
        found.append(Case(name=entry.uid, key=slug(entry.uid), image=str(folder), series=entry.uid, private=True))
    return found, []
