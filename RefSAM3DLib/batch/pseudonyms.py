"""Names for DICOM cases that identify nobody: in file names, tables and pages of a batch.

A pseudonym is a keyed hash (HMAC-SHA256) of the patient's ID; the key is random, made once per output folder, and lies
with the real identifiers in ``identifiers.json``, which only its owner may read (mode 600) and which is not to be passed
on with the results. Without that file a pseudonym cannot be turned back, not even by trying all patient numbers.
A case keeps the pseudonym that the file has for its name, file name and series, so that the data may move and the patient may be named later.
The DICOM SEG itself keeps the identifiers of its source: without them no viewer could put it beside its images.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..atomic import write_aside
from ..errors import InputError, RefSAM3DError
from ..image_files import itk_name
from .cases import Case, identity
from .inputs import case_files

FILE_NAME = "identifiers.json"
_TAGS = {"patient_id": "0010|0020", "patient_name": "0010|0010", "study_date": "0008|0020", "study_uid": "0020|000d"}
#: A UID of DICOM; a version or a number with decimals has fewer parts.
_UID = re.compile(r"\b[0-2](?:\.\d+){4,}\b")


class Identifiers:
    """Key and real identifiers of an output folder. For an account that may not read them, there are none: results and decisions need no names."""

    def __init__(self, folder: Path) -> None:
        self.path = Path(folder) / FILE_NAME
        self.of_other_account = False
        content: dict[str, Any] = {}
        if self.path.exists():
            try:
                content = json.loads(self.path.read_text(encoding="utf-8"))
                bytes.fromhex(content["key"])
                if not isinstance(content.get("cases", {}), dict):
                    raise TypeError("cases are no table")
            except PermissionError:
                self.of_other_account, content = True, {}
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise InputError(
                    f"'{self.path}' is damaged ({error}); without it the pseudonyms of this folder cannot be continued: use a new folder."
                ) from error
        self._key = content.get("key") or secrets.token_hex(32)
        #: pseudonymous key of a case -> what is known about whom it shows and where its image lies
        self.cases: dict[str, dict[str, str]] = content.get("cases", {})

    def check_complete(self, keys: Iterable[str]) -> None:
        """Refuse to continue a folder whose pseudonyms would all become others, so that each case would be done and listed again.

        Raises:
            InputError: the file does not hold all pseudonyms of the folder's journal, or this account may not read it.
        """
        if self.of_other_account:
            raise InputError(
                f"'{self.path}' belongs to another account, which alone may read it, and without it the pseudonyms of this folder cannot be continued:"
                " run the batch from that account, or use a new folder. Reviewing needs no such right."
            )
        if lost := [key for key in keys if key not in self.cases]:
            raise InputError(
                f"'{self.path}' was removed or replaced: it does not hold {len(lost)} pseudonym(s) of this folder, such as '{lost[0]}';"
                " put it back, or use a new folder."
            )

    def pseudonym(self, kind: str, identifier: str) -> str:
        """Eight letters and digits that stand for ``identifier`` in this folder; ``kind`` is their first letter."""
        digest = hmac.new(bytes.fromhex(self._key), f"{kind}\0{identifier}".encode(), hashlib.sha256).hexdigest()
        return f"{kind}{digest[:8].upper()}"

    def apply(self, cases: Sequence[Case], every: bool = False) -> list[Case]:
        """Cases with pseudonymous name, key and patient: those marked private, or all of them.

        A given patient's series get one first half, so that a reader sees what belongs together: ``P1A2B3C4D-S5E6F7A8B``.
        """
        renamed: list[Case] = []
        before = {identity(str(known.get("name", "")), known.get("image", ""), known.get("series", "")): key for key, known in self.cases.items()}
        taken: dict[tuple[str, str], str] = {}
        names: dict[str, str] = {}
        for case in cases:
            if not (case.private or every):
                renamed.append(case)
                continue
            if (image := (case.image, case.series)) in taken:
                raise InputError(
                    f"'{taken[image]}' and '{case.name}' of the list are the same image, and would have one pseudonym; write their prompts into one row."
                )
            taken[image] = case.name
            known = read_dicom_identifiers(case) if case.private else {}
            person = case.patient or known.get("patient_id") or known.get("study_uid")
            patient = self.pseudonym("P", person or case.image)
            key = before.get(identity(case.name, case.image, case.series), "")
            if key and not person:
                patient = key.partition("-")[0]
            key = key or f"{patient}-{self.pseudonym('S', case.series or case.image)}"
            if key in names:
                raise InputError(
                    f"'{names[key]}' and '{case.name}' of the list are the same DICOM series in two places, and would have one pseudonym; list it once,"
                    " with all its prompts."
                )
            names[key] = case.name
            self.cases[key] = {**known, "image": case.image, "series": case.series, "name": case.name}
            renamed.append(replace(case, name=key, key=key, patient=patient, private=True))
        return renamed

    def save(self) -> None:
        """Write the file if there is anything to keep; readable by its owner alone from the first byte on."""
        if not self.cases:
            return
        with write_aside(self.path, overwrite=True) as aside:
            descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as handle:
                json.dump({"format": 1, "key": self._key, "cases": self.cases}, handle, indent=1)


def read_dicom_identifiers(case: Case) -> dict[str, str]:
    """Patient's ID, name and study from the first file of a DICOM case; empty where it cannot be read."""
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    try:
        reader.SetFileName(itk_name(case_files(case)[0]))
        reader.ReadImageInformation()
    except (RuntimeError, RefSAM3DError):
        return {}
    return {name: reader.GetMetaData(tag).strip() for name, tag in _TAGS.items() if reader.HasMetaDataKey(tag)}


def hide_identity(text: str, case: Case) -> str:
    """A sentence in which the key stands for what may name the person of a private case: paths, their folders and files, UIDs of DICOM."""
    if not case.private:
        return text
    paths = [Path(path) for path in (case.image, case.segmentation) if path]
    places = {str(place) for path in paths for place in (path, path.parent) if place.name}
    places |= {place.replace("\\", written) for place in places for written in ("\\\\", "/")}  # as the text of an error and other programs write them
    for place in sorted(places, key=len, reverse=True):
        text = re.sub(rf"(?<=['\"]){re.escape(place)}(?:[/\\][^'\"\n]*)?(?=['\"])", case.key, text)  # in quotes a name may have blanks
        text = re.sub(rf"{re.escape(place)}(?:[/\\][^\s'\"]*)?", case.key, text)
    for name in sorted(filter(None, {case.series, *(path.name for path in paths)}), key=len, reverse=True):
        # a folder may be called "DICOM" or "1", which as a word alone says nothing
        pattern = rf"(?<![\w.-]){re.escape(name)}(?![\w-])" if "." in name else rf"(?<=['\"]){re.escape(name)}(?=['\"])"
        text = re.sub(pattern, case.key, text)
    return _UID.sub(case.key, text)
