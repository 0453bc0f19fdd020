"""Real slice and 3D views with a result on the phantom, rendered without a display: is the mask where the organ is? Pictures for Docs/.

Needs Mesa's EGL (Testing/apt-packages.txt). Writes to Docs/images only with REFSAM3D_SCREENSHOTS=1 and
the default weights (what is shown there was found by them), else to a temporary folder.
"""

from __future__ import annotations

import os
import types
from pathlib import Path

import numpy as np
import pytest

slicer = pytest.importorskip("slicer", reason="slicer-core is not installed: pip install -r Testing/requirements-slicer.txt")
pytest.importorskip("slicer_layer_dm", reason="slicer-layer-dm is not installed: pip install --no-deps -r Testing/requirements-slicer-no-deps.txt")
core = pytest.importorskip("trame_slicer.core", reason="trame-slicer is not installed: pip install -r Testing/requirements-slicer.txt")
pytestmark = pytest.mark.apt

ROOT = Path(__file__).resolve().parents[2]
SIZE = 480


@pytest.fixture(scope="module")
def application():
    import slicer_stubs

    app = core.SlicerApp()
    slicer.mrmlScene = app.scene
    holder = lambda logic: types.SimpleNamespace(logic=lambda: logic)  # noqa: E731
    terminologies = slicer.vtkSlicerTerminologiesModuleLogic()
    from slicer_app import terminology_folder

    terminologies.SetModuleShareDirectory(terminology_folder())
    terminologies.SetMRMLScene(app.scene)
    slicer.modules = types.SimpleNamespace(
        volumes=holder(app.volumes_logic), segmentations=holder(app.segmentations_logic), terminologies=holder(terminologies)
    )
    slicer.app = types.SimpleNamespace(pauseRender=lambda: 0, resumeRender=lambda: 0)
    slicer_stubs.install()
    return app


def engineMasks(volume, names):
    """What the default model finds in the phantom; {} without it."""
    from RefSAM3DLib.models_registry import DEFAULT_NAME, models_folder

    if not (models_folder() / f"{DEFAULT_NAME}.safetensors").is_file():
        return {}
    from RefSAM3DLib import Geometry, Modality, RefSAM3DEngine, Volume
    from RefSAM3DSlicer.volume_bridge import ijkToWorld, shapeOf

    image = Volume(slicer.util.arrayFromVolume(volume), Geometry(shapeOf(volume), ijkToWorld(volume)), Modality.CT, "file")
    return {r.resolved: r.mask for r in RefSAM3DEngine.from_default(device="cpu").segment(image, names) if r.mask.any()}


@pytest.fixture(scope="module")
def shown(application):
    """The phantom, and its structures written by our writer: found by the default model, or the true ones where that is not there yet."""
    from RefSAM3DLib.text.vocabulary import Vocabulary
    from RefSAM3DSlicer.sample_data import loadPhantom
    from RefSAM3DSlicer.segmentation_writer import SegmentationWriter, createSegmentation

    volume, truth = loadPhantom()
    volume.GetDisplayNode().SetAndObserveColorNodeID("vtkMRMLColorTableNodeGrey")
    node = createSegmentation(volume)
    writer, ids = SegmentationWriter(volume, node), {}
    found = engineMasks(volume, list(truth))
    for name, mask in (found or truth).items():
        structure = Vocabulary.default().structure(name)
        spans = [np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis))) for axis in range(3)]
        box = tuple(int(v) for s in spans for v in (s[0], s[-1] + 1))
        part = mask[box[0] : box[1], box[2] : box[3], box[4] : box[5]].astype(np.uint8)
        ids[name] = writer.write(part, box, name, structure.colour, dict(structure.terminology), {})
    node.CreateClosedSurfaceRepresentation()
    node.GetDisplayNode().SetOpacity2DFill(0.5)
    return volume, node, ids, found or truth, bool(found)


