"""mypy holds every call of a TensorRT object against the published stubs of TensorRT 10.13."""

from __future__ import annotations

import ast
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PACKAGE = ROOT / "runtime" / "onfh_runtime" / "engines"
CONFIG = """
[mypy]
strict = true
warn_unused_ignores = false
explicit_package_bases = true
plugins = pydantic.mypy
follow_imports = silent
follow_imports_for_stubs = true
"""
PLANTED = """
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import tensorrt as trt


def planted(module: ModuleType, builder: trt.Builder) -> None:
    network: trt.INetworkDefinition = builder.create_netwrok(0)
    config: trt.IBuilderConfig = builder.create_builder_config()
    config.set_memory_pool_limit("workspace", network.num_layers)
    flags: type[trt.BuilderFlag] = module.BuilderFlag
    config.set_flag(flags.STRIP_PLANS)
"""


@pytest.fixture(scope="module")
def stubs(tmp_path_factory):
    """A folder with the installed stubs, made readable: some of their lines are no Python."""
    found = importlib.util.find_spec("tensorrt_stubs")
    if found is None or found.origin is None:
        if os.environ.get("ONFH_REQUIRE_TOOLS"):
            pytest.fail("ONFH_REQUIRE_TOOLS is set and tensorrt-stubs is not installed")
        pytest.skip("tensorrt-stubs is not installed")
    folder = tmp_path_factory.mktemp("stubs")
    installed = Path(found.origin).parents[1]
    for name in ("tensorrt/__init__.pyi", "tensorrt_bindings/__init__.pyi", "tensorrt_bindings/tensorrt.pyi"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(repaired((installed / name).read_text()))
    return folder


def repaired(source):
    """``source`` with each method that does not parse given any arguments at all."""
    lines = source.splitlines()
    for _ in range(20):
        try:
            ast.parse("\n".join(lines))
        except SyntaxError as error:
            line = lines[error.lineno - 1]
            head, _, tail = line.partition("(")
            assert head.strip().startswith("def "), line
            lines[error.lineno - 1] = (
                f"{head}(self, *args: typing.Any, **kwargs: typing.Any){tail[tail.rindex(')') + 1 :]}"
            )
        else:
            return "\n".join(lines)
    raise AssertionError("more than a few faulty lines in the stubs")


@pytest.mark.slow
def test_every_call_fits_the_stubs_and_a_wrong_one_does_not(stubs, tmp_path):
    config, planted = tmp_path / "mypy.ini", tmp_path / "planted.py"
    config.write_text(CONFIG)
    planted.write_text(PLANTED)
    command = [sys.executable, "-m", "mypy", f"--config-file={config}", f"--cache-dir={tmp_path / 'cache'}"]
    done = subprocess.run(
        [*command, str(PACKAGE), str(planted)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "MYPYPATH": os.pathsep.join(map(str, (stubs, ROOT / "runtime")))},
    )
    wrong = [line for line in done.stdout.splitlines() if ": error:" in line]
    assert [line for line in wrong if not line.startswith(str(planted))] == [], done.stdout + done.stderr
    assert len(wrong) == 3, done.stdout + done.stderr
    for word, line in zip(("create_netwrok", "set_memory_pool_limit", "STRIP_PLANS"), wrong, strict=True):
        assert word in line
