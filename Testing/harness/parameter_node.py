"""Stand-in for ``slicer.parameterNodeWrapper``: the types that the module uses, with the answers recorded from the desktop.

Values: str, bool, int, float, Enum (stored by name), MRML nodes, ``list[str]``; annotations WithinRange, Minimum, Maximum, Choice, Default.
"""

from __future__ import annotations

import enum
import types
import typing

import slicer
import vtk


class WithinRange:
    def __init__(self, minimum, maximum):
        self.minimum, self.maximum = minimum, maximum

    def check(self, value):
        if not self.minimum <= value <= self.maximum:
            raise ValueError(f"Value must be within range [{self.minimum}, {self.maximum}], is {value}")


class Minimum:
    def __init__(self, minimum):
        self.minimum = minimum

    def check(self, value):
        if value < self.minimum:
            raise ValueError(value)


class Maximum:
    def __init__(self, maximum):
        self.maximum = maximum

    def check(self, value):
        if value > self.maximum:
            raise ValueError(value)


class Choice:
    def __init__(self, choices):
        self.choices = choices

    def check(self, value):
        if value not in self.choices:
            raise ValueError(f"Value is {value}, but must be in one of the following: {self.choices}")


class Default:
    def __init__(self, value):
        self.value = value


class ObservedList(list):
    """Writes itself back after each change in place."""

    def __init__(self, values, save):
        super().__init__(values)
        self._save = save


def _saving(name):
    def method(self, *arguments):
        result = getattr(list, name)(self, *arguments)
        self._save(list(self))
        return result

    return method


for _name in ("append", "remove", "pop", "insert", "extend", "clear", "__setitem__", "__delitem__", "sort", "reverse"):
    setattr(ObservedList, _name, _saving(_name))


def _is_node(kind):
    return isinstance(kind, type) and issubclass(kind, slicer.vtkMRMLNode)


def _is_list(kind):
    return typing.get_origin(kind) is list


class _Parameter:
    """One declared parameter: how it is stored, read and checked."""

    def __init__(self, name, hint, owner):
        annotations = list(getattr(hint, "__metadata__", ()))
        base = hint.__origin__ if annotations else hint
        if typing.get_origin(base) in (typing.Union, types.UnionType):
            base = next(a for a in typing.get_args(base) if a is not type(None))
        self.name, self.kind = name, base
        self.checks = [a for a in annotations if hasattr(a, "check")]
        declared = next((a.value for a in annotations if isinstance(a, Default)), None)
        self.default = getattr(owner, name, declared if declared is not None else self._zero())

    def _zero(self):
        if _is_node(self.kind):
            return None
        for check in self.checks:
            if hasattr(check, "minimum"):
                return check.minimum
            if isinstance(check, Choice):
                return check.choices[0]
        if _is_list(self.kind):
            return []
        return next(iter(self.kind)) if issubclass(self.kind, enum.Enum) else self.kind()

    def is_stored(self, node):
        return bool(node.GetParameter(f"{self.name}.len" if _is_list(self.kind) else self.name))

    def read(self, node):
        if _is_node(self.kind):
            return node.GetNodeReference(self.name)
        if _is_list(self.kind):
            count = int(node.GetParameter(f"{self.name}.len") or 0)
            return ObservedList([node.GetParameter(f"{self.name}.{n}") for n in range(count)], lambda v: self.write(node, v))
        text = node.GetParameter(self.name)
        if self.kind is bool:
            return text == "true"
        return self.kind[text] if issubclass(self.kind, enum.Enum) else self.kind(text)

    def write(self, node, value):
        if _is_node(self.kind):
            if value is not None and not isinstance(value, self.kind):
                raise TypeError(f"Value must be of type '{self.kind}', is type '{type(value)}'")
            node.SetNodeReferenceID(self.name, value.GetID() if value else None)
            return
        if value is None:
            raise ValueError("Value must not be None")
        if _is_list(self.kind):
            modifying = node.StartModify()
            for index, item in enumerate(value):
                if not isinstance(item, str):
                    raise TypeError(item)
                node.SetParameter(f"{self.name}.{index}", item)
            node.SetParameter(f"{self.name}.len", str(len(value)))
            node.EndModify(modifying)
            return
        fits = isinstance(value, self.kind) and not (isinstance(value, bool) and self.kind is not bool)
        if not fits and not (self.kind is float and type(value) is int):
            raise TypeError(f"Value must be of type '{self.kind}', is type '{type(value)}' value '{value}'")
        for check in self.checks:
            check.check(value)
        text = str(value.name if isinstance(value, enum.Enum) else value)
        node.SetParameter(self.name, text.lower() if self.kind is bool else text)


