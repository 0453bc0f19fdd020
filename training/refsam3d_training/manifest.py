"""The manifest of a data set, ``datalist.json``: what the cases are, what was contoured in each, and under which licence."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from RefSAM3DLib.batch.case_lists import modality_of
from RefSAM3DLib.errors import InputError
from RefSAM3DLib.types import Volume
from RefSAM3DLib.volume_io import load_volume

SPLITS = ("training", "validation", "test")


#: Sets whose file names part the images of one patient. The Decathlon numbers the two hippocampi of a scan 2k-1 and 2k: of the volumes that are
#: not bytes, the step between intensities is the same in 42 of 50 such pairs, in no other neighbours and in none of 13,771 further pairs.
TWO_SIDES_OF_A_SCAN = ("msd_hippocampus", "Task04_Hippocampus", "Hippocampus")
#: What sets call the value 0.
BACKGROUND = ("background", "unlabelled", "unlabeled", "none", "")
#: Name of a manifest in its folder.
FILE_NAME = "datalist.json"


@dataclass(frozen=True)
class ManifestCase:
    """One labelled volume on disk.

    known: label value to structure, of what was contoured here; anything else is unknown, not background.
    composites: further structure to the values that it unites, where all of them are known. modality: "" if the file must tell.
    """

    name: str
    image: Path
    label: Path
    modality: str
    known: dict[int, str]
    composites: dict[str, tuple[int, ...]] = field(default_factory=dict)
    patient: str = ""

    @property
    def unions(self) -> dict[str, tuple[str, ...]]:
        """Composites by the names of what they unite."""
        return {name: tuple(self.known[v] for v in values) for name, values in self.composites.items()}

    def volume(self) -> Volume:
        """The image."""
        return load_volume(self.image, modality=self.modality or None)

    def truth(self, volume: Volume) -> dict[str, np.ndarray]:
        """Masks of all known structures and composites on the image's grid.

        Raises:
            InputError: image and label have different grids.
        """
        from .cases import load_label

        labels = load_label(self.label, volume)
        masks = {name: labels == value for value, name in self.known.items()}
        for name, values in self.composites.items():
            masks[name] = np.isin(labels, values)
        return masks


@dataclass(frozen=True)
class Manifest:
    """A data set. labels: value to structure. values: the file's other keys (licence, citation, notes)."""

    folder: Path
    name: str
    labels: dict[int, str]
    cases: dict[str, list[ManifestCase]]
    values: dict[str, Any]

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """From ``datalist.json``.

        Raises:
            InputError: it is missing, no JSON, or lacks a key.
        """
        path = folder / FILE_NAME
        if not path.is_file():
            raise InputError(f"'{path}' does not exist; run `prepare` first, or point to a folder that holds a datalist.json.")
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            labels = named_values(values["labels"], str(path))
            cases = {split: [_case(folder, values, labels, entry) for entry in values.get(split, [])] for split in SPLITS}
        except (json.JSONDecodeError, KeyError, ValueError, TypeError, AttributeError) as error:
            raise InputError(f"'{path}' is no manifest ({type(error).__name__}: {error}); see training/README.md for the format.") from error
        check_names_apart(labels, str(path))
        rest = {k: v for k, v in values.items() if k not in ("labels", *SPLITS)}
        return cls(folder, values.get("name", folder.name), labels, cases, rest)


def named_values(labels: dict[str, str], where: str) -> dict[int, str]:
    """Value to name, without the background: it is what nothing was drawn on, and no structure to be asked for.

    Raises:
        InputError: the value 0 has the name of a structure.
    """
    found = {int(value): name for value, name in labels.items()}
    zero = found.pop(0, "background")
    if zero.lower() not in BACKGROUND:
        raise InputError(f"The label 0 of '{where}' is called '{zero}', but 0 is the background of a label map; give '{zero}' another value, in the files too.")
    return found


def check_names_apart(labels: dict[int, str], where: str) -> None:
    """Refuse one name for two values: of the two, one would silently count as background.

    Raises:
        InputError: with both values and what to do instead.
    """
    for value, name in labels.items():
        if other := next((v for v, n in labels.items() if n == name and v != value), None):
            raise InputError(
                f"The labels {value} and {other} of '{where}' are both called '{name}'; name them apart, and write their union as a composite: "
                f'"composites": {{"{name}": [{value}, {other}]}}.'
            )


def _case(folder: Path, values: dict[str, Any], labels: dict[int, str], entry: dict[str, Any]) -> ManifestCase:
    known = {int(v): labels[int(v)] for v in entry.get("labelled", list(labels)) if int(v) != 0}
    composites = {n: tuple(v) for n, v in values.get("composites", {}).items() if set(v) <= set(known)}
    stem = entry.get("case") or Path(entry["image"]).name.split(".")[0]  # TotalSegmentator calls every image ct.nii.gz
    name = values.get("name", folder.name)
    return ManifestCase(
        name=f"{name}/{stem}", image=folder / entry["image"], label=folder / entry["label"],
        modality=modality_of(entry.get("modality") or values.get("modality", ""), folder / FILE_NAME, f"the case '{stem}'"), known=known, composites=composites,
        patient=entry.get("patient") or patient_of(name, stem),
    )  # fmt: skip


def patient_of(name: str, stem: str) -> str:
    """The patient of a case of a known set whose entries do not name one, else ""."""
    number = stem.rpartition("_")[2]
    return f"scan {(int(number) + 1) // 2}" if name in TWO_SIDES_OF_A_SCAN and number.isdigit() else ""


def data_statement(folders: list[Path]) -> list[dict[str, Any]]:
    """Name, licence, citation and number of cases of each set, from its manifest."""
    statement = []
    for folder in folders:
        manifest = Manifest.read(folder)
        counts = {split: len(cases) for split, cases in manifest.cases.items()}
        statement.append({"name": manifest.name, "licence": manifest.values.get("licence", ""), "citation": manifest.values.get("citation", ""), **counts})
    return statement
