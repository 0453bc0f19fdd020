"""Configurations are strict: a key that nobody reads is a mistake, and the error names the right one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from RefSAM3DLib.config import ModelConfig
from RefSAM3DLib.errors import ConfigError
from RefSAM3DLib.resources import resource_path

GRID = {"name": "g", "spacing_mm": 1, "tile_dhw": [16, 16, 16], "coarse_spacing_mm": 2.0, "coarse_tile_dhw": [16, 16, 16], "modalities": ["ct"]}
GRID |= {"structures": ["brainstem"]}


@pytest.mark.parametrize("path", sorted(resource_path("Configs").glob("*.json")), ids=lambda path: path.stem)
def test_shipped_configuration_survives_a_round_trip(path: Path) -> None:
    config = ModelConfig.load(path)
    assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"name": "m", "imag": {}}, r"Unknown configuration key 'imag'; did you mean 'image'\?"),
        ({"name": "m", "image": {"patchsize": 8}}, r"'image\.patchsize'; did you mean 'patch_size'\?"),
        ({"name": "m", "image": {"zzz": 8}}, r"'image\.zzz'; known keys: .*window_size"),
        ({}, "incomplete.*name"),
        ({"name": 3}, r"'name' must be of type str, not 3"),
        ({"name": "m", "image": 3}, r"'image\.' must be a table of keys, not int"),
        ({"name": "m", "image": {"dim": 12.5}}, r"'image\.dim' must be of type int, not 12\.5"),
        ({"name": "m", "image": {"dim": True}}, r"'image\.dim' must be of type int, not True"),
        ({"name": "m", "image": {"position_grid": [1, 2]}}, r"'image\.position_grid' needs 3 values, not 2"),
        ({"name": "m", "image": {"position_grid": 8}}, r"'image\.position_grid' must be a list, not 8"),
        ({"name": "m", "image": {"patch_size": 12}}, "Patch size 12"),
        ({"name": "m", "image": {"patch_size": 2}}, "Patch size 2 .*use 4, 8 or 16"),
        ({"name": "m", "image": {"patch_size": 0}}, "Patch size 0"),
        ({"name": "m", "decoder": {"kind": "fast"}}, "Decoder kind 'fast' is unknown; use 'paper' or 'cached'"),
        ({"name": "m", "grids": [{**GRID, "tile_dhw": [16, 20, 16]}]}, r"Tile \(16, 20, 16\) of grid 'g' is no multiple of the patch size 8"),
        ({"name": "m", "grids": [{**GRID, "spacing": 1}]}, r"'grids\.spacing'; did you mean 'spacing_mm'\?"),
        ({"name": "m", "grids": [{"name": "g"}]}, "incomplete.*spacing_mm"),
    ],
)
def test_mistake_is_named_with_the_way_out(values: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        ModelConfig.from_dict(values)


def test_numbers_and_lists_become_floats_and_tuples() -> None:
    grid = ModelConfig.from_dict({"name": "m", "grids": [GRID]}).grids[0]
    assert isinstance(grid.spacing_mm, float)
    assert grid.tile_dhw == (16, 16, 16)
    assert grid.structures == ("brainstem",)


def test_scale_embeddings_are_two_per_grid() -> None:
    config = ModelConfig.from_dict({"name": "m", "grids": [GRID, {**GRID, "name": "h", "structures": ["larynx"]}]})
    assert config.domains == 4
    assert [config.domain(g, c) for g in ("g", "h") for c in (False, True)] == [0, 1, 2, 3]
    assert config.grid_of("larynx").name == "h"
    assert config.grid("g").structures == ("brainstem",)
    assert ModelConfig("m").domains == 1
    with pytest.raises(ConfigError, match="Grid 'x' is unknown; this model has g, h"):
        config.grid("x")
    with pytest.raises(ConfigError, match="No grid of model 'm' holds 'liver'"):
        config.grid_of("liver")


@pytest.mark.parametrize("text", ["", "{", "[1]", "\x00"])
def test_file_that_is_no_configuration_is_one_sentence(tmp_path: Path, text: str) -> None:
    path = tmp_path / "c.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        ModelConfig.load(path)
    assert "\n" not in str(caught.value)
