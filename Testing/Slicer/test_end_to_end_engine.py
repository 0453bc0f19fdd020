"""The real engine in its real worker under the real logic: random weights for the plumbing, the default weights for the scenario."""

from __future__ import annotations

import hashlib
import os

import numpy as np
import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed: pip install -r Testing/requirements-slicer.txt")
pytest.importorskip("PySide6", reason="PySide6-Essentials is not installed")

import gui_cases as gui
import slicer
import vtk
from RefSAM3DLib.text.vocabulary import Vocabulary
from RefSAM3DSlicer import sample_data, session
from RefSAM3DSlicer.logic import RefSAM3DLogic
from RefSAM3DSlicer.runs import EngineChoice
from RefSAM3DSlicer.task import TaskState
from tiny_checkpoint import STRUCTURES, write_tiny_pair


@pytest.fixture(autouse=True)
def realEngine():
    session.stop()
    session.workerArguments.clear()
    session.workerEnvironment.clear()
    session.workerEnvironment["OMP_NUM_THREADS"] = "1"
    yield
    session.stop()
    slicer.mrmlScene.Clear(0)


@pytest.fixture(scope="module")
def randomWeights(tmp_path_factory):
    """A tiny model that nobody trained and that draws whatever it is asked for: every number is nonsense, every path is real."""
    return write_tiny_pair(tmp_path_factory.mktemp("weights ä"), ("larynx",))[0]


def phantom():
    return sample_data.loadPhantom(spacing_xyz_mm=(4.0, 4.0, 5.0))


def test_random_weights_go_all_the_way_and_a_prompt_again_encodes_nothing(randomWeights):
    volume, _truth = phantom()
    logic, choice = RefSAM3DLogic(), EngineChoice(model=str(randomWeights), device="cpu")
    seen = []
    task = logic.segment(
        volume,
        ["left parotid gland", "mandible minus larynx", "left and right parotid glands", "flux capacitor"],
        choice=choice,
        probability=True,
        onProgress=lambda t: seen.append((t.fraction, t.stage)),
    )
    assert task.state is TaskState.DONE, task.failure
    assert task.engine.modelName == "test-tiny"
    assert set(Vocabulary.from_json(task.engine.vocabulary).names) == set(STRUCTURES)
    assert [o.result.resolved for o in task.outcomes][:4] == ["left parotid gland", "mandible minus larynx", "left parotid gland", "right parotid gland"]
    assert task.outcomes[-1].result.verdict == "unknown"
    fractions = [fraction for fraction, _stage in seen]
    assert fractions == sorted(fractions)
    node = task.sink.segmentationNode
    for outcome in task.outcomes[:4]:
        array = slicer.util.arrayFromSegmentBinaryLabelmap(node, outcome.segmentID, volume)
        assert array.sum() * 0.08 == pytest.approx(outcome.result.volumeMl, rel=1e-4)
    again = logic.segment(volume, "left parotid gland", node, choice=choice)
    assert again.state is TaskState.DONE, again.failure
    first, second = (outcome.result.details["encoding_s"] for outcome in (task.outcomes[0], again.outcomes[0]))
    assert second < first / 10


def test_segments_say_which_network_answered(tmp_path):
    volume, _truth = phantom()
    model, adapter = write_tiny_pair(tmp_path, ("larynx",))
    choice = EngineChoice(model=str(model), adapter=str(adapter), device="cpu")
    task = RefSAM3DLogic().segment(volume, ["larynx", "mandible"], choice=choice)
    assert task.state is TaskState.DONE, task.failure
    assert [o.result.details["answered_by"] for o in task.outcomes] == ["adapter", "base"]
    told = []
    for outcome in task.outcomes:
        segment, tag = task.sink.segmentationNode.GetSegmentation().GetSegment(outcome.segmentID), vtk.reference("")
        told += [str(tag) for name in ("Adapter", "AdapterSHA256") if segment.GetTag(f"RefSAM3D.{name}", tag)]
    assert told == ["site.safetensors", hashlib.sha256(adapter.read_bytes()).hexdigest(), "", ""]


def test_damaged_and_foreign_weights_are_named(tmp_path, randomWeights):
    volume, _truth = phantom()
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(randomWeights.read_bytes()[:5000])
    task = RefSAM3DLogic().segment(volume, "larynx", choice=EngineChoice(model=str(damaged), device="cpu"))
    assert task.state is TaskState.FAILED
    assert task.failure.category == "checkpoint", task.failure
    assert "damaged.safetensors" in task.failure.message
    constant = slicer.util.addVolumeFromArray(np.zeros((8, 9, 10), np.int16), name="constant")
    task = RefSAM3DLogic().segment(constant, "larynx", choice=EngineChoice(model=str(randomWeights), device="cpu"))
    assert task.failure.category == "input"
    assert "same value" in task.failure.message


def test_region_of_interest_limits_the_result(randomWeights):
    volume, _truth = phantom()
    k = volume.GetImageData().GetDimensions()[2]
    box = (0, k // 2, 0, 1000, 0, 1000)
    logic, choice = RefSAM3DLogic(), EngineChoice(model=str(randomWeights), device="cpu")
    inside, whole = (logic.segment(volume, "mandible", roi=roi, choice=choice) for roi in (box, None))
    assert inside.state is whole.state is TaskState.DONE, inside.failure or whole.failure
    assert inside.outcomes[0].result.box[1] <= k // 2 < whole.outcomes[0].result.box[1]


@pytest.mark.slow
def test_self_test_of_the_module_with_the_default_weights():
    gui.module.RefSAM3DTest().runTest()


def test_missing_default_weights_are_named(tmp_path):
    """In the worker, which is a process of its own."""
    program = "from RefSAM3DLib import engine\nfrom RefSAM3DLib.worker import default_engine as create\nengine.DEFAULT_MODEL = ('Models', 'lost.safetensors')\n"
    (tmp_path / "without_weights.py").write_text(program, encoding="utf-8")
    session.workerArguments[:] = ["--engine", "without_weights:create"]
    session.workerEnvironment["PYTHONPATH"] = os.pathsep.join([session.root(), str(tmp_path)])
    volume, _truth = phantom()
    task = RefSAM3DLogic().segment(volume, "larynx")
    assert task.state is TaskState.FAILED
    assert "lost.safetensors' is missing; the installation is incomplete" in task.failure.message
