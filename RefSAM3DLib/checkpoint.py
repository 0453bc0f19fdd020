"""Weights on disk: safetensors with everything a result needs to be understood in the header. Nothing is unpickled."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .atomic import with_usual_mode, write_aside
from .config import ModelConfig
from .errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from .modeling.refsam3d import RefSAM3D
    from .text.vocabulary import Vocabulary

FORMAT_VERSION = 1
TOKEN_TABLE = "text_encoder.tower.token_embedding.weight"
_KIND, _ADAPTER_KIND = "refsam3d-checkpoint", "refsam3d-adapter"


@dataclass(frozen=True)
class Calibration:
    """Presence logit to probability, per grid: ``sigmoid(scale * logit + bias)``, and the thresholds of the verdict.

    present_from, absent_below: probabilities; in between a structure is uncertain. mask_threshold: probability of a voxel.
    least_confidence: per structure, the mean probability of an outline's voxels below which it is unusual; structures without one
    are not checked.
    """

    scale: float = 1.0
    bias: float = 0.0
    present_from: float = 0.7
    absent_below: float = 0.3
    mask_threshold: float = 0.5
    least_confidence: Mapping[str, float] = field(default_factory=dict)


@dataclass
class Checkpoint:
    """A model as it is stored.

    Attributes:
        config, vocabulary: to rebuild network and language. tokens: CLIP ids with a row (None: CLIP's own table).
        state: parameter name to tensor, half precision on disk.
        calibration: per grid. card: model card values (data, licences, citations, scores per structure, limits, cost).
        sha256: of the file ("" before it is written). path: where it came from.
        answers_for: structures that the adapter in it was tuned on (without an adapter: none).
    """

    config: ModelConfig
    vocabulary: Vocabulary
    tokens: tuple[int, ...] | None
    state: dict[str, Tensor]
    calibration: dict[str, Calibration] = field(default_factory=dict)
    card: dict[str, Any] = field(default_factory=dict)
    sha256: str = ""
    path: str = ""
    answers_for: tuple[str, ...] = ()

    def build(self) -> RefSAM3D:
        """Network in single precision and evaluation mode.

        Raises:
            CheckpointError: names or shapes do not fit the configuration.
        """
        from .modeling.build import build_model

        model = build_model(self.config)
        try:
            model.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in self.state.items()})
        except RuntimeError as error:
            first = str(error).splitlines()[1:2]
            reason = " ".join(first).strip()
            raise CheckpointError(f"The weights of '{self.path}' do not fit their own configuration ({reason}); get the file again.") from error
        return model.eval().requires_grad_(False)


def save_checkpoint(checkpoint: Checkpoint, path: Path, overwrite: bool = False) -> str:
    """Write in half precision; returns the file's sha256."""
    import dataclasses

    from safetensors.torch import save_file

    header = {
        "kind": _KIND,
        "format_version": str(FORMAT_VERSION),
        "config": json.dumps(checkpoint.config.to_dict()),
        "vocabulary": json.dumps(checkpoint.vocabulary.to_dict()),
        "tokens": json.dumps(None if checkpoint.tokens is None else list(checkpoint.tokens)),
        "calibration": json.dumps({k: dataclasses.asdict(v) for k, v in checkpoint.calibration.items()}),
        "card": json.dumps(checkpoint.card),
    }
    tensors = {k: (v.half() if v.is_floating_point() else v).contiguous().cpu() for k, v in checkpoint.state.items()}
    with write_aside(path, overwrite) as aside:
        save_file(tensors, aside, metadata=header)
        with_usual_mode(aside)
    return file_sha256(path)


def load_checkpoint(path: Path | str) -> Checkpoint:
    """Read and check a checkpoint.

    Raises:
        CheckpointError: missing, damaged, foreign, or from a newer version; one sentence with the next step.
    """
    from .text.vocabulary import Vocabulary

    header, tensors = _read(Path(path), _KIND, "checkpoint")
    try:
        return Checkpoint(
            config=ModelConfig.from_dict(json.loads(header["config"])),
            vocabulary=Vocabulary.from_json(json.loads(header["vocabulary"])),
            tokens=None if header["tokens"] == "null" else tuple(json.loads(header["tokens"])),
            state=tensors,
            calibration={k: Calibration(**v) for k, v in json.loads(header["calibration"]).items()},
            card=json.loads(header["card"]),
            sha256=file_sha256(Path(path)),
            path=str(path),
        )
    except (KeyError, ValueError, TypeError, AttributeError, ConfigError) as error:
        raise CheckpointError(f"The header of '{path}' is damaged ({_reason(error)}); get the file again.") from error


def save_adapter(
    state: Mapping[str, Tensor], base_sha256: str, answers_for: Sequence[str], card: Mapping[str, Any], extra: Mapping[str, Any], path: Path,
    overwrite: bool = False,
) -> str:  # fmt: skip
    """Write the trained parameters alone, with the hash of the base they belong to.

    ``answers_for``: structures that it was tuned on. ``extra``: vocabulary, config, tokens or calibration, where they differ from the base's.
    """
    from safetensors.torch import save_file

    header = {
        "kind": _ADAPTER_KIND,
        "format_version": str(FORMAT_VERSION),
        "base_sha256": base_sha256,
        "answers_for": json.dumps(list(answers_for)),
        "card": json.dumps(dict(card)),
        "extra": json.dumps(dict(extra)),
    }
    with write_aside(path, overwrite) as aside:
        save_file({k: (v.half() if v.is_floating_point() else v).contiguous().cpu() for k, v in state.items()}, aside, metadata=header)
        with_usual_mode(aside)
    return file_sha256(path)


def apply_adapter(base: Checkpoint, path: Path | str) -> Checkpoint:
    """The base with an adapter's parameters in place of its own: what answers for the structures that the adapter was tuned on.

    Raises:
        CheckpointError: the adapter belongs to another base, or has parameters that the base lacks.
    """
    import dataclasses

    from .text.vocabulary import Vocabulary

    header, tensors = _read(Path(path), _ADAPTER_KIND, "adapter")
    if header.get("base_sha256") != base.sha256:
        raise CheckpointError(
            f"The adapter '{path}' was trained on the base {header.get('base_sha256', '?')[:12]}, not on {base.sha256[:12]} "
            f"('{base.path}'); load it with its own base."
        )
    if "answers_for" not in header:
        raise CheckpointError(f"The adapter '{path}' was written before adapters said which structures they answer for; fine-tune it again.")
    unknown = sorted(set(tensors) - set(base.state))
    if unknown:
        raise CheckpointError(f"The adapter '{path}' has {len(unknown)} parameters that its base lacks, first '{unknown[0]}'; get the file again.")
    for name, value in tensors.items():
        # An adapter with a name of its own brings rows for words that its base does not know.
        grown = name == TOKEN_TABLE and '"tokens"' in header.get("extra", "") and len(value) >= len(base.state[name])
        if value.shape != base.state[name].shape and not (grown and value.shape[1:] == base.state[name].shape[1:]):
            raise CheckpointError(
                f"In the adapter '{path}', '{name}' has shape {tuple(value.shape)}, its base has {tuple(base.state[name].shape)}; get the file again."
            )
    changes: dict[str, Any] = {"state": {**base.state, **tensors}}
    try:
        extra = json.loads(header.get("extra", "{}"))
        answers_for = json.loads(header["answers_for"])
        if not isinstance(answers_for, list) or not all(isinstance(name, str) for name in answers_for):
            raise TypeError("answers_for is no list of names")
        changes["answers_for"] = tuple(answers_for)
        changes["card"] = {**base.card, "adapter": json.loads(header["card"])}
        if "vocabulary" in extra:
            changes["vocabulary"] = Vocabulary.from_json(extra["vocabulary"])
        if "config" in extra:
            changes["config"] = ModelConfig.from_dict(extra["config"])
        if "tokens" in extra:
            changes["tokens"] = tuple(extra["tokens"])
        if "calibration" in extra:
            changes["calibration"] = {k: Calibration(**v) for k, v in extra["calibration"].items()}
    except (KeyError, ValueError, TypeError, AttributeError, ConfigError) as error:
        raise CheckpointError(f"The header of '{path}' is damaged ({_reason(error)}); get the file again.") from error
    return dataclasses.replace(base, **changes)


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")


def file_sha256(path: Path) -> str:
    """Hash of a file."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _header(path: Path) -> dict[str, str]:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise CheckpointError(f"The weights file '{path}' does not exist; check the name, or install the model first (`refsam3d models` lists them).")
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"'{path}' is no readable safetensors file ({error}); it is damaged or cut short: get it again.") from error


def _read(path: Path, kind: str, noun: str) -> tuple[dict[str, str], dict[str, Tensor]]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    header = _header(path)
    if header.get("kind") != kind:
        found = header.get("kind", "another program's weights")
        raise CheckpointError(f"'{path}' is no RefSAM3D {noun} (it says '{found}'); choose a {noun} file.")
    version = header.get("format_version", "0")
    if not version.isdigit() or int(version) > FORMAT_VERSION:
        raise CheckpointError(f"'{path}' has format version {version}, this program reads up to {FORMAT_VERSION}; update RefSAM3D.")
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"'{path}' is damaged ({error}); get it again.") from error
    # On Windows a file that tensors are mapped from can be neither replaced nor removed.
    return header, {name: tensor.clone() for name, tensor in tensors.items()} if os.name == "nt" else tensors