@pytest.fixture(scope="module")
def views(application, shown):
    from trame_slicer.views import DirectViewFactory, ViewLayoutDefinition, ViewProps, ViewType

    application.view_manager.register_factory(DirectViewFactory(do_render_offscreen=True))
    kinds = {
        "Red": (ViewType.SLICE_VIEW, ViewProps(label="R", orientation="Axial", color="#F34A33", group=0)),
        "Green": (ViewType.SLICE_VIEW, ViewProps(label="G", orientation="Coronal", color="#6EB04B", group=0)),
        "View1": (ViewType.THREE_D_VIEW, ViewProps(label="1", group=0)),
    }
    made = {tag: application.view_manager.create_view(ViewLayoutDefinition(tag, kind, props)) for tag, (kind, props) in kinds.items()}
    for view in made.values():
        view.render_window().SetSize(SIZE, SIZE)
    application.display_manager.show_volume_in_slice_background(shown[0], 0)
    application.display_manager.reset_views(0)
    return made


def pixels(view):
    from vtk.util import numpy_support
    from vtkmodules.vtkRenderingCore import vtkWindowToImageFilter

    view.render()
    grabber = vtkWindowToImageFilter()
    grabber.SetInput(view.render_window())
    grabber.ReadFrontBufferOff()
    grabber.Update()
    image = grabber.GetOutput()
    width, height, _ = image.GetDimensions()
    return numpy_support.vtk_to_numpy(image.GetPointData().GetScalars()).reshape(height, width, -1)[::-1, :, :3].copy()


def centre(view, node, segment_id):
    r, a, s = node.GetSegmentCenterRAS(segment_id)
    slicer.vtkMRMLSliceNode.JumpAllSlices(slicer.mrmlScene, r, a, s, slicer.vtkMRMLSliceNode.CenteredJumpSlice)


def test_the_mask_is_drawn_over_the_organ_in_the_views(shown, views, tmp_path):
    from PIL import Image

    volume, node, ids, truth, isReal = shown
    axial = views["Red"]
    for name in [n for n in ("left parotid gland", "right parotid gland", "mandible") if n in ids]:
        centre(axial, node, ids[name])
        node.GetDisplayNode().SetAllSegmentsVisibility(False)
        without = pixels(axial).astype(int)
        node.GetDisplayNode().SetSegmentVisibility(ids[name], True)
        drawn = np.abs(pixels(axial).astype(int) - without).sum(axis=2) > 20
        assert drawn.sum() > 200, name
        rows, columns = np.nonzero(drawn)
        toRas = slicer.mrmlScene.GetNodeByID("vtkMRMLSliceNodeRed").GetXYToRAS()
        x, y = columns.mean(), SIZE - 1 - rows.mean()
        seen = np.array(toRas.MultiplyPoint((x, y, 0, 1))[:3])
        k = round((node.GetSegmentCenterRAS(ids[name])[2] - origin(volume)[2]) / volume.GetSpacing()[2])
        where = np.argwhere(truth[name][k]).mean(axis=0)
        ras = origin(volume) + np.array([-where[1] * volume.GetSpacing()[0], -where[0] * volume.GetSpacing()[1], 0])
        np.testing.assert_allclose(seen[:2], ras[:2], atol=4.0, err_msg=name)
    node.GetDisplayNode().SetAllSegmentsVisibility(True)
    centre(axial, node, ids["left parotid gland"])
    views["View1"].reset_view()
    for tag in ("Red", "Green"):
        sliceNode = slicer.mrmlScene.GetNodeByID(f"vtkMRMLSliceNode{tag}")
        width, height, depth = sliceNode.GetFieldOfView()
        sliceNode.SetFieldOfView(0.6 * width, 0.6 * height, depth)
    picture = np.concatenate([pixels(view) for view in views.values()], axis=1)
    folder = ROOT / "Docs" / "images" if isReal and os.environ.get("REFSAM3D_SCREENSHOTS") else tmp_path
    folder.mkdir(exist_ok=True)
    Image.fromarray(picture).save(folder / "views.png")
    assert picture.std() > 10


def origin(volume):
    return np.array(volume.GetOrigin())
