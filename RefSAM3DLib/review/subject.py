"""What a decision is about: a mask of the batch, the structure that it stands for, and the image that it was made from.

Case, label and mask alone do not tell it. Labels are the order of the prompts, and all empty masks on one grid have one hash: "the larynx is
absent in this patient" would otherwise stand for another structure, and for another patient's image of the same size.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..batch.case_work import read_result
from ..batch.folder_state import FolderState, case_folder


@dataclass(frozen=True)
class Subject:
    """Empty texts are not known: those of decisions that an earlier version recorded.

    Attributes:
        mask: hash of the batch's mask, "" for a failed case. structure: of that mask. image: hash of the image.
        is_empty: there is no voxel, so that the hash of the mask says nothing about the image.
    """

    mask: str = ""
    structure: str = ""
    image: str = ""
    is_empty: bool = False

    @classmethod
    def of_row(cls, row: dict[str, Any], image: str) -> Subject:
        """That of a row of ``collect_rows``; ``image`` is the hash of the case's image."""
        return cls(str(row.get("mask_sha256") or ""), str(row.get("structure") or ""), image, not row.get("voxels"))

    @classmethod
    def of_entry(cls, entry: dict[str, Any]) -> Subject:
        """That of a decision. Earlier versions named the structure under review, which is the batch's unless the reviewer had asked again."""
        seen = entry.get("machine_mask") or ""
        mask = entry.get("batch_mask", seen) or ""
        structure = entry.get("batch_structure", entry.get("structure") if seen == mask else "")
        return cls(str(mask), str(structure or ""), str(entry.get("input_sha256") or ""), bool(entry.get("batch_empty")))

    def as_fields(self) -> dict[str, Any]:
        """As a decision keeps it; the inverse of :meth:`of_entry`."""
        return {"batch_mask": self.mask, "batch_structure": self.structure, "input_sha256": self.image, "batch_empty": self.is_empty}

    def differs(self, other: Subject) -> bool:
        """Whether a decision about the one says nothing about the other; what is not known of either is no difference."""
        # A mask with voxels tells its image by itself: one that was only packed anew, or has other tags, is the same.
        images = (self.image, other.image) if self.is_empty or other.is_empty else ("", "")
        return any(a and b and a != b for a, b in ((self.mask, other.mask), (self.structure, other.structure), images))


def image_hashes(folder: Path, state: FolderState) -> dict[str, str]:
    """Hash of each case's image, "" if it is not known: from the result, which the masks came with, else from the journal."""
    found = {}
    for key, case in state.cases.items():
        stored = (read_result(case_folder(folder, key), key) if case.status == "done" else None) or case.entry
        found[key] = str(stored.get("input_sha256") or stored.get("voxels_sha256") or "")
    return found
