"""Hidden module: registers the Segment Editor effect when Slicer has started. No torch, no numpy."""

import logging
import os
import sys

import slicer
from slicer.i18n import tr as _
from slicer.ScriptedLoadableModule import ScriptedLoadableModule

for _folder in (os.path.dirname(os.path.abspath(__file__)), os.path.dirname(os.path.dirname(os.path.abspath(__file__)))):
    if _folder not in sys.path:
        sys.path.append(_folder)


class SegmentEditorRefSAM3D(ScriptedLoadableModule):
    """Not shown in the module list."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        parent.title = _("SegmentEditorRefSAM3D")
        parent.categories = ["Segmentation"]
        parent.dependencies = ["Segmentations"]
        parent.contributors = ["RefSAM3D contributors"]
        parent.hidden = True
        parent.helpText = _("Registers the text-prompt effect in the Segment Editor.")
        parent.acknowledgementText = ""
        slicer.app.connect("startupCompleted()", self.registerEditorEffect)

    def registerEditorEffect(self):
        """Make the effect known; editors that are open pick it up."""
        from RefSAM3DSlicer.slicer_version import versionProblem

        if versionProblem():
            logging.getLogger("refsam3d").warning("The Segment Editor has no RefSAM3D effect: %s", versionProblem())
            return
        import qSlicerSegmentationsEditorEffectsPythonQt as effects

        effect = effects.qSlicerSegmentEditorScriptedEffect(None)
        path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "SegmentEditorRefSAM3DLib", "SegmentEditorEffect.py")
        effect.setPythonSource(path.replace("\\", "/"))
        effect.self().register()
