"""The event loop of the application while a volume is sent, the engine computes and results are written: each tick is timed."""

from __future__ import annotations

import time

import numpy as np
import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed: pip install -r Testing/requirements-slicer.txt")
pytest.importorskip("PySide6", reason="PySide6-Essentials is not installed (the timers of the runner)")

import gui_cases as gui
import slicer
from mrml_cases import addVolume
from RefSAM3DSlicer import session
from RefSAM3DSlicer.logic import RefSAM3DLogic
from RefSAM3DSlicer.runner import EngineRunner
from RefSAM3DSlicer.task import SegmentTask, TaskState
from tick_clock import CAN_TELL, TickClock

#: Seconds that a tick may hold the event loop, and seconds for the step that writes a segment.
TICK_S, SEGMENT_S = 0.05, 0.25


@pytest.fixture(autouse=True)
def clean(monkeypatch):
    """A runner of our own: the timer of one that is there already calls the method that it was made with."""
    session.stop()
    monkeypatch.setattr(session, "_runner", None)
    yield
    session.stop()
    slicer.mrmlScene.Clear(0)


def watched(monkeypatch):
    """Clocks around every call that timers make: the runner's poll, and the task's steps that write."""
    polls, writes = TickClock(), TickClock()
    monkeypatch.setattr(EngineRunner, "poll", polls.around(EngineRunner.poll))
    monkeypatch.setattr(SegmentTask, "tick", writes.around(SegmentTask.tick))
    return polls, writes


def assertFree(clock, limit):
    """Processor time is ours on every machine. What was slept or waited for can be told where the kernel counts the wait for a core;

    a virtual machine that is itself put aside is not in that count, so one tick in a hundred may be longer.
    """
    assert max(clock.computed) < limit
    if CAN_TELL:
        assert sorted(clock.held)[-1 - len(clock.held) // 100] < limit


def test_the_clock_sees_a_tick_that_sleeps_and_one_that_computes():
    """Otherwise the test below could not fail."""
    clock = TickClock()
    with clock:
        time.sleep(0.06)
    assert clock.wall[0] >= 0.06
    assert clock.computed[0] < 0.03
    assert not CAN_TELL or clock.held[0] >= 0.055
    clock.computed[0] = 0.06
    with pytest.raises(AssertionError):
        assertFree(clock, TICK_S)


@pytest.mark.slow
def test_no_tick_holds_the_event_loop_for_50_ms_and_no_segment_for_250_ms(monkeypatch):
    """64 MB, a structure of 4 million voxels."""
    gui.useFakeEngine(FAKE_STEP_S="0.02")
    polls, writes = watched(monkeypatch)
    array = np.zeros((200, 400, 400), np.int16)
    array[50:150, 100:300, 100:300] = 1000
    volume = addVolume(array, np.diag([-1.0, -1, 1, 1]))
    with TickClock() as start:
        task = RefSAM3DLogic().segment(volume, "left parotid gland", wait=False)
    gui.spin(lambda: task.isOver, timeout=400)
    assert task.state is TaskState.DONE, task.failure
    print(f"start: {start}\nsending and computing: {polls}\nwriting: {writes}")
    assert len(polls.wall) > 20
    assertFree(polls, TICK_S)
    assertFree(writes, SEGMENT_S)
    assert not CAN_TELL or sorted(polls.held)[len(polls.held) // 2] < TICK_S / 2
