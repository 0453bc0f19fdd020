"""A Slicer that is too old says so instead of failing with a Python error; what it loads is Python 3.9."""

from __future__ import annotations

import ast

import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed: pip install -r Testing/requirements-slicer.txt")
pytest.importorskip("PySide6", reason="PySide6-Essentials is not installed")

import gui_cases as gui
import slicer
from effect_host import EffectFactory
from gui_cases import slicer_app


@pytest.fixture
def old(monkeypatch):
    monkeypatch.setattr(slicer.app, "minorVersion", 8, raising=False)


def test_the_panel_is_a_sentence_with_both_versions(old):
    widget = slicer_app.open_widget(gui.module)
    assert widget.panel is None
    (label,) = widget.parent.findChildren(gui.qt.QLabel)
    assert label.text.startswith("RefSAM3D needs 3D Slicer 5.10 or later; this is 5.8. Install a newer Slicer")
    widget.exit()
    widget.enter()
    slicer.mrmlScene.Clear(0)
    widget.cleanup()


def test_the_effect_is_not_registered(old, monkeypatch):
    monkeypatch.setattr(EffectFactory.instance(), "effects", [])
    slicer.modules.SegmentEditorRefSAM3DInstance.registerEditorEffect()
    assert EffectFactory.instance().effects == []


@pytest.mark.parametrize("version", [(5, 10), (5, 13), (6, 0)])
def test_later_ones_are_taken(monkeypatch, version):
    from RefSAM3DSlicer.slicer_version import versionProblem

    monkeypatch.setattr(slicer.app, "majorVersion", version[0], raising=False)
    monkeypatch.setattr(slicer.app, "minorVersion", version[1], raising=False)
    assert versionProblem() == ""


def test_what_is_loaded_before_the_sentence_is_python_3_9():
    module = slicer_app.ROOT / "RefSAM3D"
    files = [*module.glob("*.py"), *(module / "RefSAM3DSlicer" / name for name in ("__init__.py", "slicer_version.py"))]
    files += [slicer_app.ROOT / "RefSAM3DLib" / name for name in ("__init__.py", "resources.py", "errors.py")]
    for path in files:
        tree = ast.parse(path.read_text(encoding="utf-8"), str(path), feature_version=(3, 9))
        assert not [node for node in ast.walk(tree) if isinstance(node, ast.keyword) and node.arg == "strict"], path
