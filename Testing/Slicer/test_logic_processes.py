"""The logic over real MRML with real worker processes: what a script sees."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed: pip install slicer-core==5.13.31053.0")
pytest.importorskip("PySide6", reason="PySide6-Essentials is not installed (the timers of the runner)")

import slicer_app

application, qt, ctk = slicer_app.start_gui()

import slicer  # noqa: E402
import vtk  # noqa: E402
from mrml_cases import addTransform, addVolume, bright  # noqa: E402
from RefSAM3DLib.errors import InputError, PromptError, RefSAM3DError  # noqa: E402
from RefSAM3DSlicer import session  # noqa: E402
from RefSAM3DSlicer.logic import RefSAM3DLogic  # noqa: E402
from RefSAM3DSlicer.review import cli_task  # noqa: E402
from RefSAM3DSlicer.runs import EngineChoice  # noqa: E402
from RefSAM3DSlicer.task import TaskState  # noqa: E402

HARNESS = str(Path(slicer_app.__file__).parent)
PAROTID = "left parotid gland"


@pytest.fixture(autouse=True)
def logic():
    session.workerArguments[:] = ["--engine", "fake_engine:create"]
    session.workerEnvironment.clear()
    session.workerEnvironment.update({"PYTHONPATH": os.pathsep.join([session.root(), HARNESS]), "OMP_NUM_THREADS": "1"})
    yield RefSAM3DLogic()
    session.stop()
    slicer.mrmlScene.Clear(0)


def slow(step="0.1"):
    session.workerEnvironment["FAKE_STEP_S"] = step


def spin(until, timeout=120):
    end = time.monotonic() + timeout
    while not until() and time.monotonic() < end:
        application.processEvents()
        time.sleep(0.003)
    assert until()


def names(node):
    segmentation = node.GetSegmentation()
    return [segmentation.GetNthSegment(n).GetName() for n in range(segmentation.GetNumberOfSegments())]


def voxels(node, segmentID, volume):
    return np.array(slicer.util.arrayFromSegmentBinaryLabelmap(node, segmentID, volume))


@pytest.mark.parametrize("moved", [False, True])
def test_one_call_from_a_script_gives_the_segment(logic, moved):
    volume = addVolume()
    if moved:
        volume.SetAndObserveTransformNodeID(addTransform().GetID())
    task = logic.segment(volume, [PAROTID, "larynx", "mandible", "unknown thing"])
    assert task.state is TaskState.DONE, task.failure
    node = task.sink.segmentationNode
    assert names(node) == [PAROTID, "mandible"]
    assert [o.result.verdict for o in task.outcomes] == ["present", "absent", "uncertain", "unknown"]
    np.testing.assert_array_equal(voxels(node, task.outcomes[0].segmentID, volume), bright()[1])
    value = vtk.reference("")
    assert node.GetSegmentation().GetSegment(task.outcomes[0].segmentID).GetTag("RefSAM3D.ModelSHA256", value)
    assert len(str(value)) == 64


def test_nothing_found_makes_no_segmentation(logic):
    task = logic.segment(addVolume(), "larynx")
    assert task.state is TaskState.DONE
    assert task.sink.segmentationNode is None
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == 0


def test_second_prompt_is_fast_because_the_image_is_known(logic):
    slow("0.05")
    volume = addVolume()
    began = time.monotonic()
    logic.segment(volume, PAROTID)
    first, began = time.monotonic() - began, time.monotonic()
    task = logic.segment(volume, "mandible", task_node(volume))
    second = time.monotonic() - began
    assert task.outcomes[0].result.details["cached"]
    assert second < first / 2


def task_node(volume):
    return slicer.util.getNodesByClass("vtkMRMLSegmentationNode")[0]


def test_existing_region_and_probability(logic):
    volume = addVolume(matrix=np.eye(4))
    task = logic.segment(volume, PAROTID)
    node = task.sink.segmentationNode
    roi = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "ROI")
    roi.SetCenter(20, 17, 20)
    roi.SetSize(80, 80, 20)  # k from 10 on
    task = logic.segment(volume, PAROTID, node, existing="subtract", roi=roi, probability=True)
    left = bright()[1].copy()
    left[10:] = 0
    np.testing.assert_array_equal(voxels(node, task.outcomes[0].segmentID, volume), left)
    assert names(node) == [PAROTID]
    (probability,) = [slicer.mrmlScene.GetNodeByID(i) for i in task.sink.probabilityIDs]
    assert slicer.util.arrayFromVolume(probability).max() == 90


@pytest.mark.parametrize(
    ("prompts", "error"),
    [([], PromptError), ("", PromptError), (["larynx", "  "], PromptError), ("a\u202eb", PromptError), ("x" * 900, PromptError)],
)
def test_prompts_that_are_none_are_refused_before_anything_starts(logic, prompts, error):
    with pytest.raises(error):
        logic.segment(addVolume(), prompts)
    assert not session.engineRunner().isAlive


def test_bad_volumes_and_two_runs_at_once(logic):
    with pytest.raises(InputError, match="No volume"):
        logic.segment(None, PAROTID)
    volume = addVolume()
    task = logic.segment(volume, PAROTID, wait=False)
    with pytest.raises(RefSAM3DError, match="running already"):
        logic.segment(volume, PAROTID)
    spin(lambda: task.isOver)
    assert task.state is TaskState.DONE


@pytest.mark.parametrize("event", ["cancel", "scene", "volume", "segmentation", "replaced", "reload"])
def test_whatever_happens_during_a_run_nothing_is_written_and_nothing_crashes(logic, event):
    slow()
    volume = addVolume()
    target = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "target")
    ends = []
    task = logic.segment(volume, PAROTID, target, wait=False, onEnd=ends.append)
    spin(lambda: task.fraction > 0.15)
    pid = session.engineRunner().processId
    began = time.monotonic()
    if event == "cancel":
        logic.cancel()
    elif event == "scene":
        slicer.mrmlScene.Clear(0)
    elif event == "volume":
        slicer.mrmlScene.RemoveNode(volume)
    elif event == "segmentation":
        slicer.mrmlScene.RemoveNode(target)
    elif event == "replaced":
        volume.SetAndObserveImageData(vtk.vtkImageData())
        logic.cancel()
    else:
        session.stop()
    spin(lambda: task.isOver)
    assert time.monotonic() - began < 1.0
    assert task.state is TaskState.CANCELLED
    assert ends == [task]
    if event in ("cancel", "volume", "replaced", "reload"):
        assert names(target) == []
    if event == "volume":
        assert "'CT' was removed" in task.failure.message
    if event == "reload":
        assert not os.path.exists(f"/proc/{pid}")
    again = logic.segment(addVolume(name="second"), PAROTID)
    assert again.state is TaskState.DONE


@pytest.mark.parametrize("word", ["crash", "killed", "memory", "bug"])
def test_a_failing_engine_leaves_the_segmentation_as_it_was(logic, word):
    volume = addVolume()
    node = logic.segment(volume, PAROTID).sink.segmentationNode
    before = node.GetSegmentation().GetMTime()
    task = logic.segment(volume, [PAROTID, word], node)
    assert task.state is TaskState.FAILED
    assert task.failure.advice
    assert (names(node), node.GetSegmentation().GetMTime()) == ([PAROTID], before)
    assert logic.segment(volume, "mandible", node).state is TaskState.DONE


def test_missing_model_and_missing_gpu_say_what_to_do(logic):
    task = logic.segment(addVolume(), PAROTID, choice=EngineChoice(model="/nowhere/Modell ä.safetensors"))
    assert "/nowhere/Modell ä.safetensors" in task.failure.message
    task = logic.segment(addVolume(), PAROTID, choice=EngineChoice(device="cuda"))
    assert task.failure.category == "device"


def test_a_progress_callback_that_processes_events_is_harmless(logic):
    seen = []
    task = logic.segment(addVolume(), PAROTID, probability=True, onProgress=lambda t: (application.processEvents(), seen.append(t.stage)))
    assert task.state is TaskState.DONE, task.failure
    assert len(seen) > 3


@pytest.mark.parametrize("how", ["moved", "cropped", "transform"])
def test_an_image_that_gets_another_grid_during_the_run_is_not_written_on(logic, how):
    """A transform moves image and result alike; another grid would put the voxels elsewhere."""
    volume = addVolume()
    if how == "transform":
        volume.SetAndObserveTransformNodeID(addTransform(30).GetID())
    target = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "target")
    changed = []

    def change(task):
        if not changed and task.fraction > 0.3:
            changed.append(how)
            if how == "moved":
                volume.SetOrigin(1.0, 2.0, 3.0)
            elif how == "cropped":
                slicer.util.updateVolumeFromArray(volume, np.zeros((12, 40, 50), np.int16))
            else:
                volume.SetAndObserveTransformNodeID(addTransform(-50).GetID())

    task = logic.segment(volume, PAROTID, target, onProgress=change)
    assert changed
    if how == "transform":
        assert task.state is TaskState.DONE
        return
    assert task.state is TaskState.FAILED
    assert str(task.failure) == "The image 'CT' got another voxel grid while it was segmented, and the result does not fit that. " + (
        "Your segmentation was not changed. Segment it again."
    )
    assert names(target) == []


@pytest.mark.parametrize("end", ["done", "failed", "cancelled"])
def test_the_end_of_one_run_may_begin_the_next_and_wait_for_it(logic, end):
    volume, following, cancelled = addVolume(), [], []

    def onProgress(task):
        if end == "cancelled" and task.fraction > 0.15 and not cancelled:
            cancelled.append(task)
            task.cancel()

    def onEnd(task):
        following.append(session.engineRunner().isBusy)
        following.append(logic.segment(volume, "mandible", wait=False))
        deadline = time.monotonic() + 60
        while not following[-1].isOver and time.monotonic() < deadline:  # task.wait(), which would never return
            session.engineRunner().wait(following[-1].run, timeout=1.0)
            following[-1].tick()

    task = logic.segment(volume, [PAROTID, "crash"] if end == "failed" else PAROTID, wait=False, onProgress=onProgress, onEnd=onEnd)
    spin(lambda: task.isOver and len(following) == 2)
    assert task.state is TaskState(end)
    assert following[0] is False
    assert following[1].state is TaskState.DONE


def test_child_processes_import_nothing_from_the_folder_that_slicer_was_started_in(logic, tmp_path, monkeypatch):
    (tmp_path / "RefSAM3DLib").mkdir()
    (tmp_path / "RefSAM3DLib" / "__init__.py").write_text("raise ImportError('the wrong one')")
    (tmp_path / "tokenize.py").write_text("raise ImportError('the wrong one')")
    monkeypatch.chdir(tmp_path)
    assert logic.segment(addVolume(), PAROTID).state is TaskState.DONE
    ends = []
    cli_task.CommandTask(["--version"], ends.append)
    spin(lambda: ends)
    assert (ends[0].exitCode, ends[0].failure) == (0, "")
