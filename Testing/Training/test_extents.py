"""The field of view that a model file says it was trained on is that of the real images."""

import dataclasses

import pytest
import torch
from refsam3d_training.cases import Case, GridImage
from refsam3d_training.export import with_extents

from RefSAM3DLib.resources import named_config

EMPTY = GridImage(torch.zeros(1, 1, 1), torch.zeros(1, 1, 1))


def case(name, grid, *extent_mm):
    return Case(name, grid, "ct", {1: "brainstem"}, [], extent_mm, EMPTY, EMPTY)


@pytest.fixture
def model():
    """Two grids."""
    tiny = named_config("test_tiny")
    return dataclasses.replace(tiny, grids=(tiny.grids[0], dataclasses.replace(tiny.grids[0], name="limb")))


def test_each_axis_has_the_least_and_the_greatest_extent_of_the_grids_real_images(model):
    cases = [
        case("set/a", "head_neck", 200.0, 150.0, 180.0),
        case("set/b", "head_neck", 240.0, 140.0, 190.0),
        case("phantom/1000", "head_neck", 900.0, 10.0, 900.0),
        case("set/c", "limb", 50.0, 60.0, 70.0),
    ]
    found = with_extents(model, cases)
    assert found.grid("head_neck").extent_mm == ((200.0, 140.0, 180.0), (240.0, 150.0, 190.0))
    assert found.grid("limb").extent_mm == ((50.0, 60.0, 70.0), (50.0, 60.0, 70.0))
    assert dataclasses.replace(found, grids=model.grids) == model


def test_a_grid_that_saw_phantoms_alone_keeps_what_it_said(model):
    assert with_extents(model, [case("phantom/1000", "head_neck", 900.0, 10.0, 900.0)]) == model
