"""No TensorRT name is used that a claimed flavour lacks, unless a hasattr probe stands in the same function.

``trt_api.json`` holds the members of every class the code touches, for five real Python bindings. The code keeps a
convention that makes it checkable: a TensorRT module is called ``module``; whatever comes out of TensorRT is put into
an annotated variable before anything is asked of it.
"""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[3] / "runtime" / "onfh_runtime" / "engines"
FACTS = json.loads(Path(__file__).with_name("trt_api.json").read_text())
EVERYWHERE = {name: set(members["everywhere"]) for name, members in FACTS["classes"].items()}
SOMEWHERE = {name: set(members["somewhere"]) for name, members in FACTS["classes"].items()}
MODULE = "module"


class Reader(ast.NodeVisitor):
    """Collects (line, class, member) uses of one file, its probes, and breaches of the convention."""

    def __init__(self, source):
        self.uses, self.breaches, self.scopes, self.probes = [], [], [{}], [set()]
        self.visit(ast.parse(source))

    def class_of(self, node):
        """The TensorRT class a name or an attribute stands for (itself or an instance of it), ``module``, or None."""
        if isinstance(node, ast.Name):
            if node.id in (MODULE, "trt"):
                return MODULE
            known = next((scope[node.id] for scope in reversed(self.scopes) if node.id in scope), None)
            return known or (node.id if node.id in EVERYWHERE else None)
        if isinstance(node, ast.Attribute):
            if node.attr == MODULE:
                return MODULE
            return node.attr if self.class_of(node.value) == MODULE else None
        return None

    def comes_from_tensorrt(self, node):
        if isinstance(node, ast.IfExp):
            return self.comes_from_tensorrt(node.body) or self.comes_from_tensorrt(node.orelse)
        if isinstance(node, ast.Call):
            return self.class_of(node.func) is not None or self.comes_from_tensorrt(node.func)
        if isinstance(node, ast.Subscript):
            return self.comes_from_tensorrt(node.value)
        return isinstance(node, ast.Attribute) and self.class_of(node.value) is not None and node.attr[:2] != "__"

    def annotated(self, annotation):
        names = [node for node in ast.walk(annotation) if isinstance(node, ast.Attribute)]
        return next((name.attr for name in names if isinstance(name.value, ast.Name) and name.value.id == "trt"), None)

    def use(self, node, owner, member):
        if not member.startswith("__"):
            self.uses.append((node.lineno, owner, member, frozenset().union(*self.probes)))

    def breach(self, node):
        self.breaches.append((node.lineno, ast.unparse(node)))

    def visit_FunctionDef(self, node):
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        self.scopes.append({a.arg: self.annotated(a.annotation) for a in arguments if a.annotation is not None})
        self.scopes[-1] = {name: found for name, found in self.scopes[-1].items() if found}
        calls = [n for n in ast.walk(node) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)]
        for inner in ast.walk(node):
            if isinstance(inner, ast.AnnAssign) and isinstance(inner.target, ast.Name):
                found = self.annotated(inner.annotation)
                if found:
                    self.scopes[-1][inner.target.id] = found
        probed = [c.args for c in calls if c.func.id == "hasattr" and isinstance(c.args[1], ast.Constant)]
        self.probes.append({(self.class_of(subject), name.value) for subject, name in probed})
        for owner, name in self.probes[-1]:
            if owner is not None:
                self.use(node, owner, name)
        self.generic_visit(node)
        self.scopes.pop()
        self.probes.pop()

    def visit_ClassDef(self, node):
        for base in map(self.class_of, node.bases):
            for method in node.body:
                if base and isinstance(method, ast.FunctionDef):
                    self.use(method, base, method.name)
        self.generic_visit(node)

    def visit_Attribute(self, node):
        owner = self.class_of(node.value)
        if owner is not None:
            self.use(node, owner, node.attr)
        elif self.comes_from_tensorrt(node.value):
            self.breach(node)
        self.generic_visit(node)

    def visit_Assign(self, node):
        named = [target.id for target in ast.walk(node.targets[0]) if isinstance(target, ast.Name)]
        stored = isinstance(node.targets[0], ast.Attribute)  # into an attribute, which was looked at as such
        if self.comes_from_tensorrt(node.value) and not stored and not set(named) <= set(EVERYWHERE):
            self.breach(node)
        self.generic_visit(node)

    def visit_For(self, node):
        if self.comes_from_tensorrt(node.iter):
            self.breach(node.iter)
        self.generic_visit(node)

    def visit_comprehension(self, node):
        self.visit_For(node)

    def visit_NamedExpr(self, node):
        if self.comes_from_tensorrt(node.value):
            self.breach(node)
        self.generic_visit(node)


