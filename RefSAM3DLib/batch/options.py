"""What a batch was asked to do, as plain values that can be stored and sent to another process."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePath
from typing import Any

from ..errors import ConfigError
from ..provenance import engine_values
from .cases import Case
from .content_hash import hash_file, hash_request
from .inputs import reference_hash

#: The one seam through which an engine comes in: ``module:function`` that takes the keywords of ``engine_arguments``.
DEFAULT_ENGINE = "RefSAM3DLib.batch.options:make_engine"


@dataclass(frozen=True)
class BatchOptions:
    """Options of a batch.

    Attributes:
        prompts: for cases that bring none, a single string is one. allow_unknown: draw prompts outside the vocabulary too.
        modality: of all images; "" to go by the list or the file. probability: keep each structure's probability volume beside the mask.
        engine: ``module:function`` that makes the engine of a worker. engine_arguments: its keywords (model, adapter, device).
        workers: processes on this machine; 0 works in the calling process. ray_address: use a Ray cluster instead.
        retry_failed, force, break_lock: see the command's help.
        pseudonyms: give every case a pseudonym, not only DICOM. show_identifiers: real identifiers in the report.
    """

    prompts: tuple[str, ...] = ()
    allow_unknown: bool = False
    modality: str = ""
    probability: bool = False
    engine: str = DEFAULT_ENGINE
    engine_arguments: dict[str, Any] = field(default_factory=dict)
    workers: int = 1
    ray_address: str = ""
    retry_failed: bool = False
    force: bool = False
    break_lock: bool = False
    pseudonyms: bool = False
    show_identifiers: bool = False

    def __post_init__(self) -> None:
        one: Any = self.prompts
        object.__setattr__(self, "prompts", (one,) if isinstance(one, str) else tuple(one))
        plain = {name: str(value) if isinstance(value, PurePath) else value for name, value in self.engine_arguments.items()}
        object.__setattr__(self, "engine_arguments", plain)  # they go into the manifest and to other processes

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON and for other processes."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> BatchOptions:
        """Inverse of :meth:`as_dict`."""
        return cls(**values)

    def fingerprint(self, input_sha256: str, prompts: tuple[str, ...], case: Case, engine: dict[str, Any]) -> str:
        """Equal for two cases if the result would be the same: image, reference, prompts, options that matter, model, version."""
        # named only where there is a reference, so that all other results of earlier folders stand
        reference: dict[str, Any] = {"reference": reference_hash(case), "labels": [list(label) for label in case.labels]} if case.segmentation else {}
        return hash_request(
            **reference,
            input=input_sha256,
            series=case.series,
            prompts=list(prompts),
            allow_unknown=self.allow_unknown,
            modality=self.modality or case.modality,
            probability=self.probability,
            model=engine.get("sha256", ""),
            adapter=engine.get("adapter_sha256", ""),
            version=engine.get("version", ""),
        )


def load_factory(name: str) -> Callable[..., Any]:
    """The function behind ``module:function``."""
    module, _, function = name.partition(":")
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"The engine '{name}' cannot be imported ({error}); it is written as module:function.") from error


def make_engine(model: str = "", adapter: str = "", device: str = "auto") -> Any:
    """The engine of a worker: the default checkpoint, or ``model`` (name or file) with ``adapter``."""
    from ..engine import RefSAM3DEngine
    from ..models_registry import find_model

    if not model:
        return RefSAM3DEngine.from_default(device=device, adapter=adapter or None)
    return RefSAM3DEngine.from_checkpoint(find_model(model), device=device, adapter=adapter or None)


def describe_engine(engine: Any, arguments: dict[str, Any] | None = None) -> dict[str, Any]:
    """What is written beside every result about the engine that made it."""
    values = engine_values(engine)
    adapter = Path(str((arguments or {}).get("adapter") or ""))
    if adapter.name and not values["adapter"]:  # an engine of another factory that does not say what it was given
        values |= {"adapter": adapter.name, "adapter_sha256": hash_file(adapter)}
    return {
        **values,
        "warnings": [str(w) for w in getattr(engine, "warnings", ())],
    }
