"""The RefSAM3D effect: a shell that Slicer loads; what it does is in :mod:`RefSAM3DSlicer.effect`. Loading it imports no torch."""

import os

import qt
from SegmentEditorEffects import AbstractScriptedSegmentEditorEffect
from slicer.i18n import tr as _


class SegmentEditorEffect(AbstractScriptedSegmentEditorEffect):
    """Each Segment Editor has a clone of its own."""

    def __init__(self, scriptedEffect):
        scriptedEffect.name = "RefSAM3D"
        scriptedEffect.title = _("RefSAM3D")
        scriptedEffect.perSegment = True
        scriptedEffect.requireSegments = False  # a prompt may make its segment
        AbstractScriptedSegmentEditorEffect.__init__(self, scriptedEffect)
        self.controller = None

    def clone(self):
        """For another editor."""
        import qSlicerSegmentationsEditorEffectsPythonQt as effects

        effect = effects.qSlicerSegmentEditorScriptedEffect(None)
        effect.setPythonSource(__file__.replace("\\", "/"))
        return effect

    def icon(self):
        """Cheap: asked for often."""
        from RefSAM3DLib.resources import resource_path

        try:
            return qt.QIcon(os.fspath(resource_path("Icons", "RefSAM3D.png")))
        except Exception:  # an icon is no reason not to load
            return qt.QIcon()

    def helpText(self):
        """Shown above the options."""
        return "<html>" + _(
            "Type what to segment, for example <b>left parotid gland</b>, and press Enter. The result goes into the selected segment, "
            "or into a new one if none is selected; masking, editable intensity range and undo work as for every effect. "
            "Escape, pressed here, cancels a run. Not for diagnosis."
        )

    def setupOptionsFrame(self):
        """The options of this effect."""
        from RefSAM3DSlicer.effect import EffectController

        self.controller = EffectController(self.scriptedEffect)

    def activate(self):
        """The user chose the effect."""
        if self.controller is not None:
            self.controller.activate()

    def deactivate(self):
        """Another effect, module or Escape. A run goes on and is written to the segment it was started for."""

    def createCursor(self, widget):
        """No cursor of its own: nothing is drawn by hand."""
        return qt.QCursor(qt.Qt.ArrowCursor)

    def setMRMLDefaults(self):
        """Called when the editor is made and when the scene was closed."""
        self.scriptedEffect.setParameterDefault("Prompt", "")

    def layoutChanged(self):
        """Nothing depends on the views."""

    def sourceVolumeNodeChanged(self):
        """Another image."""
        if self.controller is not None:
            self.controller.updateButton()

    def updateGUIFromMRML(self):
        """Parameters to widgets."""
        if self.controller is not None:
            self.controller.updateFromParameters()

    def updateMRMLFromGUI(self):
        """Widgets to parameters."""
        if self.controller is not None:
            self.controller.updateParameters()

    def cleanup(self):
        """The editor is destroyed."""
        if self.controller is not None:
            self.controller.cleanup()
            self.controller = None