def faults(source):
    """What is wrong with a source, a line each."""
    reader = Reader(source)
    found = [f"{line}: give it an annotated name: {text}" for line, text in reader.breaches]
    for line, owner, member, probes in reader.uses:
        if member in EVERYWHERE.get(owner, ()):
            continue
        if member not in SOMEWHERE.get(owner, ()):
            found.append(f"{line}: no flavour has {owner}.{member}")
        elif (owner, member) not in probes:
            found.append(f"{line}: only some flavours have {owner}.{member}")
    return found


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("*.py")), ids=lambda path: path.name)
def test_every_name_is_in_every_flavour_or_probed(path):
    assert faults(path.read_text()) == []


def test_the_reader_sees_what_the_code_uses():
    used = {(owner, member) for path in PACKAGE.glob("*.py") for _, owner, member, _ in Reader(path.read_text()).uses}
    assert {
        ("module", "Builder"),
        ("Builder", "build_serialized_network"),
        ("NetworkDefinitionCreationFlag", "STRONGLY_TYPED"),
        ("IBuilderConfig", "set_compute_capability"),
        ("IProgressMonitor", "step_complete"),
        ("ILogger", "log"),
        ("EngineInspector", "get_engine_information"),
        ("DataType", "BF16"),
    } <= used
    assert ("BuilderFlag", "FP16") not in used


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("network: trt.INetworkDefinition = builder.create_netwrok(1)", "no flavour has Builder.create_netwrok"),
        ("config.set_compute_capability(None, 0)", "only some flavours have IBuilderConfig.set_compute_capability"),
        ("flags: type[trt.BuilderFlag] = module.BuilderFlag; config.set_flag(flags.FP16)", "only some flavours have"),
        ("print(module.ComputeCapability)", "only some flavours have module.ComputeCapability"),
        ("print(flavour.module.Bilder)", "no flavour has module.Bilder"),
        ("print(builder.create_network(1).num_layers)", "give it an annotated name"),
        ("network = builder.create_network(1)", "give it an annotated name"),
        ("if (network := builder.create_network(1)): pass", "give it an annotated name"),
        ("print([layer for layer in builder.create_network(1)])", "give it an annotated name"),
        ("for layer in builder.create_network(1): pass", "give it an annotated name"),
        ("other = module.Builder(None)", "give it an annotated name"),
    ],
)
def test_a_planted_name_is_noticed(line, fault):
    source = f"def planted(module, flavour, builder: trt.Builder, config: trt.IBuilderConfig):\n    {line}\n"
    assert any(fault in found for found in faults(source)), faults(source)


def test_a_probe_lets_a_name_through_that_some_flavour_has():
    source = """
def probed(config: trt.IBuilderConfig):
    if hasattr(config, "set_compute_capability"):
        config.set_compute_capability(None, 0)
"""
    assert faults(source) == []
    assert faults(source.replace("set_compute_capability", "set_compute_capabilities"))


def test_the_facts_hold_for_the_binding_that_is_installed(rtx):
    installed = f"{rtx.name}-{rtx.version.rsplit('.', 1)[0]}"
    if installed not in FACTS["bindings"]:
        pytest.skip(f"the facts are of {', '.join(FACTS['bindings'])}, {installed} is installed")
    for name, members in FACTS["classes"].items():
        subject = rtx.module if name == MODULE else getattr(rtx.module, name, None)
        there = set(dir(subject)) if subject is not None else set()
        assert set(members["everywhere"]) <= there, name
        assert {member for member, owners in members["somewhere"].items() if installed in owners} == there & set(
            members["somewhere"]
        ), name
