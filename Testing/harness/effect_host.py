"""Host for Python Segment Editor effects: the scripted effect re-created over the REAL vtkSlicerSegmentEditorLogic.

Masking, overwrite modes, undo and geometry are Slicer's own C++; the order of calls into the effect is the desktop's recorded one.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import types

import slicer

LOGIC = slicer.vtkSlicerSegmentEditorLogic
MODES = (LOGIC.ModificationModeSet, LOGIC.ModificationModeAdd, LOGIC.ModificationModeRemove, LOGIC.ModificationModeRemoveAll)


class EffectFactory:
    _instance = None

    def __init__(self):
        self.effects = []

    @classmethod
    def instance(cls):
        cls._instance = cls._instance or cls()
        return cls._instance

    def registerEffect(self, effect):
        self.effects.append(effect)
        return True

    def registeredEffects(self):
        return list(self.effects)


class qSlicerSegmentEditorScriptedEffect:
    """The C++ class; no attribute can be added to it."""

    ModificationModeSet, ModificationModeAdd, ModificationModeRemove, ModificationModeRemoveAll = range(4)
    _own = (
        *("name", "title", "perSegment", "requireSegments", "showEffectCursorInSliceView", "showEffectCursorInThreeDView"),
        *("_py", "_node", "_editor", "_frame", "_layout", "_active", "calls"),
    )

    def __init__(self, parent=None):
        self.name = self.title = ""
        self.perSegment, self.requireSegments = True, True
        self.showEffectCursorInSliceView, self.showEffectCursorInThreeDView = True, False
        self._py = self._node = self._editor = self._frame = self._layout = None
        self._active, self.calls = False, []

    def __setattr__(self, name, value):
        if name not in self._own:
            raise AttributeError(f"'{name}' does not exist on qSlicerSegmentEditorScriptedEffect")
        object.__setattr__(self, name, value)

    def setPythonSource(self, path):
        assert "\\" not in path
        module_name, class_name = os.path.basename(os.path.dirname(path)), os.path.splitext(os.path.basename(path))[0]
        module = sys.modules.get(module_name)
        if module is None or not hasattr(module, class_name):
            spec = importlib.util.spec_from_file_location(module_name, path)
            module = importlib.util.module_from_spec(spec)
            sys.modules[module_name] = module
            spec.loader.exec_module(module)
        self._py = getattr(module, class_name)(self)
        return True

    def self(self):
        return self._py

    def call(self, method, *arguments):
        """Calls that Slicer makes; a missing method is no error."""
        self.calls.append(method)
        function = getattr(self._py, method, None)
        return function(*arguments) if function else None

    # parameters
    def parameterSetNode(self):
        return self._node

    def _key(self, name):
        return f"{self.name}.{name}"

    def parameter(self, name):
        value = self._node.GetAttribute(self._key(name))
        return value if value is not None else (self._node.GetAttribute(name) or "")

    def integerParameter(self, name):
        try:
            return int(self.parameter(name))
        except ValueError:
            return 0

    def doubleParameter(self, name):
        try:
            return float(self.parameter(name))
        except ValueError:
            return 0.0

    def parameterDefined(self, name):
        return self._node.GetAttribute(self._key(name)) is not None

    def setParameter(self, name, value):
        key, value = self._key(name), str(value)
        if self._node.GetAttribute(key) != value:
            self._node.SetAttribute(key, value)
            self._node.InvokeCustomModifiedEvent(self._node.EffectParameterModified)

    def setParameterDefault(self, name, value):
        if not self.parameterDefined(name):
            self.setParameter(name, value)

    # options frame
    def optionsFrame(self):
        if self._frame is None:
            import qt

            self._frame = qt.QFrame()
            self._layout = qt.QFormLayout(self._frame)
        return self._frame

    def optionsLayout(self):
        self.optionsFrame()
        return self._layout

    def addOptionsWidget(self, widget):
        self.optionsLayout().addRow(widget)

    def addLabeledOptionsWidget(self, text, widget):
        import qt

        label = qt.QLabel(text)
        self.optionsLayout().addRow(label, widget)
        return label

    # images: straight to the real logic
    def scene(self):
        return slicer.mrmlScene

    def sourceVolumeImageData(self):
        self._editor.logic.UpdateAlignedSourceVolume()
        return self._editor.logic.GetAlignedSourceVolume()

    def defaultModifierLabelmap(self):
        self._editor.logic.UpdateReferenceGeometryImage()
        self._editor.logic.ResetModifierLabelmapToDefault()
        return self._editor.logic.GetModifierLabelmap()

    def saveStateForUndo(self):
        self.calls.append("saveStateForUndo")
        self._editor.logic.SaveStateForUndo()

    def modifySelectedSegmentByLabelmap(self, labelmap, mode):
        self.modifySegmentByLabelmap(self._node.GetSegmentationNode(), self._node.GetSelectedSegmentID(), labelmap, mode)

    def modifySegmentByLabelmap(self, segmentation, segment_id, labelmap, mode, bypass=False):
        self._editor.logic.ModifySegmentByLabelmap(segmentation, segment_id, labelmap, MODES[int(mode)], self.perSegment, bypass)

    def confirmCurrentSegmentVisible(self):
        return 1

    def selectEffect(self, name):
        self._editor.setActiveEffectByName(name)

    def active(self):
        return self._active


class SegmentEditorHost:
    """What qMRMLSegmentEditorWidget does around an effect: clones of the registered ones, calls in the recorded order, shortcuts."""

    def __init__(self, segmentation, volume):
        self.node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentEditorNode")
        self.logic = LOGIC()
        self.logic.SetMRMLScene(slicer.mrmlScene)
        self.logic.SetSegmentEditorNode(self.node)
        self.node.SetAndObserveSegmentationNode(segmentation)
        self.node.SetAndObserveSourceVolumeNode(volume)
        self.logic.UpdateReferenceGeometryImage()
        self.effect, self.effects = None, {}
        self.node.AddObserver(self.node.EffectParameterModified, lambda *_a: self.effect and self.effect.call("updateGUIFromMRML"))

    def effectByName(self, name):
        """The editor's own clone, made when the editor is first shown."""
        if name not in self.effects:
            registered = next(e for e in EffectFactory.instance().effects if e.name == name)
            effect = registered.call("clone")
            effect._editor, effect._node = self, self.node
            effect.call("icon")
            effect.call("setupOptionsFrame")
            effect.call("setMRMLDefaults")
            self.effects[name] = effect
        return self.effects[name]

    def setActiveEffectByName(self, name):
        if self.effect:
            self.effect._active = False
            self.effect.call("deactivate")
        self.effect = self.effectByName(name) if name else None
        self.node.SetActiveEffectName(name or "")
        if self.effect:
            self.effect._active = True
            self.effect.call("updateGUIFromMRML")
            self.effect.call("activate")
            for _view in range(6):
                self.effect.call("createCursor", None)
        return self.effect

    def show(self, width=420, height=260):
        """The options frame in a window that deactivates the effect on Escape, as the editor's own shortcut does."""
        import qt

        window = qt.QWidget()
        layout = qt.QVBoxLayout(window)
        layout.addWidget(self.effect.optionsFrame())
        shortcut = qt.QShortcut(qt.QKeySequence("Escape"), window)
        shortcut.connect("activated()", lambda: self.setActiveEffectByName(""))
        window.resize(width, height)
        window.show()
        self.window, self._shortcut = window, shortcut
        return window

    def leave(self):
        """The user goes to another module."""
        self.setActiveEffectByName("")

    def close(self):
        for effect in self.effects.values():
            effect.call("cleanup")

    def undo(self):
        self.logic.Undo()

    def redo(self):
        self.logic.Redo()


def install():
    module = types.ModuleType("qSlicerSegmentationsEditorEffectsPythonQt")
    module.qSlicerSegmentEditorScriptedEffect = qSlicerSegmentEditorScriptedEffect
    sys.modules[module.__name__] = module
    slicer.qSlicerSegmentEditorEffectFactory = EffectFactory
    slicer.qSlicerSegmentEditorAbstractEffect = qSlicerSegmentEditorScriptedEffect
