"""Where the files that ship beside the code are found."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from .errors import ConfigError, RefSAM3DError

if TYPE_CHECKING:
    from .config import ModelConfig

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


def named_config(name: str) -> ModelConfig:
    """Configuration of a network by the name of a file of ``Resources/Configs`` ("vit_b"), or from a JSON file of one's own.

    Raises:
        ConfigError: there is none of this name; it lists those that are.
    """
    from .config import ModelConfig

    path = Path(name) if name.endswith(".json") else resource_path("Configs") / f"{name}.json"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in resource_path("Configs").glob("*.json")))
        raise ConfigError(f"The configuration '{name}' does not exist; use one of {known}, or give a JSON file.")
    return ModelConfig.load(path)
