"""Bundled files are found where they ship, and a missing one is named."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import RefSAM3DLib
from RefSAM3DLib.errors import RefSAM3DError
from RefSAM3DLib.resources import resource_path


def test_bundled_vocabulary_is_found():
    assert resource_path("Text", "vocabulary.json").is_file()


def test_missing_resource_is_named_in_a_sentence():
    with pytest.raises(RefSAM3DError, match=r"no_such_file\.json' is missing; .*\.$"):
        resource_path("Text", "no_such_file.json")


def test_resources_are_found_beside_the_package_in_a_flat_folder_with_an_awkward_name(tmp_path: Path):
    flat = tmp_path / "Mödule folder, 1"
    package = Path(RefSAM3DLib.__file__).parent
    shutil.copytree(package / "text", flat / "RefSAM3DLib" / "text")
    for name in ("__init__.py", "errors.py", "resources.py", "types.py"):
        shutil.copy(package / name, flat / "RefSAM3DLib" / name)
    shutil.copytree(resource_path("Text"), flat / "Resources" / "Text")
    code = "from RefSAM3DLib.text.vocabulary import Vocabulary; print(len(Vocabulary.default().names))"
    done = subprocess.run(
        [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(flat)!r}); {code}"], capture_output=True, text=True
    )
    assert done.stdout.strip() == "11", done.stderr


def test_text_package_needs_the_standard_library_alone():
    code = "import sys, RefSAM3DLib.text.prompts as p; p.Vocabulary.default(); print([m for m in ('numpy', 'torch') if m in sys.modules])"
    root = str(Path(RefSAM3DLib.__file__).parent.parent)
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
