"""Path of the harness; files that need Slicer's libraries skip themselves, with the reason, where these are not installed."""

import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]
for _folder in (_ROOT, _ROOT / "RefSAM3D", _ROOT / "Testing" / "harness"):
    if str(_folder) not in sys.path:
        sys.path.append(str(_folder))
