"""Runs a batch: finds the cases, holds the folder's lock, hands cases out, keeps the journal, writes the tables."""

from __future__ import annotations

import logging
import multiprocessing
import shutil
import sys
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import Cancelled, ConfigError, InputError, OutputError
from ..types import Cancel, Verdict
from . import run_manifest
from .append_log import AppendLog, utc_now
from .cases import Case, find_cases, is_list, with_known_keys
from .folder_lock import FolderLock
from .folder_state import JOURNAL, FolderState
from .live_table import LiveTable
from .options import BatchOptions
from .pseudonyms import Identifiers
from .refusals import check_prompts, check_reviewed, check_same_images, pseudonyms_for_all
from .summary import collect_rows, write_summary
from .worker_pool import InlinePool, Pool, ProcessPool, Task

log = logging.getLogger(__name__)

#: With less the next case could not be written; the batch stops while its journal still can.
MIN_FREE_BYTES = 32 << 20


@dataclass
class BatchOutcome:
    """What became of a batch.

    Attributes:
        counts: number of cases per status (done, recovered, unchanged, failed, failed_before).
        failures: key and sentence of each case that failed now or before.
        notes: sentences for the user.
    """

    folder: Path
    counts: dict[str, int] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)

    @property
    def unknown_answers(self) -> int:
        """Number of answers to wordings that the model does not know, in all results of the folder."""
        return sum(row["verdict"] == Verdict.UNKNOWN.value for row in self.rows)

    @property
    def exit_code(self) -> int:
        """Non-zero if any case failed."""
        return 1 if self.failures else 0


