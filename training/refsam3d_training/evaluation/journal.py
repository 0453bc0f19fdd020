"""One line of JSON per finished case, so that an evaluation that was stopped goes on where it was."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Journal:
    """Records by key, appended and flushed one by one.

    Args:
        settings: everything that decides a record (weights hash, options): another setting has another file.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        digest = hashlib.sha256(json.dumps(dict(settings), sort_keys=True).encode()).hexdigest()[:12]
        self.path = folder / f"journal-{digest}.jsonl"
        self.records: dict[str, dict[str, Any]] = {}
        if self.path.is_file():
            for line in self.path.read_bytes().splitlines():
                try:
                    record = json.loads(line)
                except ValueError:
                    continue  # the line that a kill cut short
                self.records[record["key"]] = record

    def holds(self, key: str, stamp: str) -> bool:
        """Whether a record is there, and of data that have not changed since."""
        return key in self.records and self.records[key].get("stamp") == stamp

    def add(self, key: str, record: Mapping[str, Any], stamp: str) -> None:
        """Keep a record for good, beside a hash of the data that it was measured on; a later one of the same key counts."""
        row = {"key": key, "stamp": stamp, **record}
        text = json.dumps(row)
        with open(self.path, "ab+") as handle:
            handle.seek(0, os.SEEK_END)
            if handle.tell():
                handle.seek(-1, os.SEEK_END)
                if handle.read(1) != b"\n":
                    text = "\n" + text  # behind a line that was cut short
            handle.write(text.encode() + b"\n")
            handle.flush()
            os.fsync(handle.fileno())
        self.records[key] = row
