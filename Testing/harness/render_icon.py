"""Resources/Icons/RefSAM3D.svg -> RefSAM3D.png, 128 x 128, as Slicer's extension index wants it."""

import os
import sys
from pathlib import Path

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
from PySide6 import QtGui, QtSvg, QtWidgets

ICONS = Path(__file__).resolve().parents[2] / "Resources" / "Icons"


def main() -> int:
    """Write the file; 0 if it worked."""
    application = QtWidgets.QApplication.instance() or QtWidgets.QApplication([])
    image = QtGui.QImage(128, 128, QtGui.QImage.Format_ARGB32)
    image.fill(0)
    painter = QtGui.QPainter(image)
    QtSvg.QSvgRenderer(str(ICONS / "RefSAM3D.svg")).render(painter)
    painter.end()
    return 0 if application and image.save(str(ICONS / "RefSAM3D.png")) else 1


if __name__ == "__main__":
    sys.exit(main())
