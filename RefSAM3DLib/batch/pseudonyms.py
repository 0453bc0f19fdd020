"""Names for DICOM cases that identify nobody: in file names, tables and pages of a batch.

A pseudonym is a keyed hash (HMAC-SHA256) of the patient's ID; the key is random, made once per output folder, and lies
with the real identifiers in ``identifiers.json``, which only its owner may read (mode 600) and which is not to be passed
on with the results. Without that file a pseudonym cannot be turned back, not even by trying all patient numbers.
The DICOM SEG itself keeps the identifiers of its source: without them no viewer could put it beside its images.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..atomic import write_aside
from ..errors import InputError, RefSAM3DError
from .cases import Case

FILE_NAME = "identifiers.json"
_TAGS = {"patient_id": "0010|0020", "patient_name": "0010|0010", "study_date": "0008|0020", "study_uid": "0020|000d"}


class Identifiers:
    """Key and real identifiers of an output folder."""

    def __init__(self, folder: Path) -> None:
        self.path = Path(folder) / FILE_NAME
        content: dict[str, Any] = {}
        if self.path.exists():
            try:
                content = json.loads(self.path.read_text(encoding="utf-8"))
                bytes.fromhex(content["key"])
                if not isinstance(content.get("cases", {}), dict):
                    raise TypeError("cases are no table")
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise InputError(
                    f"'{self.path}' is damaged ({error}); without it the pseudonyms of this folder cannot be continued: use a new folder."
                ) from error
        self._key = content.get("key") or secrets.token_hex(32)
        #: pseudonymous key of a case -> what is known about whom it shows and where its image lies
        self.cases: dict[str, dict[str, str]] = content.get("cases", {})

    def pseudonym(self, kind: str, identifier: str) -> str:
        """Eight letters and digits that stand for ``identifier`` in this folder; ``kind`` is their first letter."""
        digest = hmac.new(bytes.fromhex(self._key), f"{kind}\0{identifier}".encode(), hashlib.sha256).hexdigest()
        return f"{kind}{digest[:8].upper()}"

    def apply(self, cases: Sequence[Case], every: bool = False) -> list[Case]:
        """Cases with pseudonymous name, key and patient: those marked private, or all of them.

        A given patient's series get one first half, so that a reader sees what belongs together: ``P1A2B3C4D-S5E6F7A8B``.
        """
        renamed: list[Case] = []
        taken: dict[str, str] = {}
        for case in cases:
            if not (case.private or every):
                renamed.append(case)
                continue
            known = read_dicom_identifiers(case) if case.private else {}
            patient = self.pseudonym("P", case.patient or known.get("patient_id") or known.get("study_uid") or case.image)
            key = f"{patient}-{self.pseudonym('S', case.series or case.image)}"
            if key in taken:
                raise InputError(
                    f"'{taken[key]}' and '{case.name}' of the list are the same image, and would have one pseudonym; write their prompts into one row."
                )
            taken[key] = case.name
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

    from .case_work import case_files

    reader = sitk.ImageFileReader()
    try:
        reader.SetFileName(str(case_files(case)[0]))
        reader.ReadImageInformation()
    except (RuntimeError, RefSAM3DError):
        return {}
    return {name: reader.GetMetaData(tag).strip() for name, tag in _TAGS.items() if reader.HasMetaDataKey(tag)}
