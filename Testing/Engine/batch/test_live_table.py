"""What a person sees while a batch runs."""

from __future__ import annotations

import io

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
