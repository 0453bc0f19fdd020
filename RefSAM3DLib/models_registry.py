"""The models that are known by name: ``Resources/Models/models.json``, and where their files are."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import CheckpointError, ConfigError
from .resources import resource_path

if TYPE_CHECKING:
    from .text.vocabulary import Vocabulary

DEFAULT_NAME = "refsam3d-small"
REGISTRY_FILE = "models.json"


@dataclass(frozen=True)
class ModelEntry:
    """One model of the registry.

    Attributes:
        name: for ``--model``. file: name in Resources/Models, without a folder.
        url: where the file can be fetched; "" for one that ships.
        size_bytes, sha256: of the file. licence: of the weights, with the terms of their training data.
        structures: canonical names that it finds.
    """

    name: str
    file: str
    url: str
    size_bytes: int
    sha256: str
    licence: str
    structures: tuple[str, ...]

    @property
    def path(self) -> Path:
        """Where the file is, or would be."""
        return models_folder() / self.file

    @property
    def is_installed(self) -> bool:
        """True if a file of the right size is there; see :meth:`verify` for its content."""
        return self.path.is_file() and self.path.stat().st_size == self.size_bytes

    def verify(self) -> bool:
        """True if the file is there and has the hash of the registry."""
        from .checkpoint import file_sha256

        return self.is_installed and file_sha256(self.path) == self.sha256


def models_folder() -> Path:
    """The folder of the weights that ship."""
    return resource_path("Models")


def read_registry(path: Path | None = None) -> list[ModelEntry]:
    """Read and check the registry.

    Args:
        path: another file than the one that ships.

    Raises:
        ConfigError: not JSON, a key is unknown, missing or impossible, or a name stands twice.
    """
    path = path or resource_path("Models", REGISTRY_FILE)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"The list of models '{path}' cannot be read ({error}); restore it from the installation.") from error
    if not isinstance(content, list):
        raise ConfigError(f"The list of models '{path}' must be a list, found {type(content).__name__}.")
    entries = [_entry(item, number, path) for number, item in enumerate(content, 1)]
    names = [entry.name for entry in entries]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ConfigError(f"The model '{repeated[0]}' stands twice in '{path}'; remove one.")
    return entries


def find_model(name_or_file: str | Path = "") -> Path:
    """The weights file of a registered name, of a file, or by default of the model that ships.

    Raises:
        CheckpointError: neither a file nor a name, or the named model is not installed; with where to get it.
    """
    text = str(name_or_file) or DEFAULT_NAME
    path = Path(text)
    if path.is_file():
        return path
    if path.suffix == ".safetensors" or len(path.parts) > 1:
        raise CheckpointError(f"The weights file '{text}' does not exist; check its name, or name a model (refsam3d models lists them).")
    bundled = models_folder() / f"{text}.safetensors"
    if bundled.is_file():
        return bundled
    if text == DEFAULT_NAME:
        raise CheckpointError(f"The default weights '{bundled}' are missing; install RefSAM3D again, or give a checkpoint with --model.")
    entries = {entry.name: entry for entry in read_registry()}
    if text not in entries:
        near = get_close_matches(text, entries, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"known are {', '.join(entries) or 'none'}."
        raise CheckpointError(f"The model '{text}' is neither a file nor a known name; {hint}")
    entry = entries[text]
    if not entry.path.is_file():
        source = f"fetch it from {entry.url} and save it as '{entry.path}'" if entry.url else "install RefSAM3D again"
        raise CheckpointError(f"The model '{text}' is not installed; {source}.")
    return entry.path


def checkpoint_vocabulary(path: Path) -> Vocabulary:
    """The vocabulary in a checkpoint's header, without its weights and without torch.

    Raises:
        CheckpointError: damaged, or no checkpoint.
    """
    from safetensors import SafetensorError, safe_open

    from .text.vocabulary import Vocabulary

    try:
        with safe_open(path, framework="np") as file:
            header = file.metadata() or {}
        return Vocabulary.from_json(json.loads(header["vocabulary"]))
    except KeyError as error:
        raise CheckpointError(f"'{path}' has no vocabulary, so it is no RefSAM3D checkpoint; choose another file.") from error
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"'{path}' is no readable checkpoint ({error}); it is damaged or cut short: get it again.") from error


def _entry(item: Any, number: int, path: Path) -> ModelEntry:
    where = f"entry {number} of '{path}'"
    if not isinstance(item, Mapping):
        raise ConfigError(f"Expected {where} to be a table, found {type(item).__name__}.")
    known = [field.name for field in fields(ModelEntry)]
    for key in item:
        if key not in known:
            near = get_close_matches(str(key), known, n=1)
            raise ConfigError(f"Unknown key '{key}' in {where}; " + (f"did you mean '{near[0]}'?" if near else f"allowed: {', '.join(known)}."))
    missing = [key for key in known if key not in item]
    if missing:
        raise ConfigError(f"The key '{missing[0]}' is missing in {where}.")
    for key in ("name", "file", "url", "sha256", "licence"):
        if not isinstance(item[key], str) or (not item[key].strip() and key != "url"):
            raise ConfigError(f"'{key}' in {where} is {item[key]!r}; it must be a text.")
    if not re.fullmatch(r"[\w.-]+\.safetensors", item["file"]):
        raise ConfigError(f"'file' in {where} is {item['file']!r}; it must be the name of a .safetensors file without a folder.")
    if not re.fullmatch(r"[0-9a-f]{64}", item["sha256"]):
        raise ConfigError(f"'sha256' in {where} is {item['sha256']!r}; it must be 64 lower-case hexadecimal digits.")
    if item["url"] and not item["url"].startswith("https://"):
        raise ConfigError(f"'url' in {where} is {item['url']!r}; it must begin with https:// or be empty.")
    if type(item["size_bytes"]) is not int or item["size_bytes"] < 1:
        raise ConfigError(f"'size_bytes' in {where} is {item['size_bytes']!r}; it must be a positive whole number.")
    structures = item["structures"]
    if isinstance(structures, str) or not isinstance(structures, Sequence) or not all(isinstance(s, str) and s for s in structures):
        raise ConfigError(f"'structures' in {where} must be a list of names.")
    return ModelEntry(**{**item, "structures": tuple(structures)})
