"""The CMake files configure, build and install a tree from which everything imports and the worker runs. Slicer's macros are stand-ins."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FLAT = "lib/Slicer-5.13/qt-scripted-modules"


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("build with spaces ä")
    build, prefix = folder / "build", folder / "install"
    steps = (
        ["cmake", "-S", str(ROOT), "-B", str(build), f"-DSlicer_DIR={ROOT / 'Testing/harness/cmake'}", f"-DCMAKE_INSTALL_PREFIX={prefix}"],
        ["cmake", "--build", str(build)],
        ["cmake", "--install", str(build)],
    )
    for step in steps:
        done = subprocess.run(step, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return build / FLAT, prefix / FLAT


@pytest.mark.apt
def test_the_installed_tree_holds_the_same_as_the_source_tree(installed):
    for tree in installed:
        for folder in ("RefSAM3DLib", "Resources"):
            source = {p.relative_to(ROOT) for p in (ROOT / folder).rglob("*") if p.is_file() and p.suffix not in (".pyc", ".txt")}
            missing = {p for p in source if not (tree / p).is_file() and ".part" not in p.name}
            assert not missing
        for path in (ROOT / "RefSAM3D").rglob("*.py"):
            assert (tree / path.relative_to(ROOT / "RefSAM3D")).is_file(), path


@pytest.mark.apt
def test_nothing_with_a_generic_name_is_put_into_the_shared_folder(installed):
    names = {p.name for p in installed[1].iterdir()}
    assert names == {
        "RefSAM3D.py",
        "SegmentEditorRefSAM3D.py",
        "SegmentEditorRefSAM3DLib",
        "RefSAM3DSlicer",
        "RefSAM3DLib",
        "Resources",
    }


@pytest.mark.apt
def test_the_engine_and_its_worker_run_from_the_installed_tree(installed):
    code = (
        "import RefSAM3DLib, RefSAM3DLib.worker, RefSAM3DLib.text.prompts as p; from RefSAM3DLib.text.vocabulary import Vocabulary;"
        "from RefSAM3DLib.resources import resource_path; print(resource_path('UI', 'RefSAM3D.ui')); print(len(Vocabulary.default().names))"
    )
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"PYTHONPATH": str(installed[1])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=installed[1], check=False)
    assert done.returncode == 0, done.stderr
    assert str(installed[1]) in done.stdout
    command = [sys.executable, "-m", "RefSAM3DLib.worker"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, cwd="/") as worker:
        assert b'"kind": "Hello"' in worker.stdout.read(40)
        worker.stdin.close()
        assert worker.wait(10) == 0, "it ends when nobody listens any more"


@pytest.mark.apt
def test_both_modules_load_from_the_installed_tree(installed):
    pytest.importorskip("slicer", reason="slicer-core is not installed")
    pytest.importorskip("PySide6", reason="PySide6-Essentials is not installed")
    code = f"""
import sys
sys.path.insert(0, {str(ROOT / "Testing" / "harness")!r})
import slicer_app
sys.path[:] = [p for p in sys.path if p not in ({str(ROOT)!r}, {str(ROOT / "RefSAM3D")!r})]
application, qt, ctk = slicer_app.start_gui()
tree = {str(installed[1])!r}
sys.path.append(tree)
module = slicer_app.load_module_file(tree + "/RefSAM3D.py")
slicer_app.load_module_file(tree + "/SegmentEditorRefSAM3D.py")
import slicer
slicer.app.signals.emit("startupCompleted()")
widget = slicer_app.open_widget(module)
import RefSAM3DLib, RefSAM3DSlicer.panel
assert RefSAM3DLib.__file__.startswith(tree) and RefSAM3DSlicer.panel.__file__.startswith(tree)
assert [e.name for e in slicer.qSlicerSegmentEditorEffectFactory.instance().registeredEffects()] == ["RefSAM3D"]
widget.cleanup()
print("LOADED")
"""
    environment = {**os.environ, "QT_QPA_PLATFORM": "offscreen"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd="/", timeout=120, check=False)
    assert "LOADED" in done.stdout, done.stderr[-3000:]


def test_the_extension_description_agrees_with_the_cmake_file():
    text, description = (ROOT / "CMakeLists.txt").read_text(), json.loads((ROOT / "RefSAM3D.json").read_text())
    depends = re.search(r'set\(EXTENSION_DEPENDS "([^"]*)"\)', text).group(1).split()
    assert description["build_dependencies"] == depends
    assert description["category"] == re.search(r'set\(EXTENSION_CATEGORY "([^"]*)"\)', text).group(1)
    assert re.search(r"project\((\w+)\)", text).group(1) == "RefSAM3D" == Path(ROOT / "RefSAM3D.json").stem
    icon = (ROOT / "Resources" / "Icons" / "RefSAM3D.png").read_bytes()
    assert (int.from_bytes(icon[16:20], "big"), int.from_bytes(icon[20:24], "big")) == (128, 128)


def test_every_address_of_the_extension_is_under_one_home():
    """And while that is none, the documentation says what must be filled in."""
    text, description = (ROOT / "CMakeLists.txt").read_text(), json.loads((ROOT / "RefSAM3D.json").read_text())
    home = re.search(r'set\(REFSAM3D_HOME "([^"]*)"\)', text).group(1)
    assert description["scm_url"] == home + ".git"
    for name in ("HOMEPAGE", "ICONURL", "SCREENSHOTURLS"):
        assert re.search(rf'set\(EXTENSION_{name} "([^"]*)"\)', text).group(1).startswith("${REFSAM3D_HOME}")
    for name in ("Icons/RefSAM3D.png", "images/panel.png"):
        assert name in text
    if ".invalid/" in home:
        guide = (ROOT / "Docs" / "slicer.md").read_text(encoding="utf-8")
        assert "## Publishing" in guide
        assert "REFSAM3D_HOME" in guide
        assert "scm_url" in guide
