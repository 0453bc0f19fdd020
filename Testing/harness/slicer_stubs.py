"""Stand-ins for Slicer's Python packages that are not in slicer-core; written from the documented API, nothing copied."""

from __future__ import annotations

import os
import sys
import types
import unittest

import slicer

import parameter_node


def _module(name, **members):
    module = types.ModuleType(name)
    module.__dict__.update(members)
    sys.modules[name] = module
    setattr(slicer, name.split(".")[-1], module)
    return module


class ScriptedLoadableModule:
    def __init__(self, parent):
        self.parent, self.moduleName = parent, type(self).__name__

    def resourcePath(self, filename):
        return os.path.join(os.path.dirname(self.parent.path), "Resources", filename)

    def getDefaultModuleDocumentationLink(self, docPage=None):
        return ""


class ScriptedLoadableModuleWidget:
    def __init__(self, parent=None):
        super().__init__()
        self.parent, self.moduleName, self.developerMode = parent, type(self).__name__[:-6], False
        self.layout = parent.layout()

    def resourcePath(self, filename):
        return os.path.join(os.path.dirname(slicer.util.modulePath(self.moduleName)), "Resources", filename)

    def setup(self):
        pass

    def cleanup(self):
        pass

    def onReload(self):
        pass


class ScriptedLoadableModuleLogic:
    def __init__(self, parent=None):
        super().__init__()
        self.moduleName, self.isSingletonParameterNode = type(self).__name__[:-5], True

    def getParameterNode(self):
        node = slicer.mrmlScene.GetSingletonNode(self.moduleName, "vtkMRMLScriptedModuleNode")
        if node is None:
            node = slicer.mrmlScene.CreateNodeByClass("vtkMRMLScriptedModuleNode")
            node.UnRegister(None)
            node.SetSingletonTag(self.moduleName)
            node.SetName(self.moduleName)
            node = slicer.mrmlScene.AddNode(node)
        node.SetAttribute("ModuleName", self.moduleName)
        return node


class ScriptedLoadableModuleTest(unittest.TestCase):
    def __init__(self, *arguments, **keywords):
        super().__init__(*(arguments or ("runTest",)), **keywords)

    def delayDisplay(self, message, *_arguments, **_keywords):
        print(message)

    def runTest(self):
        pass


class AbstractScriptedSegmentEditorEffect:
    def __init__(self, scriptedEffect):
        self.scriptedEffect = scriptedEffect

    def register(self):
        slicer.qSlicerSegmentEditorEffectFactory.instance().registerEffect(self.scriptedEffect)

    def createCursor(self, widget):
        return None

    def cleanup(self):
        pass


def install():
    """Make ``slicer.i18n``, ``slicer.ScriptedLoadableModule``, ``slicer.parameterNodeWrapper``, ``SegmentEditorEffects`` importable."""
    _module("slicer.i18n", tr=lambda text: text, translate=lambda context, text: text)
    scripted = (ScriptedLoadableModule, ScriptedLoadableModuleWidget, ScriptedLoadableModuleLogic, ScriptedLoadableModuleTest)
    _module("slicer.ScriptedLoadableModule", **{c.__name__: c for c in scripted})
    names = ("parameterNodeWrapper", "WithinRange", "Minimum", "Maximum", "Choice", "Default")
    _module("slicer.parameterNodeWrapper", **{n: getattr(parameter_node, n) for n in names})
    effects = types.ModuleType("SegmentEditorEffects")
    effects.AbstractScriptedSegmentEditorEffect = AbstractScriptedSegmentEditorEffect
    effects.__all__ = ["AbstractScriptedSegmentEditorEffect"]
    sys.modules["SegmentEditorEffects"] = effects