#: widget class -> (property or None for a node selector, signal, parameter kinds that the real wrapper accepts for it)
_CONNECTORS = {
    "QLineEdit": ("text", "textChanged(QString)", (str,)),
    "QTextEdit": ("plainText", "textChanged()", (str,)),
    "QComboBox": ("currentText", "currentIndexChanged(int)", (str, enum.Enum)),
    "QCheckBox": ("checked", "toggled(bool)", (bool,)),
    "QPushButton": ("checked", "toggled(bool)", (bool,)),
    "QSpinBox": ("value", "valueChanged(int)", (int,)),
    "QDoubleSpinBox": ("value", "valueChanged(double)", (float,)),
    "ctkSliderWidget": ("value", "valueChanged(double)", (float,)),
    "ctkPathLineEdit": ("currentPath", "currentPathChanged(QString)", (str,)),
    "qMRMLNodeComboBox": (None, "currentNodeChanged(vtkMRMLNode*)", ()),
}


def _connector(widget, parameter):
    entry = _CONNECTORS.get(widget.className())
    kind = parameter.kind
    fits = entry and (_is_node(kind) if entry[0] is None else isinstance(kind, type) and issubclass(kind, entry[2]))
    if not fits:
        raise RuntimeError(f"Unable to create GUI connector from datatype '{kind}' to widget type '{widget.className()}'.")
    return entry


def _prepare(widget, parameter):
    for check in parameter.checks:
        if isinstance(check, Choice) and widget.className() == "QComboBox" and widget.count == 0:
            widget.addItems(check.choices)
        if isinstance(check, WithinRange) and hasattr(type(widget), "maximum"):
            widget.minimum, widget.maximum = check.minimum, check.maximum


def parameterNodeWrapper(cls):
    """Give ``cls`` typed properties over a vtkMRMLScriptedModuleNode."""
    parameters = {name: _Parameter(name, hint, cls) for name, hint in typing.get_type_hints(cls, include_extras=True).items()}

    def __init__(self, node, prefix=None):
        self.parameterNode, self._gui, self._updating = node, {}, False
        for parameter in parameters.values():
            if not _is_node(parameter.kind) and not parameter.is_stored(node):
                parameter.write(node, parameter.default)

    def connectGui(self, ui):
        found = {}
        for widget in vars(ui).values():
            name = widget.property("SlicerParameterName")
            if name:
                found[name] = widget
        return self.connectParametersToGui(found)

    def connectParametersToGui(self, widgets):
        entries = {name: (widget, *_connector(widget, parameters[name])) for name, widget in widgets.items()}

        def toGui(*_arguments):
            if self._updating:
                return
            self._updating = True
            try:
                for name, (widget, prop, _signal, _kinds) in entries.items():
                    value = getattr(self, name)
                    if prop is None:
                        widget.setCurrentNode(value)
                    else:
                        value = value.name if isinstance(value, enum.Enum) else value
                        if getattr(widget, prop) != value:
                            setattr(widget, prop, value)
            finally:
                self._updating = False

        def fromGui(name, widget, prop):
            def slot(*_arguments):
                if self._updating:
                    return
                value = widget.currentNode() if prop is None else getattr(widget, prop)
                kind = parameters[name].kind
                setattr(self, name, kind[value] if isinstance(kind, type) and issubclass(kind, enum.Enum) else value)

            return slot

        connections = []
        for name, (widget, prop, signal, _kinds) in entries.items():
            _prepare(widget, parameters[name])
            slot = fromGui(name, widget, prop)
            assert widget.connect(signal, slot), (widget, signal)
            connections.append((widget, signal, slot))
            if prop is None and getattr(self, name) is None and widget.currentNode() is not None:
                setattr(self, name, widget.currentNode())
        toGui()
        tag = self.parameterNode.AddObserver(vtk.vtkCommand.ModifiedEvent, toGui)
        self._gui[tag] = connections
        return tag

    def disconnectGui(self, tag):
        if tag in self._gui:
            self.parameterNode.RemoveObserver(tag)
            for widget, signal, slot in self._gui.pop(tag):
                widget.disconnect(signal, slot)

    for name, parameter in parameters.items():
        setattr(
            cls,
            name,
            property(lambda self, p=parameter: p.read(self.parameterNode), lambda self, v, p=parameter: p.write(self.parameterNode, v)),
        )
    cls.__init__, cls.connectGui, cls.connectParametersToGui, cls.disconnectGui = (
        __init__,
        connectGui,
        connectParametersToGui,
        disconnectGui,
    )
    cls.StartModify = lambda self: self.parameterNode.StartModify()
    cls.EndModify = lambda self, was: self.parameterNode.EndModify(was)
    cls.AddObserver = lambda self, event, callback, priority=0.0: self.parameterNode.AddObserver(event, callback, priority)
    cls.RemoveObserver = lambda self, tag: self.parameterNode.RemoveObserver(tag)
    cls.Modified = lambda self: self.parameterNode.Modified()
    cls.isCached = lambda self, name: False
    cls.default = lambda self, name: Default(parameters[name].default)
    return cls
