"""Who may import whom, and what an import costs."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ENGINE = ROOT / "RefSAM3DLib"
#: Packages that the engine must never need: they belong to Slicer or to training.
FORBIDDEN = {"slicer", "qt", "ctk", "vtk", "monai", "refsam3d_training"}
#: Folder or file stem of the engine -> what it may import of the engine besides itself.
ALLOWED = {
    "errors": set(),
    "types": {"errors", "geometry"},
    "config": {"errors"},
    "geometry": {"errors"},
    "modeling": {"config", "errors"},
    "text": {"config", "errors", "types", "resources", "modeling", "foreign_weights"},
    "inference": {"config", "errors", "types", "geometry", "modeling", "text", "memory", "checkpoint", "engine"},
}


def imports(path: Path) -> set[str]:
    """Absolute names of everything a file imports, also inside functions."""
    package = path.relative_to(ROOT).with_suffix("").parts
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level]) if node.level else ""
            name = ".".join(part for part in (base, node.module) if part)
            found |= {name} if node.module else {f"{name}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", sorted(ENGINE.rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_the_engine_never_imports_slicer_or_the_training_package(path: Path) -> None:
    assert not {name.split(".")[0] for name in imports(path)} & FORBIDDEN


@pytest.mark.parametrize("part", sorted(ALLOWED))
def test_imports_point_downwards(part: str) -> None:
    folder = ENGINE / part
    for path in sorted(folder.rglob("*.py")) if folder.is_dir() else [ENGINE / f"{part}.py"]:
        used = {name.split(".")[1] for name in imports(path) if name.startswith("RefSAM3DLib.")}
        assert used - {part} <= ALLOWED[part], f"{path.name} imports {sorted(used - {part} - ALLOWED[part])}"


def test_inference_knows_the_engine_only_for_annotations() -> None:
    for path in (ENGINE / "inference").glob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in tree.body:  # module level, outside `if TYPE_CHECKING`
            if isinstance(node, ast.ImportFrom):
                assert node.module not in ("engine", "checkpoint"), path.name


def test_importing_the_package_loads_neither_numpy_nor_torch() -> None:
    code = "import sys, RefSAM3DLib; print([m for m in ('numpy', 'torch', 'SimpleITK', 'open_clip') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_answering_with_the_default_model_imports_nothing_that_it_does_not_need() -> None:
    """torchvision, timm and torch's compiler, which open_clip's package imports, take longer than all the rest."""
    code = (
        "import sys, numpy as np; from RefSAM3DLib.engine import RefSAM3DEngine;"
        "from RefSAM3DLib.types import Volume; from RefSAM3DLib.geometry import Geometry;"
        "array = np.arange(512, dtype=np.int16).reshape(8, 8, 8);"
        "engine = RefSAM3DEngine.from_default('cpu'); volume = Volume(array, Geometry((8, 8, 8), np.eye(4)), 'ct');"
        "engine.segment(volume, ['larynx']);"
        "print([m for m in ('torchvision', 'timm', 'open_clip', 'torch._dynamo', 'monai', 'scipy', 'matplotlib') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert out.stdout.strip() == "[]", out.stderr


def test_modeling_sees_no_files_devices_or_millimetres() -> None:
    for path in (ENGINE / "modeling").glob("*.py"):
        names = {name.split(".")[0] for name in imports(path)}
        assert names <= {"__future__", "collections", "dataclasses", "functools", "math", "typing", "torch", "open_clip", "RefSAM3DLib"}, path.name
        assert "_mm" not in path.read_text(encoding="utf-8"), f"{path.name} speaks of millimetres"


def test_simpleitk_gets_names_that_it_finds_on_windows() -> None:
    """There it opens no path with letters beyond ASCII: every name passes through ``itk_name``."""
    calls = re.compile(r"(?:sitk\.(?:Read|Write)Image|\.SetFileNames?)\((?:[^()]|\((?:[^()]|\([^()]*\))*\))*\)")
    found = [
        f"{path.name}: {call}"
        for folder in (ENGINE, ROOT / "training" / "refsam3d_training")
        for path in folder.rglob("*.py")
        for call in calls.findall(path.read_text(encoding="utf-8"))
    ]
    assert len(found) > 10
    assert [call for call in found if "itk_name" not in call] == []
