"""Where the files that ship beside the code are found."""

from __future__ import annotations

from pathlib import Path

from .errors import RefSAM3DError

# The package and Resources lie side by side in the source tree and in Slicer's flat module folder alike, so one rule serves both.
_ROOT = Path(__file__).resolve().parent.parent / "Resources"


def resource_path(*parts: str) -> Path:
    """Return the path of a bundled file or folder, e.g. ``resource_path("Text", "vocabulary.json")``.

    Raises:
        RefSAM3DError: nothing lies there, which means an incomplete installation.
    """
    path = _ROOT.joinpath(*parts)
    if not path.exists():
        raise RefSAM3DError(f"The file '{path}' is missing; the installation is incomplete, install RefSAM3D again.")
    return path
