"""A Slicer application for tests: the real MRML of slicer-core under small stand-ins for ``slicer.app`` and ``slicer.modules``.

``start()`` gives the scene alone (no Qt); ``start_gui()`` adds ``qt``, ``ctk`` and the qMRML widgets on PySide6. One process, one start.
What is not here raises AttributeError on purpose: a test then shows that the product relies on something that nobody imitates.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import tempfile
import types
from pathlib import Path

import slicer
import slicer.util

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
for _folder in (ROOT / "RefSAM3D", ROOT, HERE):
    if str(_folder) not in sys.path:
        sys.path.append(str(_folder))


class CoreModule:
    """``slicer.modules.<name>``."""

    def __init__(self, name, logic=None, path=""):
        self.name, self.path, self._logic, self._widget = name, path, logic, None

    def logic(self):
        return self._logic

    def widgetRepresentation(self):
        return self._widget


class Signals:
    """String-named signals of objects that are no QObject here."""

    def __init__(self):
        self._slots = {}

    def connect(self, signal, slot):
        self._slots.setdefault(signal, []).append(slot)
        return True

    def disconnect(self, signal, slot):
        self._slots[signal].remove(slot)
        return True

    def emit(self, signal, *arguments):
        for slot in list(self._slots.get(signal, [])):
            slot(*arguments)


class Application:
    """Only what the product and slicer.util touch."""

    applicationName, temporaryPath = "Slicer", tempfile.gettempdir()
    slicerHome = tempfile.gettempdir()
    majorVersion, minorVersion, revision = 5, 13, "31053"

    def __init__(self, scene, logic):
        self._scene, self._logic, self.signals, self.testing = scene, logic, Signals(), True
        self.overrideCursors = []

    def mrmlScene(self):
        return self._scene

    def applicationLogic(self):
        return self._logic

    def testingEnabled(self):
        return self.testing

    def commandOptions(self):
        return types.SimpleNamespace(noMainWindow=True, testingEnabled=self.testing)

    def connect(self, signal, slot):
        return self.signals.connect(signal, slot)

    def disconnect(self, signal, slot):
        return self.signals.disconnect(signal, slot)

    def processEvents(self, *_arguments):
        pass

    def pauseRender(self):
        pass

    def resumeRender(self):
        pass

    def layoutManager(self):
        return None

    def coreIOManager(self):
        return InputOutput()

    def setOverrideCursor(self, cursor):
        self.overrideCursors.append(cursor)

    def restoreOverrideCursor(self):
        self.overrideCursors.pop()  # one that was never set is a fault


class InputOutput:
    """``qSlicerCoreIOManager`` over the real storage nodes."""

    def loadNodes(self, fileType, properties, loadedNodes=None, userMessages=None):
        filename, scene = properties["fileName"], slicer.mrmlScene
        name = properties.get("name") or os.path.basename(filename).split(".")[0]
        if fileType == "VolumeFile":
            options = (1 if properties.get("labelmap") else 0) | (4 if properties.get("singleFile") else 0)
            node = slicer.modules.volumes.logic().AddArchetypeVolume(filename, name, options)
        else:
            kinds = {
                "SegmentationFile": ("vtkMRMLSegmentationNode", "vtkMRMLSegmentationStorageNode"),
                "TransformFile": ("vtkMRMLTransformNode", "vtkMRMLTransformStorageNode"),
            }
            kind, storage = kinds[fileType]
            reader = scene.AddNewNodeByClass(storage)
            reader.SetFileName(filename)
            node = scene.AddNewNodeByClass(kind, name)
            if reader.ReadData(node):
                node.SetAndObserveStorageNodeID(reader.GetID())
            else:
                scene.RemoveNode(node)
                scene.RemoveNode(reader)
                node = None
        if node and loadedNodes is not None:
            loadedNodes.AddItem(node)
        return node is not None


def terminology_folder():
    """Slicer's terminology files, which trame-slicer ships."""
    spec = importlib.util.find_spec("trame_slicer")
    return None if spec is None else os.path.join(os.path.dirname(spec.origin), "resources", "terminologies")


