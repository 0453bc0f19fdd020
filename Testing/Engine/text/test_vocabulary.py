"""The bundled vocabulary keeps its promises, and the reader refuses everything that would train a wording towards two answers."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from RefSAM3DLib.errors import ConfigError
from RefSAM3DLib.text.vocabulary import Vocabulary
from RefSAM3DLib.text.wording import normalise, swap_sides

NAMES = (
    *("brainstem", "spinal cord", "right parotid gland", "left parotid gland", "esophagus", "larynx", "mandible"),
    *("anterior hippocampus", "posterior hippocampus", "hippocampus", "soft tissue sarcoma"),
)
DEFAULT = Vocabulary.default()


def tiny() -> dict[str, Any]:
    """Two mirrored structures and one without a side."""
    code = ["SCT", "64033007", "Kidney"]

    def entry(name: str, side: str, mirror: str) -> dict[str, Any]:
        return {
            "name": name,
            "side": side,
            "mirror": mirror,
            "base": "kidney" if side else name,
            "synonyms": [f"{name} organ"],
            "held_out": [f"the {name} as such"],
            "colour": [1, 2, 3],
            "terminology": {"category": code, "type": code},
        }

    return {
        "format": 1,
        "templates": {"train": ["{}", "segment {}"], "held_out": ["contour {}"]},
        "structures": [entry("left kidney", "left", "right kidney"), entry("right kidney", "right", "left kidney"), entry("liver", "", "")],
        "distractors": ["spleen"],
    }


def test_default_has_exactly_the_structures_of_the_training_data():
    assert DEFAULT.names == NAMES


def test_default_survives_a_round_trip_through_json():
    assert Vocabulary.from_json(json.dumps(DEFAULT.to_dict())) == DEFAULT
    assert hash(Vocabulary.from_json(DEFAULT.to_dict())) == hash(DEFAULT)


@pytest.mark.parametrize("name", NAMES)
def test_default_has_enough_wordings_of_each_structure(name: str):
    structure = DEFAULT.structure(name)
    assert 6 <= len(structure.synonyms) <= 15
    assert len(structure.held_out) >= 12
    assert len({normalise(wording) for wording in structure.held_out}) == len(structure.held_out)


def test_default_has_enough_templates_and_distractors():
    assert len(DEFAULT.templates) >= 25
    assert len(DEFAULT.held_out_templates) >= 8
    assert len(DEFAULT.distractors) >= 60


def test_held_out_wordings_never_occur_in_a_training_prompt():
    trained = {
        normalise(template.format(wording)) for name in NAMES for wording in DEFAULT.all_wordings(name) for template in DEFAULT.templates
    }
    assert not [wording for structure in DEFAULT.structures for wording in structure.held_out if normalise(wording) in trained]


def test_mirrored_structures_differ_by_their_side_alone():
    left, right = DEFAULT.structure("left parotid gland"), DEFAULT.structure("right parotid gland")
    assert tuple(map(swap_sides, left.synonyms)) == right.synonyms
    assert tuple(map(swap_sides, right.held_out)) == left.held_out
    assert left.terminology["type"] == right.terminology["type"]
    assert left.terminology["modifier"] == ("SCT", "7771000", "Left")


def test_unsided_wordings_survive_a_swap_unchanged():
    for structure in DEFAULT.structures:
        if not structure.side:
            assert [w for w in (*structure.synonyms, *structure.held_out) if swap_sides(w) != w] == []


def test_paired_distractors_come_with_both_sides():
    assert {swap_sides(name) for name in DEFAULT.distractors} == set(DEFAULT.distractors)


def test_colours_can_be_told_apart():
    colours = [structure.colour for structure in DEFAULT.structures]
    distances = [sum(abs(a - b) for a, b in zip(one, other, strict=True)) for i, one in enumerate(colours) for other in colours[:i]]
    assert min(distances) > 40


def test_mirror_of_an_unpaired_structure_is_itself():
    assert DEFAULT.mirror("left parotid gland") == "right parotid gland"
    assert DEFAULT.mirror("larynx") == "larynx"


def test_part_is_told_from_whole_and_side():
    assert [structure.name for structure in DEFAULT.structures if structure.is_part] == ["anterior hippocampus", "posterior hippocampus"]


def test_restricting_keeps_the_order_of_the_file_and_forgets_an_absent_mirror():
    one_side = DEFAULT.restricted_to(["left parotid gland", "brainstem"])
    assert one_side.names == ("brainstem", "left parotid gland")
    assert one_side.mirror("left parotid gland") == "left parotid gland"
    assert Vocabulary.from_json(one_side.to_dict()) == one_side
    assert DEFAULT.restricted_to(NAMES) == DEFAULT


@pytest.mark.parametrize("names", [["liver"], []])
def test_restricting_to_nothing_or_to_strangers_is_refused(names: list[str]):
    with pytest.raises(ConfigError, match="brainstem"):
        DEFAULT.restricted_to(names)


def test_the_tiny_vocabulary_of_this_test_is_valid():
    assert Vocabulary.from_json(tiny()).names == ("left kidney", "right kidney", "liver")


BROKEN = [
    ("format", 2, "format 2"),
    ("surprise", 1, "Unknown key 'surprise'"),
    ("distractors", "spleen", "distractors"),
    ("distractors", ["liver"], "distractor 'liver'"),
    ("structures", [], "at least one structure"),
    ("templates", {"train": ["{}"], "held_out": [], "other": []}, "Unknown key 'other'"),
    ("templates", {"train": ["{}"]}, "'held_out' is missing"),
    ("templates", {"train": [], "held_out": []}, "at least one train template"),
    ("templates", {"train": ["segment"], "held_out": []}, "'segment' must contain '{}'"),
    ("templates", {"train": ["{} {}"], "held_out": []}, "'{} {}' must contain '{}'"),
    ("templates", {"train": ["{} {0}"], "held_out": []}, "no other brace"),
    ("templates", {"train": ["{}"], "held_out": ["{}"]}, "both trained and held out"),
    ("structures.0.name", "", "at least one letter"),
    ("structures.0.name", "liver", "stands twice"),
    ("structures.0.side", "middle", "'middle'"),
    ("structures.0.side", "right", "one left and one right"),
    ("structures.0.mirror", "liver", "names it back"),
    ("structures.0.mirror", "spleen", "names it back"),
    ("structures.0.mirror", None, "to be a text"),
    ("structures.0.synonyms", ["liver organ"], "means both"),
    ("structures.0.synonyms", ["  "], "none of them empty"),
    ("structures.0.synonyms", ["renal", "renal"], "stands twice"),
    ("structures.0.held_out", ["Left-Kidney"], "is trained as 'left kidney'"),
    ("structures.0.colour", [1, 2, 256], "0 to 255"),
    ("structures.0.colour", [1, 2, True], "0 to 255"),
    ("structures.0.colour", "red", "0 to 255"),
    ("structures.0.terminology", {"category": ["SCT", "1", "x"]}, "'type' is missing"),
    ("structures.0.terminology", {"category": "SCT", "type": ["SCT", "1", "x"]}, "'category'"),
    ("structures.0.color", [1, 2, 3], "Unknown key 'color'"),
    ("structures.0", "left kidney", "to be a table"),
]


@pytest.mark.parametrize(("path", "value", "message"), BROKEN, ids=[f"{path}={value!r}"[:40] for path, value, _ in BROKEN])
def test_broken_vocabulary_is_refused_with_a_sentence_that_names_it(path: str, value: Any, message: str):
    data = copy.deepcopy(tiny())
    *parents, last = path.split(".")
    place: Any = data
    for key in parents:
        place = place[int(key)] if key.isdigit() else place[key]
    place[int(last) if last.isdigit() else last] = value
    with pytest.raises(ConfigError) as caught:
        Vocabulary.from_json(data)
    assert message in str(caught.value)
    assert str(caught.value).endswith(".")


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '"text"'])
def test_text_that_is_no_vocabulary_is_refused(text: str):
    with pytest.raises(ConfigError):
        Vocabulary.from_json(text)


def test_unknown_structure_is_refused_with_the_choices():
    with pytest.raises(ConfigError, match=r"'spleen' is not in the vocabulary; it has brainstem, .*sarcoma\."):
        DEFAULT.structure("spleen")
