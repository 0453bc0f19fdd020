"""RefSAM3D engine: type a structure's name, get its mask. ``import RefSAM3DLib`` loads neither numpy nor torch."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_EXPORTS = {
    "RefSAM3DEngine": ".engine",
    "VolumeEmbedding": ".engine",
    "Volume": ".types",
    "PromptResult": ".types",
    "ResolvedPrompt": ".types",
    "Verdict": ".types",
    "PromptStatus": ".types",
    "Modality": ".types",
    "Geometry": ".geometry",
    "load_volume": ".volume_io",
    "RefSAM3DError": ".errors",
    "Cancelled": ".errors",
}

__all__ = ["__version__", *sorted(_EXPORTS)]

if TYPE_CHECKING:
    from .engine import RefSAM3DEngine, VolumeEmbedding
    from .errors import Cancelled, RefSAM3DError
    from .geometry import Geometry
    from .types import Modality, PromptResult, PromptStatus, ResolvedPrompt, Verdict, Volume
    from .volume_io import load_volume


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(importlib.import_module(_EXPORTS[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
