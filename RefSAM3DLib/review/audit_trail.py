"""``review.jsonl``: every decision, appended when it is made and never changed; what could not be written is kept aside."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import uuid
from pathlib import Path
from typing import Any

from ..batch.append_log import AppendLog, LogContent, utc_now
from ..batch.cases import slug
from ..errors import OutputError

NAME = "review.jsonl"


class AuditTrail:
    """The audit trail of one folder as one reviewer writes it."""

    def __init__(self, folder: Path, reviewer: str) -> None:
        self.folder = Path(folder)
        self.reviewer = reviewer
        self.log = AppendLog(self.folder / NAME)

    def record(self, entry: dict[str, Any]) -> dict[str, Any]:
        """Append an entry with a new id, the time and the reviewer; return it as stored.

        Entries that an earlier fault kept aside go first, so that the order of the decisions is kept.

        Raises:
            OutputError: the trail cannot be written. The entry is then in a file aside, named in the text, and is
                appended by the next call that succeeds (in this session or a later one).
        """
        stamped = {"id": uuid.uuid4().hex, "time": utc_now(), "reviewer": self.reviewer, **entry}
        try:
            self.flush_aside()
            return self.log.append(stamped)
        except OutputError as error:
            place = self._keep_aside(stamped)
            raise OutputError(f"{error} The decision is kept in '{place}' and will be added to the record as soon as that is possible.") from error

    def flush_aside(self) -> int:
        """Append what was kept aside, marked as such; returns how many entries that were. Entries already in the trail are not repeated."""
        count = 0
        for place in self._aside_places():
            kept = AppendLog(place).read().entries
            if not kept:
                continue
            known = {entry.get("id") for entry in self.log.read().entries}
            for entry in kept:
                if entry.get("id") not in known:
                    self.log.append({**entry, "kept_aside": True})
                    count += 1
            with contextlib.suppress(OSError):
                place.unlink()
        return count

    def read(self) -> LogContent:
        """All entries of all reviewers, and those kept aside by this one at the end."""
        content = self.log.read()
        known = {entry.get("id") for entry in content.entries}
        for place in self._aside_places():
            content.entries += [{**entry, "kept_aside": True} for entry in AppendLog(place).read().entries if entry.get("id") not in known]
        return content

    def _aside_places(self) -> list[Path]:
        name = f"aside-{slug(self.reviewer)}.jsonl"
        home = Path(tempfile.gettempdir()) if os.name == "nt" else Path.home()
        folder_mark = slug(str(self.folder.resolve()))
        return [self.folder / "review" / name, home / ".refsam3d" / "review" / f"{folder_mark}-{name}"]

    def _keep_aside(self, entry: dict[str, Any]) -> Path:
        """Beside the trail, or in the user's own folder where that fails too (the whole folder is read-only, the disk is full)."""
        last: OutputError | None = None
        for place in self._aside_places():
            try:
                place.parent.mkdir(parents=True, exist_ok=True)
                AppendLog(place).append(entry)
                return place
            except OSError as error:
                last = OutputError(str(error))
            except OutputError as error:
                last = error
        raise OutputError(f"The decision could not be recorded anywhere ({last}); keep this text: {json.dumps(entry)}")
