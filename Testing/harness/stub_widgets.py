"""Stand-ins for the CTK and qMRML widgets that the module uses, over the real scene, with the desktop's recorded behaviour."""

from __future__ import annotations

import sys
import types

import slicer
import vtk
from PySide6 import QtCore
from PySide6 import QtWidgets as W
from PySide6.QtCore import Property, Signal

import pythonqt_shim


class ctkCollapsibleButton(W.QWidget):
    contentsCollapsed = Signal(bool)
    toggled = Signal(bool)

    def __init__(self, parent=None):
        if isinstance(parent, str):
            raise ValueError("ctkCollapsibleButton has no constructor for a text")  # as recorded
        super().__init__(parent)
        self._hidden = []
        self._b = W.QToolButton(self)
        self._b.setCheckable(True)
        self._b.setChecked(True)
        self._b.setToolButtonStyle(QtCore.Qt.ToolButtonTextBesideIcon)
        self._b.setArrowType(QtCore.Qt.DownArrow)
        self._b.toggled.connect(self._onToggle)
        self._b.setSizePolicy(W.QSizePolicy.Expanding, W.QSizePolicy.Fixed)
        self.setContentsMargins(0, 24, 0, 0)

    def resizeEvent(self, event):
        self._b.setGeometry(0, 0, event.size().width(), 22)

    def showEvent(self, event):
        if not self._b.isChecked():
            self._hideContent(True)  # children that were added after "collapsed" was set

    def _hideContent(self, hide):
        # Only what was visible comes back: a widget that the module hid itself stays hidden.
        for child in self.children():
            if isinstance(child, W.QWidget) and child is not self._b:
                if hide and not child.isHidden():
                    self._hidden.append(child)
                    W.QWidget.setVisible(child, False)
                elif not hide and child in self._hidden:
                    W.QWidget.setVisible(child, True)
        if not hide:
            self._hidden.clear()

    def _onToggle(self, on):
        self._b.setArrowType(QtCore.Qt.DownArrow if on else QtCore.Qt.RightArrow)
        self._hideContent(not on)
        self.toggled.emit(on)
        self.contentsCollapsed.emit(not on)

    text = Property(str, lambda s: s._b.text(), lambda s, v: s._b.setText(v))
    checked = Property(bool, lambda s: s._b.isChecked(), lambda s, v: s._b.setChecked(v))
    collapsed = Property(bool, lambda s: not s._b.isChecked(), lambda s, v: s._b.setChecked(not v))


class qMRMLWidget(W.QWidget):
    mrmlSceneChanged = Signal(object)
    pq_signals = {"mrmlSceneChanged(vtkMRMLScene*)": "mrmlSceneChanged"}

    def __init__(self, parent=None):
        super().__init__(parent)
        self._scene = None

    def mrmlScene(self):
        return self._scene

    def setMRMLScene(self, scene):
        self._scene = scene
        self.mrmlSceneChanged.emit(scene)


class qSlicerWidget(qMRMLWidget):
    pass