def run_batch(
    source: Path | str,
    output: Path | str,
    options: BatchOptions,
    *,
    root: Path | str | None = None,
    split: Sequence[str] | str = (),
    command: Sequence[str] = (),
    table: LiveTable | None = None,
    cancel: Cancel | None = None,
) -> BatchOutcome:
    """Segment all cases of ``source`` into the folder ``output``; continue where an earlier run stopped.

    Args:
        source: folder, image, CSV or JSON list, or training manifest; see :func:`~.cases.find_cases`.
        command: the command line, for the manifest.
        table: where progress is shown; its total is set here.
        cancel: asked about twice a second; True stops the run, finished cases stay.

    Raises:
        RefSAM3DError: the batch as a whole cannot run or go on. Cancelled: the user stopped it.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        # a worker that imports the script of its parent, which calls this again (multiprocessing asks for the same attribute)
        raise ConfigError("A script that runs a batch with workers must call it under \"if __name__ == '__main__':\", or use workers=0.")
    if any(not prompt.strip() for prompt in options.prompts):
        raise ConfigError("A prompt is empty; type what to segment.")
    output = Path(output).resolve()
    found, notes = find_cases(source, None if root is None else Path(root), (split,) if isinstance(split, str) else split)
    if not options.prompts and not any(case.prompts for case in found):
        raise InputError(f"Nothing is asked of the {len(found)} case(s) of '{source}'; give prompts with -p or in the list.")
    notes += check_prompts(found, options)
    run_manifest.prepare_folder(output)
    with FolderLock(output, options.break_lock) as lock:
        if lock.taken_over:
            notes.append(f"An earlier batch in this folder was killed (process {lock.taken_over.get('pid')}); its finished cases are kept.")
        state = FolderState.read(output)
        if state.complaint:
            notes.append(state.complaint)
        identifiers = Identifiers(output)
        identifiers.check_complete(state.private_keys)
        manifest = run_manifest.read_manifest(output)
        every = pseudonyms_for_all(options, manifest, state)
        if every and not options.pseudonyms:
            notes.append("This folder was begun with --pseudonyms: all its cases get them, the new ones too.")
        known = {key: case.entry for key, case in state.cases.items()}
        before = {key: {**known.get(key, {}), **identifiers.cases.get(key, {})} for key in {*known, *identifiers.cases}}
        cases = with_known_keys(identifiers.apply(found, every=every), known)
        if not is_list(source):
            check_same_images(cases, before)
        identifiers.save()
        pool = _make_pool(options, output)
        try:
            engine = pool.info()
            if different := run_manifest.check_same_engine(output, manifest, engine, options.force):
                notes.append(f"Forced: {'; '.join(different)}. Older results are set aside in 'superseded'.")
            check_reviewed(output, cases, state, options, engine)
            run = _Run(output, options, cases, state, table or LiveTable(sys.stderr, 0, quiet=True), manifest, engine, notes)
            return run.go(pool, list(command), cancel)
        finally:
            pool.close()


def _make_pool(options: BatchOptions, output: Path) -> Pool:
    if options.ray_address:
        from .ray_pool import RayPool

        return RayPool(options, output)
    return ProcessPool(options, output) if options.workers > 0 else InlinePool(options, output)


class _Run:
    """One run over the cases, with the folder locked."""

    def __init__(
        self, output: Path, options: BatchOptions, cases: list[Case], state: FolderState, table: LiveTable,
        manifest: dict[str, Any], engine: dict[str, Any], notes: list[str],
    ) -> None:  # fmt: skip
        self.output, self.options, self.state, self.table = output, options, state, table
        self.cases = {case.key: case for case in cases}
        self.journal = AppendLog(output / JOURNAL)
        self.run_id = uuid.uuid4().hex[:12]
        self.manifest, self.engine = manifest, engine
        self.outcome = BatchOutcome(output, notes=notes)

    def go(self, pool: Pool, command: list[str], cancel: Cancel | None) -> BatchOutcome:
        self.table.progress.total = len(self.cases)
        for note in self.outcome.notes:
            self.table.note(note)
        run = {"id": self.run_id, "command": command, "cases": len(self.cases), "options": self.options.as_dict()}
        self.manifest = run_manifest.start_run(self.output, self.manifest, self.engine, run)
        self._log("run", model=self.engine["sha256"], version=self.engine["version"], cases=len(self.cases))
        ended = "finished"
        try:
            for event, content in pool.run(self._tasks(), cancel):
                self._start(content) if event == "start" else self._end(content)
        except (KeyboardInterrupt, Cancelled):
            ended = "cancelled"
            raise Cancelled("The batch was stopped; the same command continues it.") from None
        except BaseException:
            ended = "stopped"
            raise
        finally:
            try:
                self._finish(ended)
            except Exception:
                if ended == "finished":
                    raise
                log.exception("the tables could not be written after the batch was %s", ended)  # the first error is the one to show
        return self.outcome

    def _tasks(self) -> Iterator[Task]:
        for key, case in self.cases.items():
            before = self.state.cases.get(key)
            known = {before.status: before.fingerprint} if before and before.status in ("done", "failed") else {}
            yield Task(case, known)

    def _start(self, task: Task) -> None:
        free = shutil.disk_usage(self.output).free
        if free < MIN_FREE_BYTES:
            raise OutputError(f"The disk of '{self.output}' has only {free >> 20} MB left; free some space and repeat the command: finished cases are kept.")
        self.table.start(task.case.key)

    def _end(self, outcome: dict[str, Any]) -> None:
        case = self.cases[outcome["case"]]
        status = outcome["status"]
        before = self.state.cases[case.key].entry if case.key in self.state.cases else {}
        if status == "failed_before":
            outcome["error"] = str(before.get("error", ""))
        about = {"name": case.name, "patient": case.patient, **({} if case.private else {"image": case.image, "series": case.series})}
        # of a case that is not computed again the journal may say no longer who it shows and where it lies: review and export go by it
        if status in ("done", "recovered", "failed") or any(before.get(name, "") != value for name, value in about.items()):
            source = before if status in ("unchanged", "failed_before") else outcome
            kept = {name: source[name] for name in ("fingerprint", "input_sha256", "elapsed_s", "outputs", "error", "traceback") if name in source}
            self._log("failed" if status in ("failed", "failed_before") else "done", case=case.key, **about, **kept, how=status)
        self.outcome.counts[status] = self.outcome.counts.get(status, 0) + 1
        if status in ("failed", "failed_before"):
            self.outcome.failures[case.key] = outcome["error"]
        self.table.end(outcome)

    def _log(self, event: str, **values: Any) -> None:
        self.journal.append({"event": event, "run": self.run_id, "time": utc_now(), **values})

    def _finish(self, ended: str) -> None:
        """Tables and manifest are made from what is on disk, so they are right after a kill and a resume too."""
        self._log("end", ended=ended, counts=self.outcome.counts)
        self.manifest["runs"][-1].update(
            ended=utc_now(),
            how=ended,
            counts=self.outcome.counts,
            elapsed_s=round(self.table.progress.clock() - self.table.progress.started, 3),
        )
        run_manifest.write(self.output, self.manifest)
        self.outcome.rows = refresh_tables(self.output, self.options.show_identifiers)


def refresh_tables(folder: Path, show_identifiers: bool = False) -> list[dict[str, Any]]:
    """Write ``summary.csv`` and ``report.html`` anew from results, journal and audit trail.

    Raises:
        OutputError: one of them cannot be written (a spreadsheet holds it open); the other one is.
    """
    from ..html_report import write_report
    from ..review.status import add_review_status

    rows = add_review_status(folder, collect_rows(folder))
    try:
        write_summary(folder, rows)
    finally:
        write_report(folder, rows, show_identifiers=show_identifiers)
    return rows
