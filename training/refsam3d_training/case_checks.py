"""Everything that can be wrong with a labelled data set, found at once."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from RefSAM3DLib.errors import RefSAM3DError
from RefSAM3DLib.image_files import itk_name

from .cases import SAME_GRID_MM, fractions, grids_apart_mm
from .manifest import Manifest, ManifestCase


@dataclass(frozen=True)
class Fault:
    """One finding. serious: the case must not be trained on; else a person should look."""

    case: str
    kind: str
    text: str
    serious: bool = True


def check(manifest: Manifest) -> list[Fault]:
    """All faults of all cases: files, names, geometry, label values, empty labels, copies, and patients in two splits."""
    faults: list[Fault] = []
    hashes: dict[str, list[str]] = defaultdict(list)
    patients: dict[str, set[str]] = defaultdict(set)
    split_of: dict[str, str] = {}
    for split, cases in manifest.cases.items():
        for case in cases:
            if case.name in split_of:
                faults.append(Fault(case.name, "name", "names two cases; give each entry a 'case' of its own"))
            split_of[case.name] = split
            if case.patient:
                patients[case.patient].add(split)
            faults += _check_case(manifest, case, hashes)
    for names in hashes.values():
        if len(names) > 1:
            text = f"has the same voxels as {', '.join(names[1:])}"
            faults.append(Fault(names[0], "copy", text, serious=len({split_of[n] for n in names}) > 1))
    for patient, splits in sorted(patients.items()):
        if len(splits) > 1:
            faults.append(Fault(patient, "patient", f"is in {' and '.join(sorted(splits))}; keep all images of a patient in one split"))
    return faults


def _check_case(manifest: Manifest, case: ManifestCase, hashes: dict[str, list[str]]) -> Iterable[Fault]:
    import SimpleITK as sitk

    missing = [p for p in (case.image, case.label) if not p.is_file()]
    if missing:
        return [Fault(case.name, "file", f"'{missing[0]}' does not exist")]
    try:
        volume = case.volume()
        label = sitk.ReadImage(itk_name(case.label))
        labels = sitk.GetArrayFromImage(label)
    except (RefSAM3DError, RuntimeError) as error:
        return [Fault(case.name, "file", f"cannot be read: {str(error).splitlines()[0]}")]
    hashes[hashlib.blake2b(np.ascontiguousarray(volume.array).data, digest_size=16).hexdigest()].append(case.name)
    if labels.shape != tuple(volume.array.shape):
        return [Fault(case.name, "geometry", f"label has shape {labels.shape}, image {tuple(volume.array.shape)}")]
    found: list[Fault] = []
    apart = grids_apart_mm(label, volume)
    if apart > SAME_GRID_MM:
        found.append(Fault(case.name, "geometry", f"label and image lie {apart:.2f} mm apart or turned against each other"))
    if odd := fractions(labels):
        return [*found, Fault(case.name, "value", f"label {odd}: it was smoothed or resampled between its values; save whole numbers")]
    values = {int(v) for v in np.unique(labels)} - {0}
    unknown = values - set(manifest.labels)
    if unknown:
        found.append(Fault(case.name, "value", f"label values {sorted(unknown)} have no name in 'labels'"))
    unlisted = values & set(manifest.labels) - set(case.known)
    if unlisted:
        found.append(Fault(case.name, "value", f"holds {sorted(unlisted)}, which 'labelled' does not list: it would count as unknown", serious=False))
    for value, name in case.known.items():
        if value not in values:
            found.append(Fault(case.name, "empty", f"'{name}' is labelled but has no voxel: it counts as known to be absent", serious=False))
    return found


def faults_table(faults: list[Fault]) -> str:
    """Faults as lines of text, the serious ones first."""
    if not faults:
        return "No fault found."
    rows = sorted(faults, key=lambda f: (not f.serious, f.kind, f.case))
    width = max(len(f.case) for f in rows)
    return "\n".join(f"{'ERROR' if f.serious else 'note ':<6} {f.kind:<9} {f.case:<{width}}  {f.text}" for f in rows)
