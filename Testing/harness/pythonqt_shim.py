"""PySide6 dressed up as Slicer's PythonQt `qt` module (test harness only; our own code).

Every rule below was compared with a real PythonQt 4 / Qt 5.15 (see probe_common.py):
  * Qt properties are plain attributes:  w.text -> str,  w.text = "x";  w.text() is a TypeError
  * setters stay callable (w.setText, w.setChecked)
  * w.connect("clicked(bool)", f) / w.disconnect(...): False + warning for an unknown signature
  * no new attributes on C++ objects, only on Python subclasses; slots/methods cannot be overwritten
  * isinstance(w, qt.QWidget) works here but is False under PythonQt  -> lint rule
"""

import inspect
import re
import sys
import types

import shiboken6
from PySide6 import QtCore, QtGui, QtUiTools, QtWidgets

_QObject = QtCore.QObject
_VIRTUAL = {"sizeHint", "minimumSizeHint"}
_SKIP = {("QTimer", "singleShot")}


class PQProperty:
    def __init__(self, name, typeName="", getter=None):
        self.name, self.type, self.getter = (name, typeName, getter)

    def __get__(self, o, t=None):
        if o is None:
            return self
        if not shiboken6.isValid(o):
            raise ValueError(f"Trying to read property '{self.name}' from a destroyed {type(o).__name__} object")
        return self.getter(o) if self.getter else _QObject.property(o, self.name)

    def __set__(self, o, v):
        T = self.type
        if T == "bool":
            v = bool(v)
        elif T in ("int", "double") and hasattr(v, "item"):
            v = int(v) if T == "int" else float(v)
        elif T == "int" and isinstance(v, float):
            v = int(v)
        elif T in ("int", "double") and isinstance(v, str):
            raise AttributeError(f"Property '{self.name}' of type '{T}' does not accept an object of type str ('{v}')")
        elif T == "QString" and (not isinstance(v, str)):
            v = str(v)
        if self.name == "toolTip" and v and not v.startswith("<"):
            v = f"<p>{v}</p>"  # the application wraps tool tips
        mo = _QObject.metaObject(o)
        p = mo.property(mo.indexOfProperty(self.name))
        if p.isValid() and (not p.isWritable()):
            raise AttributeError(f"Property '{self.name}' of {type(o).__name__} object is not writable")
        _QObject.setProperty(o, self.name, v)


_norm = lambda s: bytes(QtCore.QMetaObject.normalizedSignature(s)).decode()


def _signal(o, sig):
    name, _args = re.match("(\\w+)\\((.*)\\)$", sig).groups()
    for c in type(o).__mro__:
        if sig in c.__dict__.get("pq_signals", {}):
            return getattr(o, c.__dict__["pq_signals"][sig])
    if o.metaObject().indexOfSignal(sig) < 0:
        return None
    return getattr(o, name)


_conns = {}
_loading = []


def _fit(sig, f):
    n = 0 if sig.endswith("()") else sig.count(",") + 1
    try:
        ps = inspect.signature(f).parameters.values()
        if not any(p.kind == p.VAR_POSITIONAL for p in ps):
            n = min(n, sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in ps))
    except (TypeError, ValueError):
        pass
    return [lambda: f(), lambda a: f(a), lambda a, b: f(a, b), lambda a, b, c: f(a, b, c)][min(n, 3)]


def _native(t):
    return "pq_native" in t.__dict__


class PQMeta(type(_QObject)):
    def __instancecheck__(cls, o):
        return isinstance(o, cls.pq_base) if _native(cls) else type.__instancecheck__(cls, o)

    def __subclasscheck__(cls, c):
        return issubclass(c, cls.pq_base) if _native(cls) else type.__subclasscheck__(cls, c)


_unwrap = lambda t: getattr(t, "pq_base", t) if isinstance(t, type) and _native(t) else t


