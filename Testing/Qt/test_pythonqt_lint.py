"""Habits that work in PySide6 and fail, or fail silently, in Slicer's PythonQt. Reads the source; needs neither Qt nor Slicer."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "RefSAM3D").rglob("*.py"))
#: Qt properties: reading them with () raises in PythonQt.
PROPERTIES = {
    *("text", "checked", "enabled", "visible", "toolTip", "value", "maximum", "minimum", "currentText", "currentIndex", "placeholderText"),
    *("plainText", "objectName", "styleSheet", "readOnly", "sizeHint", "count", "rowCount", "columnCount", "interval", "active", "title"),
    *("currentData", "currentPath", "collapsed", "noneEnabled", "windowTitle", "cursorPosition", "width", "height"),
}
#: Methods of these names on objects that are no QObjects (items, dictionaries, arrays) are fine.
NOT_QT = {"item", "segment", "node", "t", "value", "it", "texts", "event", "list", "str"}
#: Does not exist in PythonQt, or not in both Qt 5 and Qt 6.
FORBIDDEN_NAMES = {"QTest", "QRegExp", "QDesktopWidget", "CTRL", "QSignalBlocker", "pyqtSignal", "Slot"}
HEAVY = {"torch", "torchvision", "open_clip", "SimpleITK", "safetensors", "monai", "scipy", "pydicom", "slicerio"}


def parse(path):
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def where(path, node):
    return f"{path.relative_to(ROOT)}:{node.lineno}"


def receiver(function):
    value = function.value
    return value.attr if isinstance(value, ast.Attribute) else value.id if isinstance(value, ast.Name) else ""


def found(path):
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            name, holder = node.func.attr, receiver(node.func)
            if name in PROPERTIES and not node.args and not node.keywords and holder not in NOT_QT:
                yield f"{where(path, node)} calls the property {holder}.{name}()"
            if name == "connect" and holder not in ("app", "sender") and path.name != "pythonqt.py":
                yield f"{where(path, node)} connects without the helper that raises on failure"
            if isinstance(node.func.value, ast.Name) and node.func.value.id in ("qt", "ctk") and node.keywords:
                yield f"{where(path, node)} passes keywords to a Qt constructor"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "isinstance":
            second = node.args[1]
            if isinstance(second, ast.Attribute) and isinstance(second.value, ast.Name) and second.value.id in ("qt", "ctk"):
                yield f"{where(path, node)} isinstance of a Qt class is always False"
        if isinstance(node, ast.Attribute) and node.attr in FORBIDDEN_NAMES:
            yield f"{where(path, node)} {node.attr} does not exist everywhere"
        if isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Attribute) and target.attr == "text" and receiver(target) in ("item", "it"):
                    yield f"{where(path, node)} sets the text of an item as if it were a property"
        if isinstance(node, ast.Attribute) and node.attr == "partial":
            yield f"{where(path, node)} functools.partial as a slot: use a lambda"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
            yield f"{where(path, node)} print"
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            if {n.split(".")[0] for n in names} & {"multiprocessing", "threading", "concurrent"} and path.name != "worker_process.py":
                yield f"{where(path, node)} threads and multiprocessing do not work inside Slicer"
            if {n.split(".")[0] for n in names} & HEAVY:
                yield f"{where(path, node)} imports {names}: the application's process stays without it"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_habit_that_pythonqt_punishes(path):
    assert list(found(path)) == []


def test_the_lint_finds_what_it_is_for(tmp_path, monkeypatch):
    bad = tmp_path / "bad.py"
    bad.write_text(
        "import torch, threading\n"
        "b.text()\nb.connect('x()', f)\nqt.QPushButton('x', enabled=False)\nisinstance(w, qt.QWidget)\nqt.QTest\nfunctools.partial(f)\nprint(1)\n"
        "item.text = 'z'\n"
    )
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    assert len(list(found(bad))) == 10


def test_every_loose_file_beside_the_module_defines_its_class():
    """Slicer imports each of them as a module and lists those without the class as failed."""
    for path in (ROOT / "RefSAM3D").glob("*.py"):
        assert path.stem in [n.name for n in parse(path).body if isinstance(n, ast.ClassDef)], path
    assert not (ROOT / "RefSAM3D" / "__init__.py").exists(), "it would shadow RefSAM3D.py"


def test_module_file_is_short():
    assert len((ROOT / "RefSAM3D" / "RefSAM3D.py").read_text().splitlines()) <= 200


def test_files_stay_readable():
    assert {p.name: n for p in FILES if (n := len(p.read_text().splitlines())) > 320} == {}
