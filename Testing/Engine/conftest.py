"""Path of the harness, and the folder of the real volumes."""

import os
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parents[2]
for _folder in (_ROOT, _ROOT / "Testing" / "harness"):
    if str(_folder) not in sys.path:
        sys.path.append(str(_folder))


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of the real volumes; tests that ask for it carry the marker ``data`` and are skipped, with the reason, without it."""
    folder = Path(os.environ.get("REFSAM3D_DATA") or _ROOT.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"the real volumes are not in {folder}; set REFSAM3D_DATA")
    return folder