class PQMixin:
    def connect(self, *a):
        if a and isinstance(a[0], _QObject):  # PySide's own SignalInstance.connect comes back through here
            return _QObject.connect(*a)
        if len(a) == 2 and isinstance(a[0], str) and callable(a[1]):
            sig = _norm(a[0])
            s = _signal(self, sig)
            if s is None:
                print(f"PythonQt: QObject::connect() signal '{sig}' does not exist on {type(self).__name__}", file=sys.stderr)
                return False
            w = _fit(sig, a[1])
            _conns.setdefault((id(self), sig), []).append((a[1], w))
            s.connect(w)
            return True
        if len(a) == 3:
            return self.connect(a[0], getattr(a[1], a[2].split("(")[0]))
        raise TypeError("connect(signal, callable)")

    def disconnect(self, *a):
        if a and isinstance(a[0], _QObject):
            return _QObject.disconnect(*a)
        l = _conns.get((id(self), _norm(a[0])), [])
        for i, (f, w) in enumerate(l):
            if len(a) == 1 or f == a[1]:
                _signal(self, _norm(a[0])).disconnect(w)
                del l[i]
                return True
        return False

    def className(self):
        return self.metaObject().className()

    def delete(self):
        shiboken6.delete(self)

    def findChildren(self, t=_QObject, name=None):
        r = [
            c
            for c in _QObject.findChildren(self, _QObject)
            if (
                c.metaObject().inherits(getattr(QtWidgets, t, getattr(QtCore, t, _QObject)).staticMetaObject)
                if isinstance(t, str)
                else isinstance(c, _unwrap(t))
            )
        ]
        return [c for c in r if name is None or c.objectName == name]

    def findChild(self, t=_QObject, name=None):
        return next(iter(self.findChildren(t, name)), None)

    def __getattr__(self, n):
        if not n.startswith("_") and n.encode() in [bytes(x) for x in _QObject.dynamicPropertyNames(self)]:
            return _QObject.property(self, n)
        raise AttributeError(f"{type(self).__name__} has no attribute named '{n}'")

    def __setattr__(self, n, v):
        t = type(self)
        if _loading and isinstance(v, _QObject) and (not n.startswith("_")):
            return
        if _native(t) and (not n.startswith("_")):
            d = inspect.getattr_static(t, n, None)
            if d is None:
                raise AttributeError(f"'{n}' does not exist on {t.__name__} and creating new attributes on C++ objects is not allowed")
            if not hasattr(d, "__set__") and (not isinstance(d, QtCore.Property)):
                raise AttributeError(f"Slot '{n}' can not be overwritten on {t.__name__} object")
        d = inspect.getattr_static(t, n, None)
        if isinstance(d, QtCore.Property):
            _QObject.setProperty(self, n, v)
        elif hasattr(d, "__set__"):
            d.__set__(self, v)
        else:
            self.__dict__[n] = v


def native(cls, base=None, **extra):
    """class -> the same class with PythonQt manners (also used as decorator on our stub widgets)"""
    base = base or cls
    ns = {k: v for k, v in PQMixin.__dict__.items() if callable(v)}
    ns |= {"pq_native": True, "pq_base": base, "__module__": "PythonQt", **extra}
    mo = base.staticMetaObject
    for i in range(mo.propertyCount()):
        p = mo.property(i)
        n = p.name()
        if n in _VIRTUAL or (cls.__name__, n) in _SKIP or n in extra or isinstance(inspect.getattr_static(cls, n, None), QtCore.Property):
            continue
        ns[n] = PQProperty(n, p.typeName(), getattr(base, n, None) if n == "spacing" else None)
    ns["name"] = PQProperty("objectName", "QString")
    if hasattr(cls, "exec"):
        ns["exec_"] = lambda self, *a: cls.exec(self, *a)
    return PQMeta(cls.__name__, (cls,), ns)


def build_qt():
    qt = types.ModuleType("qt")
    for m in (QtCore, QtGui, QtWidgets, QtUiTools):
        for n in dir(m):
            if n.startswith("_"):
                continue
            c = getattr(m, n)
            if isinstance(c, type) and issubclass(c, _QObject) and (n not in ("QCoreApplication", "QGuiApplication", "QApplication", "QUiLoader")):
                try:
                    c = native(c)
                except Exception as e:
                    print("shim: cannot wrap", n, e, file=sys.stderr)
            setattr(qt, n, c)

    class QUiLoader(QtUiTools.QUiLoader):
        custom = {}

        def createWidget(self, cls, parent=None, name=""):
            c = self.custom.get(cls) or getattr(qt, cls, None)
            if c is None:
                print(f"QUiLoader: no harness class for '{cls}'", file=sys.stderr)
                c = qt.QWidget
            keep = list(_loading)
            _loading.clear()
            try:
                w = c(parent)
            finally:
                _loading.extend(keep)
            w.setObjectName(name)
            return w

        def createLayout(self, cls, parent=None, name=""):
            w = parent if isinstance(parent, QtWidgets.QWidget) and QtWidgets.QWidget.layout(parent) is None else None
            l = getattr(qt, cls)(w) if w else getattr(qt, cls)()
            l.setObjectName(name)
            return l

        def load(self, f, parent=None):
            import xml.etree.ElementTree as ET

            path = f.fileName()
            f.close()
            g = QtCore.QFile(path)
            g.open(QtCore.QFile.ReadOnly)
            _loading.append(1)
            try:
                w = super().load(g, parent)
            finally:
                _loading.pop()
                g.close()
            by = {c.objectName: c for c in [w, *w.findChildren(_QObject)] if hasattr(type(c), "pq_base")}
            for c in ET.parse(path).iter("connection"):
                s, r = (by.get(c.findtext("sender")), by.get(c.findtext("receiver")))
                if s is not None and r is not None and ("vtk" in c.findtext("signal")):
                    s.connect(c.findtext("signal"), getattr(r, c.findtext("slot").split("(")[0]))
            return w

    qt.QUiLoader = QUiLoader
    sys.modules["qt"] = qt
    return qt
