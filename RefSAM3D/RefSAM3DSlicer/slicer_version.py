"""Which Slicer this is. Older ones load the module files too, with Python 3.9: nothing here may need a newer one."""

import slicer
from slicer.i18n import tr as _

MINIMUM = (5, 10)


def versionProblem():
    """Why the extension cannot work in this Slicer; "" if it can."""
    version = (slicer.app.majorVersion, slicer.app.minorVersion)
    if version >= MINIMUM:
        return ""
    needed, present = (".".join(str(part) for part in v) for v in (MINIMUM, version))
    text = _("RefSAM3D needs 3D Slicer {needed} or later; this is {present}. Install a newer Slicer from https://download.slicer.org.")
    return text.format(needed=needed, present=present)
