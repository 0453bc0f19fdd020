"""The engine's memory is given back when nobody uses it and its panel is not shown, whoever started it, and not before."""

from __future__ import annotations

import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed: pip install -r Testing/requirements-slicer.txt")
pytest.importorskip("PySide6", reason="PySide6-Essentials is not installed")

import gui_cases as gui
import slicer
from effect_cases import Bench, closeAll
from gui_cases import settle, spin
from mrml_cases import addVolume
from RefSAM3DSlicer import session
from RefSAM3DSlicer.logic import RefSAM3DLogic


@pytest.fixture
def runner(monkeypatch):
    """An engine that is at work; the watch looks every few milliseconds."""
    monkeypatch.setattr(session, "IDLE_S", 0.0)
    gui.useFakeEngine(FAKE_STEP_S="0.05")
    RefSAM3DLogic().segment(addVolume(), "mandible", wait=False)
    yield session.engineRunner()
    session.stopIdleWatch()
    session.stop()
    slicer.mrmlScene.Clear(0)


def watch():
    session.startIdleWatch()
    session._idleWatch._timer.setInterval(5)


def test_an_idle_engine_ends_but_not_during_a_run(runner):
    watch()
    spin(lambda: runner.isAlive)
    while runner.isBusy:
        assert runner.isAlive
        settle(0.01)
    spin(lambda: not runner.isAlive, timeout=5.0)
    RefSAM3DLogic().segment(addVolume(), "mandible")
    spin(lambda: not runner.isAlive, timeout=5.0)  # one that was started anew by a script is watched too


def test_an_engine_stays_while_its_panel_is_shown_or_its_last_run_is_recent(runner, monkeypatch):
    spin(lambda: not runner.isBusy)
    watch()
    session.stopIdleWatch()
    settle(0.1)
    assert runner.isAlive, "the panel is shown again"
    monkeypatch.setattr(session, "IDLE_S", 600.0)
    watch()
    settle(0.1)
    assert runner.isAlive
    runner.lastUsed -= 601
    spin(lambda: not runner.isAlive, timeout=5.0)


@pytest.fixture
def unwatched(monkeypatch):
    """As after the start of the application: no panel was shown yet. The watch looks every few milliseconds."""
    session.stop()
    session.stopIdleWatch()
    for name, value in {"IDLE_S": 0.0, "IDLE_LOOK_MS": 5, "_runner": None, "_idleWatch": None, "_isPanelShown": False}.items():
        monkeypatch.setattr(session, name, value)
    yield
    session.stopIdleWatch()
    session.stop()
    slicer.mrmlScene.Clear(0)


def test_an_engine_that_only_the_effect_uses_ends_too(unwatched):
    bench = Bench()
    for _again in range(2):
        bench.type("left parotid gland")
        bench.controller.onApply()
        spin(lambda: session.engineRunner().isAlive)
        bench.finish()
        assert bench.count(bench.A) > 0, bench.controller.messages.text
        spin(lambda: not session.engineRunner().isAlive, timeout=5.0)
    closeAll([bench])


def test_looking_at_an_engine_does_not_start_the_watch_while_the_panel_is_shown(unwatched):
    session.stopIdleWatch()  # the panel is shown
    gui.useFakeEngine()
    RefSAM3DLogic().segment(addVolume(), "mandible")
    settle(0.1)
    assert session.engineRunner().isAlive
    session.startIdleWatch()
    spin(lambda: not session.engineRunner().isAlive, timeout=5.0)
