"""What an output folder says about its cases: the journal folded into one state per case."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .append_log import AppendLog, LogContent

JOURNAL = "journal.jsonl"
CASES = "cases"


@dataclass
class CaseState:
    """Last word of the journal about one case.

    Attributes:
        status: "done" or "failed"; a case that a kill interrupted has no entry and is simply done again.
        entry: the journal's entry that said so.
    """

    status: str = ""
    entry: dict[str, Any] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """Identifies the work that was done or that failed."""
        return str(self.entry.get("fingerprint", ""))


@dataclass
class FolderState:
    """All cases of a folder in the order in which they were first seen, and complaints about the journal."""

    cases: dict[str, CaseState] = field(default_factory=dict)
    log: LogContent = field(default_factory=LogContent)
    complaint: str = ""

    @property
    def private_keys(self) -> list[str]:
        """Cases whose place the journal keeps to itself: pseudonymous ones."""
        return [key for key, case in self.cases.items() if "image" not in case.entry]

    @classmethod
    def read(cls, folder: Path) -> FolderState:
        """Fold the journal of ``folder``. An entry about a case replaces what was said before, unless it says nothing about a result that is there."""
        log = AppendLog(Path(folder) / JOURNAL)
        content = log.read()
        state = cls(log=content, complaint=content.complaint(log.path))
        for entry in content.entries:
            key, event = str(entry.get("case", "")), entry.get("event")
            if not key:
                continue
            if event == "done" or (event == "failed" and not _leaves_result(folder, key, state.cases.get(key), entry)):
                state.cases[key] = CaseState(str(event), entry)
        return state


def _leaves_result(folder: Path, key: str, before: CaseState | None, failure: dict[str, Any]) -> bool:
    """Whether a failure leaves the earlier result of its case valid: the image could not even be read (it is off line, or was archived)."""
    was_read = failure.get("fingerprint") or failure.get("input_sha256")
    return before is not None and before.status == "done" and not was_read and (case_folder(folder, key) / f"{key}.json").is_file()


def case_folder(folder: Path, key: str) -> Path:
    """Where the files of one case lie."""
    return Path(folder) / CASES / key
