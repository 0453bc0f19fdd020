"""The structures that a checkpoint was trained to find, and the wordings that it was trained to understand."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from ..errors import ConfigError
from ..resources import resource_path
from .wording import normalise

FORMAT = 1
_SIDES = ("left", "right", "")
_TOP_KEYS = ("format", "templates", "structures", "distractors")
_STRUCTURE_KEYS = ("name", "side", "mirror", "base", "synonyms", "held_out", "colour", "terminology")
_TERMINOLOGY_KEYS = ("category", "type", "modifier")

#: Coding scheme, code value, code meaning, e.g. ("SCT", "4596009", "Larynx").
Code = tuple[str, str, str]


@dataclass(frozen=True)
class Structure:
    """One structure of a vocabulary.

    Attributes:
        name: canonical wording, e.g. "left parotid gland".
        side: "left", "right", or "" for an unpaired structure or one whose side the training data does not record.
        mirror: name of the same structure on the other side; "" without one (or if this vocabulary lacks it).
        base: the noun that is left without side and part: "parotid gland"; "hippocampus" for the anterior hippocampus.
        synonyms: further wordings that are trained on.
        held_out: wordings that are never trained on and never looked up, to measure robustness.
        colour: display colour, 0 to 255 each.
        terminology: DICOM codes under "category", "type" and, for a sided structure, "modifier".
    """

    name: str
    side: str
    mirror: str
    base: str
    synonyms: tuple[str, ...]
    held_out: tuple[str, ...]
    colour: tuple[int, int, int]
    terminology: Mapping[str, Code] = field(hash=False)

    @property
    def is_part(self) -> bool:
        """Whether this is a part of what its base names, as the anterior hippocampus is."""
        return not self.side and normalise(self.name) != normalise(self.base)


@dataclass(frozen=True)
class Vocabulary:
    """Structures, wordings and templates; immutable, and checked when made by :meth:`from_json`.

    ``templates`` and ``held_out_templates`` contain "{}" once each. ``distractors`` are names of structures that are not here.
    """

    structures: tuple[Structure, ...]
    templates: tuple[str, ...]
    held_out_templates: tuple[str, ...]
    distractors: tuple[str, ...]

    @classmethod
    def from_json(cls, source: str | Mapping[str, Any]) -> Vocabulary:
        """Read the format of Docs/design.md, strictly.

        Raises:
            ConfigError: not JSON, an unknown or missing key, an impossible value, or a wording that means two structures.
        """
        if isinstance(source, str):
            try:
                source = json.loads(source)
            except json.JSONDecodeError as error:
                raise ConfigError(f"The vocabulary is not valid JSON: {error}; restore the file or take another checkpoint.") from error
        data = _table(source, "the vocabulary", _TOP_KEYS)
        if data["format"] != FORMAT:
            raise ConfigError(f"The vocabulary has format {data['format']!r}, this version reads {FORMAT}; install a newer RefSAM3D.")
        templates = _table(data["templates"], "the vocabulary's templates", ("train", "held_out"))
        if not isinstance(data["structures"], Sequence) or isinstance(data["structures"], str) or not data["structures"]:
            raise ConfigError("The vocabulary's 'structures' must be a list with at least one structure.")
        vocabulary = cls(
            structures=tuple(_structure(entry) for entry in data["structures"]),
            templates=_strings(templates["train"], "the train templates"),
            held_out_templates=_strings(templates["held_out"], "the held-out templates"),
            distractors=_strings(data["distractors"], "the distractors"),
        )
        _check_templates(vocabulary)
        _check_sides(vocabulary)
        _check_wordings(vocabulary)
        return vocabulary

    @classmethod
    def default(cls) -> Vocabulary:
        """Return the vocabulary that ships with the product."""
        return _bundled()

    def to_dict(self) -> dict[str, Any]:
        """Return what :meth:`from_json` reads, made of plain lists and dictionaries."""
        return {
            "format": FORMAT,
            "templates": {"train": list(self.templates), "held_out": list(self.held_out_templates)},
            "structures": [
                {
                    "name": structure.name,
                    "side": structure.side,
                    "mirror": structure.mirror,
                    "base": structure.base,
                    "synonyms": list(structure.synonyms),
                    "held_out": list(structure.held_out),
                    "colour": list(structure.colour),
                    "terminology": {key: list(code) for key, code in structure.terminology.items()},
                }
                for structure in self.structures
            ],
            "distractors": list(self.distractors),
        }

    def restricted_to(self, names: Iterable[str]) -> Vocabulary:
        """Return the vocabulary of these structures alone, in this order of structures; a mirror that is left out is forgotten.

        Raises:
            ConfigError: a name is not in this vocabulary, or none is given.
        """
        wanted = {self.structure(name).name for name in names}
        if not wanted:
            raise ConfigError("A vocabulary needs at least one structure; name one of " + ", ".join(self.names) + ".")
        kept = (structure for structure in self.structures if structure.name in wanted)
        return replace(self, structures=tuple(s if s.mirror in wanted else replace(s, mirror="") for s in kept))

    @property
    def names(self) -> tuple[str, ...]:
        """Canonical names in the order of the file."""
        return tuple(structure.name for structure in self.structures)

    def structure(self, name: str) -> Structure:
        """Return the structure of a canonical name.

        Raises:
            ConfigError: there is none of this name.
        """
        for structure in self.structures:
            if structure.name == name:
                return structure
        raise ConfigError(f"The structure '{name}' is not in the vocabulary; it has " + ", ".join(self.names) + ".")

    def mirror(self, name: str) -> str:
        """Return the name that takes this one's place when left and right are exchanged: itself unless it is paired."""
        return self.structure(name).mirror or name

    def all_wordings(self, name: str) -> tuple[str, ...]:
        """Return every trained wording of a structure: its name, then its synonyms."""
        structure = self.structure(name)
        return (structure.name, *structure.synonyms)


