"""Weights that other programs published: read without running anything in them, and an account of what became of each tensor."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor, nn

#: Names under which training programs put the state dict inside their file.
_WRAPPERS = ("state_dict", "model", "model_state_dict")
#: What distributed training and compilation put before every name.
_PREFIXES = ("module.", "_orig_mod.")
#: Cells of a number in a parameter's name: blocks are summed up in tables.
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


@dataclass
class InflationReport:
    """What became of each tensor of a published file, and what of ours it did not touch.

    Attributes:
        title: what was read. used: names in the file that were taken as they are. inflated: names in the file that were resized or
        given a depth, with how. left_over: names in the file without a place here. missing: our names that keep their initial values.
        notes: sentences for the reader.
    """

    title: str
    used: list[str] = field(default_factory=list)
    inflated: list[tuple[str, str]] = field(default_factory=list)
    left_over: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def counts(self) -> dict[str, int]:
        """Tensors per outcome."""
        return {"used": len(self.used), "inflated": len(self.inflated), "left over": len(self.left_over), "missing": len(self.missing)}

    def table(self) -> str:
        """Every name, blocks summed up: ``image_encoder.blocks.*.attn.qkv.weight  x12``."""
        lines = [self.title]
        sections: tuple[tuple[str, Iterable[str]], ...] = (
            ("used as published", self.used),
            ("inflated", (f"{name}: {how}" for name, how in self.inflated)),
            ("left over (in the file, not used)", self.left_over),
            ("missing (ours, at their initial values)", self.missing),
        )
        for heading, names in sections:
            patterns = Counter(_NUMBER.sub("*", name) for name in names)
            lines.append(f"  {heading}: {sum(patterns.values())}")
            lines += [f"    {pattern}" + (f"  x{count}" if count > 1 else "") for pattern, count in patterns.items()]
        lines += [f"  note: {note}" for note in self.notes]
        return "\n".join(lines)


def read_foreign_state(path: Path | str, hint: str) -> dict[str, Tensor]:
    """Name to tensor of a ``.safetensors`` file or a torch file (``weights_only=True``: tensors and plain values, never code).

    Args:
        hint: which file to get instead, for the messages.

    Raises:
        CheckpointError: missing, damaged, with Python objects inside, or without named tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"The weights file '{path}' does not exist; check the name, or get {hint}.")
    content = _read_safetensors(path, hint) if path.suffix == ".safetensors" else _read_torch(path, hint)
    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    state = _tensors(content)
    if not state:
        raise CheckpointError(f"'{path}' holds no named tensors; get {hint}.")
    return state


def _read_safetensors(path: Path, hint: str) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"'{path}' is no readable safetensors file ({_one_line(error)}); it is damaged or cut short: get {hint}.") from error


def _read_torch(path: Path, hint: str) -> Any:
    import pickle

    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"'{path}' is damaged, or holds Python objects, which are never loaded; get {hint}.") from error
    except Exception as error:  # bytes of anybody's making: the reader fails in as many ways as there are files
        raise CheckpointError(f"'{path}' is damaged or no weights file ({_one_line(error)}); get {hint}.") from error


def _tensors(content: Any) -> dict[str, Tensor]:
    import torch

    if not isinstance(content, Mapping):
        return {}
    state = {str(name): value for name, value in content.items() if isinstance(value, torch.Tensor)}
    for prefix in _PREFIXES:
        if state and all(name.startswith(prefix) for name in state):
            state = {name[len(prefix) :]: value for name, value in state.items()}
    return state


def _one_line(error: Exception) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:120].rstrip(".")


def assign(model: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Copy values into parameters and buffers of the same name and shape, in the model's own type and place."""
    import torch

    targets = model.state_dict()
    with torch.no_grad():
        for name, value in values.items():
            targets[name].copy_(value)
