"""No PyCUDA or CuPy name is used that the real packages lack.

``gpu_api.json`` holds the members of every module and class the code touches, and signatures, as read from the packages
it names. The code keeps a convention that makes it checkable: PyCUDA's driver module is called ``cuda`` and CuPy
``cupy``, also as attributes; whatever comes out of them is put into an annotated name before anything is asked of it.
"""

from __future__ import annotations

import ast
import json
import re
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "runtime" / "onfh_runtime"
SOURCES = sorted(PACKAGE.glob("cuda_*.py"))
FACTS = json.loads(Path(__file__).with_name("gpu_api.json").read_text())
MODULES = {"cuda": "pycuda.driver", "cupy": "cupy"}
MEMBERS = {
    "pycuda.driver": None,  # all of them
    "pycuda.driver.Context": None,
    "pycuda.driver.Device": None,
    "pycuda.driver.DeviceAllocation": None,
    "pycuda.driver.Event": None,
    "pycuda.driver.PagelockedHostAllocation": None,
    "pycuda.driver.Stream": None,
    "pycuda.driver.device_attribute": None,
    "pycuda.driver.host_alloc_flags": None,
    "cupy": ("RawKernel", "RawModule", "cuda"),
    "cupy.RawKernel": None,
    "cupy.RawModule": None,
    "cupy.cuda": ("Device", "Graph", "Stream", "driver", "runtime"),
    "cupy.cuda.Device": None,
    "cupy.cuda.Graph": None,
    "cupy.cuda.Stream": None,
    "cupy.cuda.driver": ("CUDADriverError",),
    "cupy.cuda.runtime": ("CUDARuntimeError", "runtimeGetVersion", "streamCaptureModeThreadLocal"),
}
SIGNATURES = ("pycuda.driver.pagelocked_empty", "cupy.RawKernel", "cupy.RawModule")


def found_facts():
    """The same as in the file, of what is installed."""
    members, signatures = {}, {}
    for path, names in MEMBERS.items():
        subject = object_at(path)
        names = [name for name in names or dir(subject) if hasattr(subject, name) and name[0] != "_"]
        members[path] = sorted(names)
    for path in SIGNATURES:
        subject = object_at(path)
        text = (subject.__call__ if path == "cupy.RawKernel" else subject).__doc__.strip()
        signatures[path] = next(line for line in text.splitlines() if "=" in line and "(" in line)
    return {"packages": packages(), "members": members, "signatures": signatures}


def packages():
    found = {}
    for name in ("cupy-cuda12x", "cupy-cuda13x", "pycuda"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def object_at(path):
    module = "pycuda.driver" if path.startswith("pycuda") else "cupy"
    subject = import_module(module)
    for name in path[len(module) :].split(".")[1:]:
        subject = getattr(subject, name)
    return subject


def path_of(annotation):
    """``pycuda.driver.Stream`` for the annotation ``cuda.Stream | None``; none for a container of them."""
    if any(isinstance(node, ast.Subscript) for node in ast.walk(annotation)):
        return None
    texts = [ast.unparse(node) for node in ast.walk(annotation) if isinstance(node, ast.Attribute)]
    known = [MODULES[t.split(".")[0]] + t[len(t.split(".")[0]) :] for t in texts if t.split(".")[0] in MODULES]
    return next((path for path in known if path in MEMBERS), None)


def attributes(sources):
    """Annotated attributes, and methods and properties by what they return, by name: of whatever object."""
    found = dict(MODULES)
    for tree in map(ast.parse, sources):
        for node in ast.walk(tree):
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Attribute):
                found[node.target.attr] = path_of(node.annotation)
            if isinstance(node, ast.FunctionDef) and node.returns:
                found[node.name] = path_of(node.returns)
    return {name: path for name, path in found.items() if path}


