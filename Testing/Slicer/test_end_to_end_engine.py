"""The real engine in its real worker under the real logic: random weights for the plumbing, the default weights for the scenario."""

from __future__ import annotations

import hashlib
import importlib.util
import time

import numpy as np
import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed: pip install -r Testing/requirements-slicer.txt")
pytest.importorskip("PySide6", reason="PySide6-Essentials is not installed")
pytest.importorskip("torch", reason="torch is not installed")
gui = pytest.importorskip("gui_cases")

import slicer  # noqa: E402
import vtk  # noqa: E402
from RefSAM3DLib.models_registry import DEFAULT_NAME, models_folder  # noqa: E402
from RefSAM3DLib.text.vocabulary import Vocabulary  # noqa: E402
from RefSAM3DSlicer import sample_data, session  # noqa: E402
from RefSAM3DSlicer.logic import RefSAM3DLogic  # noqa: E402
from RefSAM3DSlicer.runs import EngineChoice  # noqa: E402
from RefSAM3DSlicer.task import TaskState  # noqa: E402
from tiny_checkpoint import write_tiny_pair  # noqa: E402

DEFAULT = models_folder() / f"{DEFAULT_NAME}.safetensors"
needs_default = pytest.mark.skipif(not DEFAULT.is_file(), reason=f"the default weights Resources/Models/{DEFAULT.name} are not there yet")


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
    """A tiny model that nobody trained: every number is nonsense, every path is real."""
    helper = gui.slicer_app.ROOT / "Testing" / "Engine" / "batch_doubles" / "batch_random_model.py"
    spec = importlib.util.spec_from_file_location("batch_random_model", helper)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.write_random_checkpoint(tmp_path_factory.mktemp("Gewichte ä") / "tiny.safetensors")


def phantom():
    return sample_data.loadPhantom(spacing_xyz_mm=(4.0, 4.0, 5.0))


def test_random_weights_go_all_the_way_and_the_second_prompt_is_faster(randomWeights):
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
    assert Vocabulary.from_json(task.engine.vocabulary).names == Vocabulary.default().names
    assert [o.result.resolved for o in task.outcomes][:4] == ["left parotid gland", "mandible minus larynx", "left parotid gland", "right parotid gland"]
    assert task.outcomes[-1].result.verdict == "unknown"
    fractions = [fraction for fraction, _stage in seen]
    assert fractions == sorted(fractions)
    drawn = [o for o in task.outcomes if o.segmentID]
    node = task.sink.segmentationNode
    for outcome in drawn:
        array = slicer.util.arrayFromSegmentBinaryLabelmap(node, outcome.segmentID, volume)
        assert array.sum() * 0.08 == pytest.approx(outcome.result.volumeMl, rel=1e-4)
    began = time.monotonic()
    again = logic.segment(volume, "larynx", node, choice=choice)
    print(f"first {task.run.elapsedS:.2f} s with start, second {time.monotonic() - began:.2f} s; stages {sorted({s for _f, s in seen})}")
    assert again.state is TaskState.DONE
    assert again.run.elapsedS < task.run.elapsedS / 2


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
    task = RefSAM3DLogic().segment(volume, "mandible", roi=box, choice=EngineChoice(model=str(randomWeights), device="cpu"))
    assert task.state is TaskState.DONE, task.failure
    if task.outcomes[0].segmentID:
        assert task.outcomes[0].result.box[1] <= k // 2


@needs_default
@pytest.mark.slow
def test_self_test_of_the_module_with_the_default_weights():
    gui.module.RefSAM3DTest().runTest()


def test_missing_default_weights_are_named():
    if DEFAULT.is_file():
        pytest.skip("the default weights are there")
    volume, _truth = phantom()
    task = RefSAM3DLogic().segment(volume, "larynx")
    assert task.state is TaskState.FAILED
    assert DEFAULT.name in task.failure.message
