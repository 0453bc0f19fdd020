"""What a person sees while a batch runs."""

from __future__ import annotations

import io

import pytest

from RefSAM3DLib.batch.live_table import LiveTable, Progress, clock_text


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def outcome(n: int, status: str = "done") -> dict:
    return {"case": f"case_{n}", "status": status, "elapsed_s": 1.0, "results": [{"verdict": "present"}]}


def test_time_left_counts_only_cases_that_cost_time() -> None:
    now = [0.0]
    progress = Progress(10, clock=lambda: now[0])
    for n in range(4):
        progress.end(outcome(n, "unchanged"))
    assert progress.seconds_left is None
    now[0] = 20.0
    progress.end(outcome(4))
    progress.end(outcome(5))
    assert progress.seconds_left == 40.0
    assert progress.line() == "6/10 cases, 0 failed, 6.0 cases/min, 0:40 left"


def test_terminal_is_redrawn_in_place_and_shows_the_last_cases() -> None:
    stream = Terminal()
    table = LiveTable(stream, 20)
    for n in range(12):
        table.start(f"case_{n}")
        table.end(outcome(n))
    screen = stream.getvalue().rsplit("\x1b[J", 1)[1]
    assert "case_11" in screen
    assert "case_2 " not in screen
    assert "12/20 cases" in screen


def test_a_pipe_gets_plain_lines() -> None:
    stream = io.StringIO()
    table = LiveTable(stream, 2)
    table.end(outcome(0))
    table.end({"case": "b", "status": "failed", "error": "It is broken."})
    assert "\x1b" not in stream.getvalue()
    assert "FAILED" in stream.getvalue()
    assert "It is broken." in stream.getvalue()


def test_clock_text() -> None:
    assert clock_text(0) == "0:00"
    assert clock_text(3599.7) == "1:00:00"


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_no_line_is_wider_than_the_terminal(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    stream = Terminal()
    table = LiveTable(stream, 3)
    for n in range(3):
        table.start("a_case_with_a_name_of_forty_characters_" + str(n))
        table.end(outcome(n, "failed") | {"error": "It is\nbroken, " * 30})
    for drawn in stream.getvalue().split("\x1b[J"):
        lines = drawn.removesuffix("\n").split("\n")
        assert max(len(line.split("\x1b")[0]) for line in lines) <= columns - 1
    assert len(lines) == 5, "three cases, what runs, and the progress"


class ClosedPipe(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError


@pytest.mark.parametrize("as_json", [False, True])
def test_a_reader_that_leaves_stops_no_batch(as_json: bool) -> None:
    table = LiveTable(ClosedPipe(), 2, as_json=as_json)
    table.note("It begins.")
    for n in range(2):
        table.start(f"case_{n}")
        table.end(outcome(n))
    assert table.progress.finished == 2