@lru_cache(maxsize=1)
def _bundled() -> Vocabulary:
    return Vocabulary.from_json(resource_path("Text", "vocabulary.json").read_text(encoding="utf-8"))


def _table(value: Any, where: str, keys: Sequence[str], optional: Sequence[str] = ()) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ConfigError(f"Expected {where} to be a table, found {type(value).__name__}.")
    unknown = [key for key in value if key not in keys]
    if unknown:
        raise ConfigError(f"Unknown key '{unknown[0]}' in {where}; allowed are {', '.join(keys)}.")
    missing = [key for key in keys if key not in value and key not in optional]
    if missing:
        raise ConfigError(f"The key '{missing[0]}' is missing in {where}.")
    return value


def _strings(value: Any, where: str) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, Sequence) or not all(isinstance(item, str) and item.strip() for item in value):
        raise ConfigError(f"Expected {where} to be a list of texts, none of them empty.")
    repeated = {item for item in value if list(value).count(item) > 1}
    if repeated:
        raise ConfigError(f"'{min(repeated)}' stands twice in {where}; remove one.")
    return tuple(value)


def _structure(entry: Any) -> Structure:
    label = f"structure '{entry['name']}'" if isinstance(entry, Mapping) and "name" in entry else "a structure without a name"
    data = _table(entry, label, _STRUCTURE_KEYS)
    for key in ("name", "side", "mirror", "base"):
        if not isinstance(data[key], str):
            raise ConfigError(f"Expected '{key}' of {label} to be a text, found {data[key]!r}.")
    if not normalise(data["name"]) or not normalise(data["base"]):
        raise ConfigError(f"The name and the base of {label} need at least one letter.")
    if data["side"] not in _SIDES:
        raise ConfigError(f"The side of {label} is {data['side']!r}; it must be 'left', 'right' or empty.")
    colour = data["colour"]
    if not isinstance(colour, Sequence) or len(colour) != 3 or not all(type(part) is int and 0 <= part <= 255 for part in colour):
        raise ConfigError(f"The colour of {label} is {colour!r}; it must be three whole numbers from 0 to 255.")
    terminology = _table(data["terminology"], f"the terminology of {label}", _TERMINOLOGY_KEYS, optional=("modifier",))
    for key, code in terminology.items():
        if isinstance(code, str) or not isinstance(code, Sequence) or len(code) != 3 or not all(isinstance(part, str) for part in code):
            raise ConfigError(f"The code '{key}' of {label} must be three texts: scheme, value, meaning.")
    return Structure(
        name=data["name"],
        side=data["side"],
        mirror=data["mirror"],
        base=data["base"],
        synonyms=_strings(data["synonyms"], f"the synonyms of {label}"),
        held_out=_strings(data["held_out"], f"the held-out wordings of {label}"),
        colour=(colour[0], colour[1], colour[2]),
        terminology={key: (code[0], code[1], code[2]) for key, code in terminology.items()},
    )


def _check_templates(vocabulary: Vocabulary) -> None:
    for template in (*vocabulary.templates, *vocabulary.held_out_templates):
        if template.count("{}") != 1 or template.replace("{}", "").count("{") or template.replace("{}", "").count("}"):
            raise ConfigError(f"The template '{template}' must contain '{{}}' once and no other brace.")
    if not vocabulary.templates:
        raise ConfigError("The vocabulary needs at least one train template, such as '{}'.")
    both = set(vocabulary.templates) & set(vocabulary.held_out_templates)
    if both:
        raise ConfigError(f"The template '{min(both)}' is both trained and held out; remove it from one list.")


def _check_sides(vocabulary: Vocabulary) -> None:
    known: dict[str, Structure] = {}
    for structure in vocabulary.structures:
        if structure.name in known:
            raise ConfigError(f"The structure '{structure.name}' stands twice in the vocabulary; remove one.")
        known[structure.name] = structure
    for structure in vocabulary.structures:
        if not structure.mirror:
            continue
        other = known.get(structure.mirror)
        if other is None or other.mirror != structure.name:
            raise ConfigError(f"'{structure.name}' names '{structure.mirror}' as its mirror; that must be a structure that names it back.")
        if {structure.side, other.side} != {"left", "right"}:
            raise ConfigError(f"'{structure.name}' and its mirror '{other.name}' must be one left and one right structure.")


def _check_wordings(vocabulary: Vocabulary) -> None:
    """Refuse a vocabulary that would train one wording towards two answers."""
    owner: dict[str, str] = {}
    for structure in vocabulary.structures:
        for wording in (structure.name, *structure.synonyms):
            if owner.setdefault(normalise(wording), structure.name) != structure.name:
                raise ConfigError(f"The wording '{wording}' means both '{owner[normalise(wording)]}' and '{structure.name}'; remove one.")
    for structure in vocabulary.structures:
        for wording in structure.held_out:
            if normalise(wording) in owner:
                raise ConfigError(f"The held-out wording '{wording}' is trained as '{owner[normalise(wording)]}'; remove it from one list.")
    for name in vocabulary.distractors:
        if normalise(name) in owner:
            raise ConfigError(f"The distractor '{name}' is a wording of '{owner[normalise(name)]}'; remove it from one list.")
