"""A flavour is a module that can build, and targets are those it names itself."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest

from onfh_runtime.engines import FLAVOURS, Flavour, check_target, find_flavours, find_gpus, flavour, known_targets
from onfh_runtime.errors import MissingExtraError, UsageError


def test_tensorrt_rtx_is_found(rtx):
    assert rtx.name == "tensorrt-rtx"
    assert rtx.version == rtx.module.__version__
    assert rtx in find_flavours()


def test_it_names_its_targets(rtx):
    assert {"sm75", "sm86", "sm89", "sm120"} <= set(known_targets(rtx))
    assert list(known_targets(rtx)) == sorted(known_targets(rtx), key=lambda name: int(name[2:]))
    check_target(rtx, ["sm86", "sm120"])


def test_a_target_it_does_not_know_is_refused_by_name(rtx):
    with pytest.raises(UsageError, match=r"cannot build for sm87, CURRENT\. Choose from sm75, .*sm120") as caught:
        check_target(rtx, ["sm86", "sm87", "CURRENT"])
    assert caught.value.code == "target_unknown"


def test_tensorrt_builds_for_its_own_gpu_only():
    here = tuple(gpu.target for gpu in find_gpus()[:1])
    tensorrt = Flavour("tensorrt", SimpleNamespace(Builder=object), "10.13.3")
    assert known_targets(tensorrt) == here
    with pytest.raises(UsageError, match="cannot build for sm30: it builds only for the GPU it runs on, and"):
        check_target(tensorrt, ["sm30"])


def test_an_unknown_flavour_is_wrong_usage():
    with pytest.raises(UsageError, match="flavour_unknown"):
        flavour("openvino")


# In a process of its own: what is first on the path must not stay imported here.
_LOOK = """
import sys
sys.path.insert(0, sys.argv[1])
sys.path.append(sys.argv[2])
from onfh_runtime.engines import find_flavours, flavour
from onfh_runtime.errors import MissingExtraError
print([found.name for found in find_flavours()])
try:
    print(flavour("tensorrt").version)
except MissingExtraError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"tensorrt/__init__.pyi": "Builder: object"}, "tensorrt is not usable here: it is not installed. JetPack"),
        ({"tensorrt/__init__.py": "import tensorrt_libs_of_nobody"}, "tensorrt does not load (No module named"),
        ({"tensorrt/__init__.py": "raise OSError('libnvinfer.so.10: no such file')"}, "libnvinfer.so.10: no such file"),
        ({"tensorrt/__init__.py": "__version__ = '10.3.0'\nclass Builder: pass"}, "10.3.0"),
    ],
    ids=["type stubs", "a part is missing", "a library is missing", "whole"],
)
def test_what_merely_imports_is_no_flavour(tmp_path, files, says):
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    runtime = str(__import__("pathlib").Path(__import__("onfh_runtime").__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", _LOOK, str(tmp_path), runtime], capture_output=True, text=True, check=True
    )
    found, answer = done.stdout.splitlines()
    assert says in answer
    assert ("'tensorrt'" in found) is (says == "10.3.0")
    if says != "10.3.0":
        assert answer.endswith("[flavour_missing]")


def test_every_flavour_says_how_to_get_it():
    installed = {found.name for found in find_flavours()}
    for name in set(FLAVOURS) - installed:
        with pytest.raises(MissingExtraError) as caught:
            flavour(name)
        assert "pip install" in caught.value.fix
