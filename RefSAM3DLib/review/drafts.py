"""Edits that were begun and not decided: stored while the reviewer works, offered back after a crash."""

from __future__ import annotations

import json
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..atomic import make_folder, write_aside
from ..batch.append_log import utc_now
from ..batch.cases import slug
from ..geometry import Geometry
from .subject import Subject

if TYPE_CHECKING:
    import numpy as np


@dataclass
class Draft:
    """An edit under way. ``seconds`` were spent on it so far; ``machine_mask`` is the hash of the mask it began from, ``batch`` what it is about."""

    case: str
    label: int
    mask: np.ndarray
    seconds: float
    comment: str
    machine_mask: str
    time: str
    batch: Subject = field(default_factory=Subject)


class DraftStore:
    """Drafts of one reviewer, one file per item, each replaced in one step."""

    def __init__(self, folder: Path, reviewer: str) -> None:
        self.folder = Path(folder) / "review" / "drafts" / slug(reviewer)

    def path(self, case: str, label: int) -> Path:
        """File of an item's draft."""
        return self.folder / f"{case}__{label}.npz"

    def store(
        self, case: str, label: int, mask: np.ndarray, geometry: Geometry, machine_mask: str, seconds: float, comment: str, batch: Subject
    ) -> Path:
        """Keep the state of an edit; a mask of 512 x 512 x 300 is packed to 10 MB before compression."""
        import numpy as np

        make_folder(self.folder)
        about = {"case": case, "label": label, "seconds": seconds, "comment": comment, "machine_mask": machine_mask, "time": utc_now(), **batch.as_fields()}
        with write_aside(self.path(case, label), overwrite=True) as aside, open(aside, "wb") as handle:
            np.savez_compressed(
                handle,
                bits=np.packbits(mask),
                shape=np.array(mask.shape),
                ijk_to_ras=geometry.ijk_to_ras,
                about=np.array(json.dumps(about)),
            )
        return self.path(case, label)

    def read(self, path: Path) -> Draft | None:
        """A stored draft, None if the file is damaged or gone."""
        import numpy as np

        try:
            with np.load(path, allow_pickle=False) as content:
                shape = tuple(int(n) for n in content["shape"])
                about: dict[str, Any] = json.loads(str(content["about"]))
                bits = np.unpackbits(content["bits"], count=int(np.prod(shape)))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
            return None
        return Draft(
            str(about["case"]),
            int(about["label"]),
            bits.reshape(shape).astype(bool),
            float(about["seconds"]),
            str(about["comment"]),
            str(about["machine_mask"]),
            str(about["time"]),
            Subject.of_entry({"batch_mask": "", **about}),
        )

    def all(self) -> list[Draft]:
        """Every draft that can be read."""
        found = [self.read(path) for path in sorted(self.folder.glob("*.npz"))] if self.folder.is_dir() else []
        return [draft for draft in found if draft is not None]

    def discard(self, case: str, label: int) -> None:
        """Forget a draft; it need not exist."""
        self.path(case, label).unlink(missing_ok=True)