class Reader(ast.NodeVisitor):
    """Collects (line, path, member) uses of one file and breaches of the convention."""

    def __init__(self, source, known):
        self.known, self.uses, self.faults, self.scope = known, [], [], {}
        self.visit(ast.parse(source))

    def path(self, node):
        if isinstance(node, ast.Name):
            return MODULES.get(node.id) or self.scope.get(node.id)
        if isinstance(node, ast.Call):
            path = self.path(node.func)
            own = isinstance(node.func, ast.Attribute) and self.path(node.func.value) is None
            return path if path in MEMBERS and (own or path[path.rindex(".") + 1].isupper()) else None
        if isinstance(node, ast.Attribute):
            owner = self.path(node.value)
            return f"{owner}.{node.attr}" if owner else self.known.get(node.attr)
        return None

    def visit_FunctionDef(self, node):
        outer, self.scope = self.scope, dict(self.scope)
        for inner in ast.walk(node):
            if isinstance(inner, ast.arg) and inner.annotation:
                self.scope[inner.arg] = path_of(inner.annotation)
            if isinstance(inner, ast.AnnAssign) and isinstance(inner.target, ast.Name):
                self.scope[inner.target.id] = path_of(inner.annotation)
        self.generic_visit(node)
        self.scope = outer

    def visit_Attribute(self, node):
        owner = self.path(node.value)
        if owner:
            self.uses.append((node.lineno, owner, node.attr))
            if node.attr not in FACTS["members"].get(owner, ()):
                self.faults.append(f"{node.lineno}: there is no {owner}.{node.attr}")
        elif self.is_answer(node.value):
            self.faults.append(f"{node.lineno}: give it an annotated name: {ast.unparse(node)}")
        self.generic_visit(node)

    def visit_Call(self, node):
        path = self.path(node.func)
        for keyword in node.keywords:
            if path and not re.search(rf"\b{keyword.arg}\b", FACTS["signatures"].get(path, "")):
                self.faults.append(f"{node.lineno}: {path} has no argument {keyword.arg}")
        self.generic_visit(node)

    def visit_Assign(self, node):
        names = [name.id for target in node.targets for name in ast.walk(target) if isinstance(name, ast.Name)]
        if self.is_answer(node.value) and any(name not in self.scope and name != "self" for name in names):
            self.faults.append(f"{node.lineno}: give it an annotated name: {ast.unparse(node)}")
        self.generic_visit(node)

    def is_answer(self, node):
        """Whether something that PyCUDA or CuPy gave has no annotated name yet."""
        if isinstance(node, ast.Call):
            owner = node.func.value if isinstance(node.func, ast.Attribute) else node.func
            return self.path(owner) is not None
        return isinstance(node, ast.Subscript) and self.is_answer(node.value)


def faults(source, known=None):
    return Reader(source, known or attributes([path.read_text() for path in SOURCES])).faults


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_every_name_is_in_the_packages(path):
    assert faults(path.read_text()) == []


def test_the_reader_sees_what_the_code_uses():
    known = attributes([path.read_text() for path in SOURCES])
    used = {(owner, name) for path in SOURCES for _, owner, name in Reader(path.read_text(), known).uses}
    assert {
        ("pycuda.driver", "memcpy_htod_async"),
        ("pycuda.driver", "pagelocked_empty"),
        ("pycuda.driver.Context", "push"),
        ("pycuda.driver.Device", "retain_primary_context"),
        ("pycuda.driver.Event", "time_since"),
        ("pycuda.driver.PagelockedHostAllocation", "get_device_pointer"),
        ("pycuda.driver.Stream", "wait_for_event"),
        ("pycuda.driver.device_attribute", "INTEGRATED"),
        ("pycuda.driver.host_alloc_flags", "DEVICEMAP"),
        ("cupy.RawModule", "get_function"),
        ("cupy.cuda.Graph", "launch"),
        ("cupy.cuda.Stream", "begin_capture"),
        ("cupy.cuda.Stream", "from_external"),
        ("cupy.cuda.runtime", "streamCaptureModeThreadLocal"),
    } <= used


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("context.cuda.memcpy_h2d(1, 2)", "there is no pycuda.driver.memcpy_h2d"),
        ("stream.begin_captrue()", "there is no cupy.cuda.Stream.begin_captrue"),
        ("self.event.timesince(0)", "there is no pycuda.driver.Event.timesince"),
        ("context.cupy.cuda.Devise(0)", "there is no cupy.cuda.Devise"),
        ("self._open().wait()", "there is no pycuda.driver.Stream.wait"),
        ("context.cuda.Stream(1).wait()", "there is no pycuda.driver.Stream.wait"),
        ("context.cuda.pagelocked_empty(1, int, flags=1)", "pagelocked_empty has no argument flags"),
        ("kernel(1, 1, (), shared_memory=1)", "cupy.RawKernel has no argument shared_memory"),
        ("graph = stream.end_capture()", "give it an annotated name"),
        ("context.cuda.mem_get_info()[0].real", "give it an annotated name"),
        ("stream.end_capture().launch()", "give it an annotated name"),
    ],
)
def test_a_planted_name_is_noticed(line, fault):
    source = f"def planted(self, context, stream: cupy.cuda.Stream, kernel: cupy.RawKernel):\n    {line}\n"
    assert any(fault in found for found in faults(source)), faults(source)


def test_the_facts_hold_for_what_is_installed():
    installed = packages()
    if installed != FACTS["packages"]:
        pytest.skip(f"the facts are of {FACTS['packages']}, installed is {installed or 'neither'}")
    try:
        found = found_facts()
    except ImportError as error:
        pytest.skip(f"PyCUDA cannot be loaded: {error}")
    assert found == FACTS
