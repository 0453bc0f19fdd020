"""RefSAM3D: type a structure's name, get its segment. Slicer loads this file; it imports neither torch nor any installed package."""

import contextlib
import logging
import os
import sys

import qt
import slicer
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import ScriptedLoadableModule, ScriptedLoadableModuleTest, ScriptedLoadableModuleWidget
from slicer.util import VTKObservationMixin

# In the source tree the engine lies one folder up; installed, it lies beside this file.
for _folder in (os.path.dirname(os.path.abspath(__file__)), os.path.dirname(os.path.dirname(os.path.abspath(__file__)))):
    if _folder not in sys.path:
        sys.path.append(_folder)


from RefSAM3DLib.resources import resource_path  # noqa: E402


class RefSAM3D(ScriptedLoadableModule):
    """What the module is called and where it is found."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        parent.title = _("RefSAM3D")
        parent.categories = [translate("qSlicerAbstractCoreModule", "Segmentation")]
        parent.dependencies = ["Segmentations"]
        parent.contributors = ["RefSAM3D contributors"]
        parent.helpText = _(
            "Segments structures in CT, MR and PET images from their names: choose a volume, type for example "
            "<i>left parotid gland</i>, and press Segment. The computation runs on this computer. Not for diagnosis."
        )
        parent.acknowledgementText = _(
            "Method: Gao and Lu, RefSAM3D: Adapting the Segment Anything Model with cross-modal references for three-dimensional medical image "
            "segmentation, Artificial Intelligence in Health 2(4), 2025. An independent implementation; the authors have not endorsed it."
        )
        with contextlib.suppress(Exception):  # an icon is no reason not to load
            parent.icon = qt.QIcon(str(resource_path("Icons", "RefSAM3D.png")))
        slicer.app.connect("startupCompleted()", registerSampleData)
        slicer.app.connect("startupCompleted()", watchEdits)


def __getattr__(name):
    """``RefSAM3D.RefSAM3DLogic``, imported when it is asked for: at start-up other modules' node classes may not be there yet."""
    if name == "RefSAM3DLogic":
        from RefSAM3DSlicer.logic import RefSAM3DLogic

        return RefSAM3DLogic
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def registerSampleData():
    """At start-up: a source that is registered after the Sample Data panel was first shown has no button."""
    try:
        from RefSAM3DSlicer import sample_data

        sample_data.register()
    except Exception as error:
        logging.getLogger("refsam3d").warning("The sample data could not be registered: %s", error)


def watchEdits():
    """At start-up: a segmentation that is loaded and edited without a visit to the panel counts as edited too."""
    try:
        from RefSAM3DSlicer import edit_watch

        edit_watch.start()
        slicer.app.connect("aboutToQuit()", edit_watch.stop)
    except Exception as error:
        logging.getLogger("refsam3d").warning("Edits of segments are not watched until the panel is opened: %s", error)


class RefSAM3DWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """A shell around :class:`RefSAM3DSlicer.panel.Panel`."""

    def __init__(self, parent=None):
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic = None
        self.panel = None
        self.ui = None

    def setup(self):
        """Slicer calls this at the first visit."""
        ScriptedLoadableModuleWidget.setup(self)
        from RefSAM3DSlicer.slicer_version import versionProblem

        if versionProblem():
            label = qt.QLabel(versionProblem())
            label.setWordWrap(True)
            self.layout.addWidget(label)
            return
        from RefSAM3DSlicer.logic import RefSAM3DLogic
        from RefSAM3DSlicer.panel import Panel

        widget = slicer.util.loadUI(str(resource_path("UI", "RefSAM3D.ui")))
        self.layout.addWidget(widget)
        self.ui = slicer.util.childWidgetVariables(widget)
        widget.setMRMLScene(slicer.mrmlScene)
        self.logic = RefSAM3DLogic()  # slicer.util.getModuleLogic looks for this attribute
        self.panel = Panel(self.ui, self.logic)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, lambda caller, event: self.panel.setParameterNode(None))
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, lambda caller, event: self._sceneClosed())
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndImportEvent, lambda caller, event: self.panel.sceneImported())
        self.panel.setParameterNode(self.logic.getParameterNode())

    def enter(self):
        """The module becomes visible."""
        if self.panel is not None:
            self.panel.enter()

    def exit(self):
        """Another module becomes visible; a run goes on."""
        if self.panel is not None:
            self.panel.exit()

    def cleanup(self):
        """The widget is destroyed: reload or quit."""
        self.removeObservers()
        if self.panel is not None:
            self.panel.cleanup()

    def onReload(self):
        """Developer's reload: the engine ends, and our packages are imported anew (Slicer reloads this file alone)."""
        if self.panel is not None:
            self.panel.cleanup()
        for name in [n for n in sys.modules if n.split(".")[0] in ("RefSAM3DLib", "RefSAM3DSlicer")]:
            del sys.modules[name]
        ScriptedLoadableModuleWidget.onReload(self)

    def _sceneClosed(self):
        if self.panel is not None:
            self.panel.setParameterNode(self.logic.getParameterNode())


class RefSAM3DTest(ScriptedLoadableModuleTest):
    """The end-to-end scenario, in the desktop and in our own tests alike."""

    def setUp(self):
        slicer.mrmlScene.Clear(0)

    def runTest(self):
        self.setUp()
        self.test_phantom_from_words_to_segments()

    def test_phantom_from_words_to_segments(self):
        """Generated phantom, three prompts, one of them absent; tags, undo of nothing, second prompt without a second encoding."""
        from RefSAM3DSlicer import self_test

        self_test.run(self)
