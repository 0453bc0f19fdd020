"""Pictures of results: read back from the file, because a mirrored or stretched picture looks as convincing as a right one."""

from __future__ import annotations

import itertools
import subprocess
import sys

import numpy as np
import pytest

from RefSAM3DLib.errors import OutputError
from RefSAM3DLib.geometry import Geometry, reorient
from RefSAM3DLib.overlay import _best_slices, _crop, overlay_figure
from RefSAM3DLib.types import Modality, PromptResult, Verdict, Volume

pytest.importorskip("matplotlib")
from matplotlib.image import imread

RED, BLUE = (255, 0, 0), (0, 0, 255)


def result(mask, name="brainstem", colour=RED, verdict=Verdict.PRESENT):
    return PromptResult(name, name, verdict, 0.9, 0.9, mask, float(mask.sum()) / 1000, None, 0.1, colour=colour)


def volume_of(array, matrix=None):
    """A CT whose axes grow to Left, Posterior, Superior unless told otherwise."""
    return Volume(array, Geometry(array.shape, np.diag([-1.0, -1.0, 1.0, 1.0]) if matrix is None else matrix), Modality.CT)


@pytest.fixture
def blocks():
    """Two blocks: red lies right, anterior and superior of blue."""
    array = np.zeros((60, 60, 60), dtype=np.int16)
    red, blue = np.zeros(array.shape, dtype=bool), np.zeros(array.shape, dtype=bool)
    red[34:54, 8:26, 6:24] = True
    blue[6:38, 24:50, 22:52] = True  # the blocks share a slice along each axis, so that every plane shows both
    return array, red, blue


def panels(path):
    """(h, w, 3) picture of each panel, found by the columns between them, which have the colour of the page."""
    picture = imread(path)[:, :, :3]
    page = np.abs(picture - picture[2, 2]).max(axis=2) < 0.01
    columns = ~page.all(axis=0)
    starts = np.flatnonzero(columns[1:] & ~columns[:-1]) + 1
    ends = np.flatnonzero(columns[:-1] & ~columns[1:]) + 1
    wide = [(a, b) for a, b in zip(starts, ends, strict=False) if b - a > 150][:3]
    return [picture[:, a:b] for a, b in wide]


def middle_of(panel, channel):
    """Mean (row, column) of what is clearly of one primary colour."""
    others = [c for c in range(3) if c != channel]
    return np.argwhere(panel[:, :, channel] - panel[:, :, others].max(axis=2) > 0.3).mean(axis=0)


def test_patient_right_is_on_the_left_anterior_on_top_and_superior_on_top(tmp_path, blocks):
    array, red, blue = blocks
    overlay_figure(volume_of(array), [result(red), result(blue, "larynx", BLUE)], tmp_path / "a.png")
    axial, coronal, sagittal = panels(tmp_path / "a.png")
    r, b = middle_of(axial, 0), middle_of(axial, 2)
    assert r[1] < b[1] - 20, "right of the patient belongs on the left"
    assert r[0] < b[0] - 20, "anterior belongs on top"
    r, b = middle_of(coronal, 0), middle_of(coronal, 2)
    assert r[1] < b[1] - 20
    assert r[0] < b[0] - 20, "superior belongs on top"
    r, b = middle_of(sagittal, 0), middle_of(sagittal, 2)
    assert r[1] < b[1] - 20, "the nose belongs on the left"
    assert r[0] < b[0] - 20


def test_every_axis_order_of_the_same_patient_gives_the_same_picture(tmp_path, blocks):
    array, red, blue = blocks
    array[10:30, 30:50, 10:20] = 200
    base = volume_of(array)
    overlay_figure(base, [result(red), result(blue, "larynx", BLUE)], tmp_path / "base.png")
    expected = (tmp_path / "base.png").read_bytes()
    choices = list(itertools.product(itertools.permutations(range(3)), itertools.product((False, True), repeat=3)))
    for order, flip in choices[1::7]:
        turned = Volume(reorient(array, order, flip), base.geometry.permuted(order, flip), Modality.CT)
        masks = [reorient(m, order, flip) for m in (red, blue)]
        overlay_figure(turned, [result(masks[0]), result(masks[1], "larynx", BLUE)], tmp_path / "turned.png", overwrite=True)
        assert (tmp_path / "turned.png").read_bytes() == expected, (order, flip)