class qMRMLNodeComboBox(W.QWidget):
    """A node added later is NOT selected, also not the first one; removing the current one selects another, also where "None" is offered."""

    currentNodeChanged = Signal(object)
    nodeAddedByUser = Signal(object)
    pq_signals = {
        "currentNodeChanged(vtkMRMLNode*)": "currentNodeChanged",
        "currentNodeChanged(bool)": "currentNodeChanged",
        "nodeAddedByUser(vtkMRMLNode*)": "nodeAddedByUser",
    }

    def __init__(self, parent=None):
        super().__init__(parent)
        self._c = W.QComboBox()
        layout = W.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._c)
        self._scene, self._types, self._none, self._tags, self._cur, self._opts = None, [], False, [], None, {}
        self._c.activated.connect(lambda index: self.setCurrentNodeID(self._c.itemData(index)))

    nodeTypes = Property("QStringList", lambda s: s._types, lambda s, v: (setattr(s, "_types", list(v)), s._fill()))
    noneEnabled = Property(bool, lambda s: s._none, lambda s, v: (setattr(s, "_none", v), s._fill()))
    for _n, _default in (
        ("addEnabled", True),
        ("removeEnabled", True),
        ("renameEnabled", False),
        ("editEnabled", False),
        ("showHidden", False),
        ("showChildNodeTypes", True),
        ("selectNodeUponCreation", True),
    ):
        exec(f"{_n} = Property(bool, lambda s: s._opts.get('{_n}', {_default}), lambda s, v: s._opts.__setitem__('{_n}', v))")
    noneDisplay = Property(str, lambda s: s._opts.get("noneDisplay", "None"), lambda s, v: (s._opts.__setitem__("noneDisplay", v), s._fill())[0])
    baseName = Property(str, lambda s: s._opts.get("baseName", ""), lambda s, v: s._opts.__setitem__("baseName", v))
    currentNodeID = Property(str, lambda s: s._cur.GetID() if s._cur else "", lambda s, v: s.setCurrentNodeID(v))

    def setMRMLScene(self, scene):
        for tag in self._tags:
            self._scene.RemoveObserver(tag)
        self._scene, self._tags = scene, []
        if scene:
            events = (scene.NodeAddedEvent, scene.NodeRemovedEvent, scene.EndCloseEvent, scene.EndImportEvent)
            self._tags = [scene.AddObserver(event, lambda *_a: self._fill()) for event in events]
            self._tags.append(scene.AddObserver(scene.NodeAboutToBeRemovedEvent, self._leave, -10.0))  # the priority of Slicer's scene model
        self._fill(first=True)

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _leave(self, scene, _event, node):
        """Qt's combo box moves to another row when the current one goes: seen in the desktop, the last node."""
        if node is self._cur and node is not None and not scene.IsBatchProcessing():
            rest = [other for other in self.nodes() if other is not node]
            self._set(rest[-1] if rest else None)

    def mrmlScene(self):
        return self._scene

    def nodes(self):
        if not self._scene:
            return []
        found = [n for t in self._types for n in slicer.util.getNodesByClass(t, self._scene)]
        children = self._opts.get("showChildNodeTypes", True)
        return [n for n in found if not n.GetHideFromEditors() and (children or n.GetClassName() in self._types)]

    def _fill(self, first=False):
        if not pythonqt_shim.shiboken6.isValid(self._c):
            return
        nodes = self.nodes()
        self._c.blockSignals(True)
        self._c.clear()
        if self._none:
            self._c.addItem(self._opts.get("noneDisplay", "None"), "")
        for node in nodes:
            self._c.addItem(node.GetName(), node.GetID())
        self._c.blockSignals(False)
        current = self._cur
        if current not in nodes:
            replace = current is not None or first
            current = nodes[0] if nodes and replace and not self._none else None
        self._set(current)

    def _set(self, node):
        changed = node is not self._cur
        self._cur = node
        self._c.setCurrentIndex(self._c.findData(node.GetID() if node else ""))
        if changed:
            self.currentNodeChanged.emit(node)

    def currentNode(self):
        return self._cur

    def setCurrentNode(self, node):
        self._set(node if node is None or node in self.nodes() else None)

    def setCurrentNodeID(self, node_id):
        self._set(self._scene.GetNodeByID(node_id) if node_id else None)

    def nodeCount(self):
        return len(self.nodes())


class ctkPathLineEdit(W.QWidget):
    currentPathChanged = Signal(str)
    pq_signals = {"currentPathChanged(QString)": "currentPathChanged"}
    Files, Dirs = 2, 1

    def __init__(self, parent=None):
        super().__init__(parent)
        self._e, self._opts = W.QLineEdit(), {}
        layout = W.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._e)
        button = W.QToolButton()
        button.setText("...")
        layout.addWidget(button)
        self._e.textChanged.connect(self.currentPathChanged)

    currentPath = Property(str, lambda s: s._e.text(), lambda s, v: s._e.setText(v))
    filters = Property(int, lambda s: s._opts.get("f", 0), lambda s, v: s._opts.__setitem__("f", v))
    nameFilters = Property("QStringList", lambda s: s._opts.get("n", []), lambda s, v: s._opts.__setitem__("n", list(v)))
    settingKey = Property(str, lambda s: s._opts.get("k", ""), lambda s, v: s._opts.__setitem__("k", v))

    def addCurrentPathToHistory(self):
        pass


class ctkMessageBox(W.QMessageBox):
    pass


def install(qt):
    """Make ``ctk`` and the qMRML classes of ``slicer`` available."""
    ctk = types.ModuleType("ctk")
    for name, cls in list(globals().items()):
        if isinstance(cls, type) and name.startswith(("ctk", "qMRML", "qSlicer")):
            wrapped = pythonqt_shim.native(cls)
            qt.QUiLoader.custom[name] = wrapped
            setattr(ctk if name.startswith("ctk") else slicer, name, wrapped)
    sys.modules["ctk"] = ctk
    return ctk