def start():
    """The scene and the logics; no Qt."""
    import slicer_core.MRMLCore
    import slicer_core.vtkSegmentationCore

    sys.modules.setdefault("MRMLCorePython", slicer_core.MRMLCore)
    sys.modules.setdefault("vtkSegmentationCorePython", slicer_core.vtkSegmentationCore)
    scene, application = slicer.vtkMRMLScene(), slicer.vtkSlicerApplicationLogic()
    application.SetMRMLScene(scene)
    application.GetColorLogic().SetMRMLScene(scene)
    application.GetColorLogic().AddDefaultColorNodes()
    modules = types.ModuleType("slicer.modules")
    sys.modules["slicer.modules"] = modules
    slicer.modules, slicer.mrmlScene, slicer.app = modules, scene, Application(scene, application)

    def add(name, logic, title, share=None):
        if share:
            logic.SetModuleShareDirectory(share)
        logic.SetMRMLScene(scene)
        if hasattr(logic, "SetMRMLApplicationLogic"):
            logic.SetMRMLApplicationLogic(application)
        application.SetModuleLogic(title, logic)
        setattr(modules, name, CoreModule(title, logic))

    application.SetModuleLogic("Colors", application.GetColorLogic())
    modules.colors = CoreModule("Colors", application.GetColorLogic())
    add("terminologies", slicer.vtkSlicerTerminologiesModuleLogic(), "Terminologies", terminology_folder())
    add("volumes", slicer.vtkSlicerVolumesLogic(), "Volumes")
    add("segmentations", slicer.vtkSlicerSegmentationsModuleLogic(), "Segmentations")
    add("subjecthierarchy", slicer.vtkSlicerSubjectHierarchyModuleLogic(), "SubjectHierarchy")
    add("markups", slicer.vtkSlicerMarkupsLogic(), "Markups")
    add("transforms", slicer.vtkSlicerTransformLogic(), "Transforms")
    add("sequences", slicer.vtkSlicerSequencesLogic(), "Sequences")
    slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(scene, True)
    import slicer_stubs

    slicer_stubs.install()
    return scene


def start_gui():
    """``start()`` and Qt: returns the QApplication, ``qt`` and ``ctk``."""
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
    from PySide6 import QtWidgets

    application = QtWidgets.QApplication.instance() or QtWidgets.QApplication(["SlicerHarness"])
    application.setStyle("Fusion")
    start()
    import pythonqt_shim
    import stub_widgets

    qt = pythonqt_shim.build_qt()
    ctk = stub_widgets.install(qt)
    settings = os.path.join(tempfile.mkdtemp(), "settings.ini")
    slicer.app.processEvents = lambda *_arguments: application.processEvents()
    slicer.app.userSettings = lambda: qt.QSettings(settings, qt.QSettings.IniFormat)
    slicer.app.settings = slicer.app.userSettings
    slicer.util.mainWindow = lambda *_arguments, **_keywords: None
    import effect_host

    effect_host.install()
    return application, qt, ctk


class ModuleParent:
    """What qSlicerScriptedLoadableModule is to a module's constructor."""

    def __init__(self, path):
        self.path, self.title, self.hidden, self.widgetRepresentationCreationEnabled = path, "", False, True
        self.name = Path(path).stem


def load_module_file(path):
    """Import a scripted module file as Slicer's factory does and make its module object."""
    path = str(path)
    name = os.path.splitext(os.path.basename(path))[0]
    setattr(slicer.modules, name.lower(), CoreModule(name, path=path))
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    setattr(slicer.modules, name + "Instance", getattr(module, name)(ModuleParent(path)))
    return module


def open_widget(module):
    """First visit of a module: its widget, set up and entered."""
    import qt

    name = module.__name__
    parent = slicer.qMRMLWidget()
    parent.setLayout(qt.QVBoxLayout())
    parent.setMRMLScene(slicer.mrmlScene)
    widget = getattr(module, name + "Widget")(parent)
    widget.setup()
    setattr(slicer.modules, name + "Widget", widget)
    widget.enter()
    return widget