def test_a_cube_in_millimetres_is_a_square_on_any_grid(tmp_path):
    array = np.zeros((20, 60, 80), dtype=np.int16)  # 5 x 2 x 1 mm
    mask = np.zeros(array.shape, dtype=bool)
    mask[6:14, 20:40, 20:60] = True  # 40 mm each way
    overlay_figure(volume_of(array, np.diag([-1.0, -2.0, 5.0, 1.0])), [result(mask)], tmp_path / "a.png")
    sizes = []
    for panel in panels(tmp_path / "a.png"):
        hit = np.argwhere(panel[:, :, 0] - panel[:, :, 1:].max(axis=2) > 0.15)
        sizes.append(np.ptp(hit, axis=0) + 1)
    assert len(sizes) == 3
    assert np.ptp(np.array(sizes).ravel()) <= 6, sizes


def test_each_plane_lies_where_it_shows_the_most_structures():
    a, b, c = (np.zeros((20, 20, 20), dtype=bool) for _ in range(3))
    a[4:9], b[7:12], c[15:18] = True, True, True
    assert _best_slices([a, b, c], (20, 20, 20))[0] in (7, 8)


def test_the_crop_keeps_a_margin_and_stays_in_the_volume():
    mask = np.zeros((100, 200, 300), dtype=bool)
    mask[2:60, 50:150, 100:200] = True
    crop = _crop([mask], mask.shape, (2.0, 2.0, 1.0))
    assert crop[0] == slice(0, 75)
    assert crop[1] == slice(35, 165)
    assert crop[2] == slice(70, 230)


def test_nothing_found_still_gives_a_picture_with_the_verdicts(tmp_path, blocks):
    array, red, _ = blocks
    nothing = np.zeros_like(red)
    unknown = PromptResult("liver $x$", "", Verdict.UNKNOWN, float("nan"), float("nan"), nothing, 0.0, None, 0.0)
    overlay_figure(volume_of(array), [result(nothing, verdict=Verdict.ABSENT), unknown], tmp_path / "a.png", title="nothing")
    assert len(panels(tmp_path / "a.png")) == 3


def test_a_reference_is_drawn_in_white(tmp_path, blocks):
    array, red, _ = blocks
    overlay_figure(volume_of(array), [result(red)], tmp_path / "a.png")
    overlay_figure(volume_of(array), [result(red)], tmp_path / "b.png", truth={"brainstem": np.roll(red, 8, axis=2)})
    a, b = (panels(tmp_path / name)[0] for name in ("a.png", "b.png"))
    white = [(p.min(axis=2) > 0.5).sum() for p in (a, b)]
    assert white[1] > white[0] + 50


def test_an_oblique_volume_of_mr_is_drawn(tmp_path, blocks):
    array, red, _ = blocks
    angle = np.deg2rad(20.0)
    matrix = np.eye(4)
    matrix[:2, :2] = [[-np.cos(angle), np.sin(angle)], [-np.sin(angle), -np.cos(angle)]]
    volume = Volume(array.astype(np.float32) + np.arange(60), Geometry(array.shape, matrix), Modality.MR)
    overlay_figure(volume, [result(red)], tmp_path / "a.png")
    assert len(panels(tmp_path / "a.png")) == 3


def test_thin_volumes_and_whole_volume_masks_are_drawn(tmp_path):
    array = np.zeros((1, 40, 50), dtype=np.int16)
    overlay_figure(volume_of(array), [result(np.ones(array.shape, dtype=bool))], tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 1000


def test_an_existing_picture_is_kept_unless_told(tmp_path, blocks):
    array, red, _ = blocks
    (tmp_path / "a.png").write_text("mine")
    with pytest.raises(OutputError, match="exists"):
        overlay_figure(volume_of(array), [result(red)], tmp_path / "a.png")
    assert (tmp_path / "a.png").read_text() == "mine"
    overlay_figure(volume_of(array), [result(red)], tmp_path / "a.png", overwrite=True)
    assert (tmp_path / "a.png").read_bytes()[1:4] == b"PNG"


def test_no_source_nor_metadata_gets_into_the_file(tmp_path, blocks):
    array, red, _ = blocks
    plain, named = volume_of(array), volume_of(array)
    named.source, named.metadata = "/data/DOE^JANE.nrrd", {"PatientName": "DOE^JANE"}
    overlay_figure(plain, [result(red)], tmp_path / "a.png")
    overlay_figure(named, [result(red)], tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_matplotlib_is_loaded_on_use_only_and_without_pyplot():
    code = (
        "import sys, inspect, RefSAM3DLib.overlay as o; assert 'matplotlib' not in sys.modules; assert 'pyplot' not in inspect.getsource(o)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_matplotlib_the_message_says_how_to_get_it(monkeypatch, tmp_path, blocks):
    array, red, _ = blocks
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(OutputError, match="pip install matplotlib"):
        overlay_figure(volume_of(array), [result(red)], tmp_path / "a.png")
