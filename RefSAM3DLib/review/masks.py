"""Masks of a review as files: the machine's, the edited ones, those of a re-prompt."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..atomic import make_folder
from ..batch.cases import slug
from ..batch.content_hash import hash_mask
from ..errors import InputError
from ..geometry import Geometry
from ..places import box_of
from ..types import PromptResult, Verdict, Volume
from .queue import ReviewItem

if TYPE_CHECKING:
    import numpy as np


class MaskReader:
    """Reads masks of segmentation files and keeps the last file, since the items of a case follow each other."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._stamp: tuple[int, int] = (0, 0)
        self._segments: list[tuple[str, Any, Any]] = []
        self._geometry: Geometry | None = None

    def segments(self, path: Path) -> tuple[list[tuple[str, Any, Any]], Geometry]:
        """Name, mask and tags of every segment, and the grid."""
        from ..segmentation_io import read_segmentation

        try:
            status = path.stat()
        except OSError as error:
            raise InputError(f"The segmentation '{path}' is not there any more; run the batch again to make it.") from error
        stamp = (status.st_mtime_ns, status.st_size)
        if path != self._path or stamp != self._stamp or self._geometry is None:
            segments, self._geometry = read_segmentation(path)
            self._segments, self._path, self._stamp = list(segments), path, stamp
        return self._segments, self._geometry

    def read(self, path: Path, name: str, sha256: str) -> tuple[np.ndarray, Geometry]:
        """The mask with this hash; an empty one if no segment has it and the hash is that of an empty mask.

        Raises:
            InputError: the file holds no such mask: it was changed after the batch or the decision.
        """
        import numpy as np

        segments, geometry = self.segments(path)
        for _, mask, _ in sorted(segments, key=lambda segment: segment[0] != name):
            mask = np.asarray(mask, dtype=bool)
            if not sha256 or hash_mask(mask, geometry) == sha256:
                return mask, geometry
        empty = np.zeros(geometry.shape_dhw, dtype=bool)
        if hash_mask(empty, geometry) == sha256:
            return empty, geometry
        raise InputError(f"'{path}' holds no '{name}' as it was recorded; the file was changed later: run the batch again or review the case anew.")


#: Folder of masks that a person changed, and of those that the engine made from other words.
EDITS, REPROMPTS = "edits", "reprompts"


def store_mask(
    folder: Path, kind: str, item: ReviewItem, reviewer: str, mask: np.ndarray, geometry: Geometry, prompt: str = "", structure: str = "",
    model: Mapping[str, str] | None = None,
) -> tuple[str, str]:  # fmt: skip
    """Write one mask as ``review/<kind>/...seg.nrrd`` and return its path relative to ``folder`` and its hash.

    The name holds the hash: another mask never replaces this one, and the same mask is stored once. The segment names the reviewer,
    and an edited one is marked as half automatic.

    Args:
        kind: ``EDITS`` or ``REPROMPTS``. prompt, structure: the words that made it and what they mean; default the item's.
        model: the weights that made it, as :func:`~RefSAM3DLib.provenance.model_values`; default the item's.
    """
    from ..segmentation_io import write_segmentation

    sha256 = hash_mask(mask, geometry)
    relative = f"review/{kind}/{item.case}__{item.label}__{slug(reviewer)}__{sha256[:12]}.seg.nrrd"
    path = folder / relative
    if not path.exists():
        import numpy as np

        make_folder(path.parent)
        result = PromptResult(
            prompt=prompt or item.prompt,
            resolved=structure or item.structure,
            verdict=Verdict.PRESENT if mask.any() else Verdict.ABSENT,
            presence=float("nan"),  # the engine's numbers were about another mask
            confidence=float("nan"),
            mask=mask,
            volume_ml=float(mask.sum()) * geometry.voxel_volume_ml,
            box=box_of(mask),
            elapsed_s=0.0,
            colour=item.colour,
            details={"assisted": kind == EDITS or item.assisted, "reviewer": reviewer},
        )
        volume = Volume(np.zeros(geometry.shape_dhw, dtype=np.uint8), geometry, source=item.case)
        write_segmentation(path, [result], volume, item.model if model is None else model, overwrite=True)
    return relative, sha256
