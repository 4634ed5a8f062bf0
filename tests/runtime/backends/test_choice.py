"""What ``auto`` means on machines that are made up: a driver in C, and packages of a few lines."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import onfh_runtime
from onfh_runtime.backends import BACKENDS, DEVICE_BACKENDS, choose_backend, open_stage
from onfh_runtime.engines import find_gpus
from onfh_runtime.errors import BackendError, UsageError

_DRIVER = """
#include <string.h>
int cuInit(unsigned flags) { return 0; }
int cuDriverGetVersion(int *version) { *version = 13000; return 0; }
int cuDeviceGetCount(int *count) { *count = 2; return 0; }
int cuDeviceGet(int *device, int ordinal) { *device = ordinal; return 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
  int capability = device ? 90 : 89;
  *value = attribute == 75 ? capability / 10 : capability % 10;
  return 0;
}
int cuDeviceGetName(char *name, int length, int device) {
  strncpy(name, device ? "NVIDIA H200" : "NVIDIA RTX 4000 Ada", length);
  return 0;
}
"""
_BROKEN = "raise ImportError('it is broken')"
_CUPY = "class cuda:\n    class runtime:\n        runtimeGetVersion = staticmethod(lambda: 13000)\n"
_ORT = "__version__ = '9'\ndef get_available_providers(): return {}\n"
_PYCUDA = {"pycuda/__init__.py": "", "pycuda/driver.py": "def init(): pass\n"}
_HAS = {"cupy.py": _CUPY, **_PYCUDA}
_NOTHING = {"cupy.py": _BROKEN, "onnxruntime.py": _ORT.format(["CPUExecutionProvider"]), "tensorrt.py": _BROKEN}
_CUDA_ORT = {"onnxruntime.py": _ORT.format(["CUDAExecutionProvider", "CPUExecutionProvider"])}
_TENSORRT = {"tensorrt.py": "__version__ = '10.13.3'\nclass Builder: pass\n"}
_LOOK = """
import json, sys
from onfh_runtime.backends import choose_backend
from onfh_runtime.errors import OnfhError
try:
    choice = choose_backend(sys.argv[1], int(sys.argv[2]))
    refused = {refusal.backend: [refusal.error.code, str(refusal.error)] for refusal in choice.refused}
    print(json.dumps([choice.backend, refused, choice.warnings, choice.on_device]))
except OnfhError as error:
    print(json.dumps([error.code, error.text, error.fix]))
"""


@pytest.fixture
def choose(tmp_path, rtx):
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    (tmp_path / "driver.c").write_text(_DRIVER)
    library = ["-shared", "-fPIC", "-o", str(tmp_path / "libcuda.so.1")]
    subprocess.run([compiler, *library, str(tmp_path / "driver.c")], check=True)

    def chosen(backend, files, gpu=0):
        for name, content in (_NOTHING | files).items():
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(content)
        paths = [str(tmp_path), str(Path(onfh_runtime.__path__[0]).parent)]
        environment = {**os.environ, "LD_LIBRARY_PATH": str(tmp_path), "PYTHONPATH": os.pathsep.join(paths)}
        command = [sys.executable, "-c", _LOOK, backend, str(gpu)]
        return json.loads(subprocess.run(command, env=environment, capture_output=True, check=True).stdout)

    return chosen


@pytest.mark.parametrize(
    ("gpu", "files", "backend"),
    [
        (0, _HAS | _TENSORRT | _CUDA_ORT, "tensorrt"),
        (1, _HAS | _TENSORRT, "tensorrt"),
        (0, _HAS | _CUDA_ORT, "tensorrt-rtx"),
        (1, _HAS | _CUDA_ORT, "onnxruntime-cuda"),
        (1, _HAS, "onnxruntime"),
        (0, _TENSORRT | _CUDA_ORT, "onnxruntime"),
    ],
)
def test_auto_is_the_best_that_runs(choose, gpu, files, backend):
    chosen, refused, warnings, on_device = choose("auto", files, gpu)
    assert chosen == backend
    assert on_device is (backend in DEVICE_BACKENDS)
    better = DEVICE_BACKENDS[: DEVICE_BACKENDS.index(backend)] if on_device else DEVICE_BACKENDS
    assert tuple(refused) == better
    assert [code for code, _ in warnings] == ([] if backend.startswith("tensorrt") else ["backend_fallback"])


def test_every_refusal_has_its_reason(choose):
    _, refused, ((_, text),), _ = choose("auto", _HAS, gpu=1)
    assert {name: code for name, (code, _) in refused.items()} == {
        "tensorrt": "flavour_missing",
        "tensorrt-rtx": "gpu_unsupported",
        "onnxruntime-cuda": "missing_extra",
    }
    assert "and this GPU (NVIDIA H200) is sm90" in refused["tensorrt-rtx"][1]
    assert text.startswith("This ran on onnxruntime, which is slower than this GPU allows. tensorrt: ")
    assert "onnxruntime-cuda: The ONNX Runtime installed here (9) has no CUDA provider." in text


def test_a_missing_package_is_named(choose):
    _, refused, _, _ = choose("auto", _TENSORRT)
    assert refused["tensorrt"][0] == "missing_extra"
    assert "CuPy cannot be imported: it is broken" in refused["tensorrt"][1]
    assert "pip install 'onfh-edge[gpu]'" in refused["tensorrt"][1]


@pytest.mark.parametrize(
    ("backend", "gpu", "code"),
    [
        ("tensorrt", 0, "flavour_missing"),
        ("tensorrt-rtx", 1, "gpu_unsupported"),
        ("onnxruntime-cuda", 0, "missing_extra"),
        ("tensorrt-rtx", 2, "no_such_gpu"),
    ],
)
def test_a_gpu_backend_by_name_is_that_or_an_error_with_a_fix(choose, backend, gpu, code):
    found, text, fix = choose(backend, _HAS, gpu)
    assert found == code
    assert text
    assert fix
    assert choose("tensorrt-rtx", _HAS)[0] == "tensorrt-rtx"


@pytest.mark.skipif(bool(find_gpus()), reason="there is a GPU here")
def test_a_machine_without_a_gpu_has_nothing_to_warn_of():
    choice = choose_backend("auto")
    assert (choice.backend, choice.warnings, choice.on_device) == ("onnxruntime", (), False)
    assert [refusal.error.code for refusal in choice.refused] == ["no_driver"] * 3
    with pytest.raises(BackendError, match="no_driver"):
        choose_backend("tensorrt")


@pytest.mark.parametrize("backend", ["onnxruntime", "triton:http://localhost:8000"])
def test_what_needs_no_gpu_is_taken_as_it_is(backend):
    choice = choose_backend(backend)
    assert (choice.backend, choice.refused, choice.warnings, choice.on_device) == (backend, (), (), False)


def test_a_name_nobody_knows(tiny_bundle):
    for asked in (lambda: choose_backend("openvino"), lambda: open_stage(tiny_bundle, "classifier", "openvino")):
        with pytest.raises(UsageError, match=r"openvino.*Choose one of auto, .*unknown_backend"):
            asked()
    with pytest.raises(UsageError, match="on the host"):
        open_stage(tiny_bundle, "classifier", "tensorrt")
    assert set(DEVICE_BACKENDS) < set(BACKENDS)
