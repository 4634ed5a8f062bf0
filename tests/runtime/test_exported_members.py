"""The public face: what a package's ``__init__`` re-exports is what ``__all__`` says, and it is sorted."""

from __future__ import annotations

import importlib
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import onfh_runtime

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted(info.name for info in pkgutil.walk_packages(onfh_runtime.__path__, "onfh_runtime."))


def modules_after(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("name", MODULES)
def test_all_is_there_and_true(name):
    module = importlib.import_module(name)
    source = Path(module.__file__).read_text()
    if Path(module.__file__).name == "__init__.py" and "import" not in source:
        return
    assert len(set(module.__all__)) == len(module.__all__)
    for member in module.__all__:
        assert getattr(module, member) is not None
    assert "import *" not in source


def test_the_package_loads_its_names_on_first_use():
    for name in onfh_runtime.__all__:
        assert getattr(onfh_runtime, name) is not None
    with pytest.raises(AttributeError):
        _ = onfh_runtime.nothing


def test_importing_the_package_or_the_command_costs_next_to_nothing():
    code = "import sys, onfh_runtime, onfh_runtime.cli.main; print(*sys.modules)"
    loaded = set(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    )
    assert not loaded & {"numpy", "pydicom", "onnxruntime", "highdicom", "pydantic", "torch"}


def test_the_runtime_never_imports_torch_or_the_exporter():
    code = "\n".join(
        ["import sys, importlib", *(f"importlib.import_module({m!r})" for m in MODULES), "print(*sys.modules)"]
    )
    loaded = set(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    )
    assert not {m.split(".")[0] for m in loaded} & {"torch", "transformers", "onnx", "onfh_export", "scipy"}


def test_one_version_everywhere():
    project = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    changelog = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert project
    assert changelog
    assert project[1] == changelog[1] == onfh_runtime.__version__


def test_no_module_is_too_long():
    long = [
        f"{path}: {lines}"
        for folder in ("runtime", "export", "benchmarks", "tests")
        for path in (ROOT / folder).rglob("*.py")
        if (lines := len(path.read_text().splitlines())) > 400
    ]
    assert long == []
