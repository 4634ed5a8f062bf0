"""GPUs are found through the driver's own library, and its absence is no error."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import onfh_runtime
from onfh_runtime.engines import find_flavours, find_gpus, this_machine

_DRIVER = """
#include <string.h>
int cuInit(unsigned flags) { return INIT; }
int cuDeviceGetCount(int *count) { *count = 3; return 0; }
int cuDeviceGet(int *device, int ordinal) { *device = 40 + ordinal; return ordinal == 1 ? 101 : 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
  int capability = device == 40 ? 89 : 120;
  *value = attribute == 75 ? capability / 10 : attribute == 76 ? capability % 10 : -1;
  return 0;
}
int cuDeviceGetName(char *name, int length, int device) {
  strncpy(name, device == 40 ? "NVIDIA RTX 4000 Ada" : "NVIDIA RTX 5090", length);
  return 0;
}
"""
_LOOK = (
    "from onfh_runtime.engines import find_gpus; print(*[f'{gpu.name}={gpu.target}' for gpu in find_gpus()], sep=';')"
)


def gpus_with(folder, init):
    """What is found where libcuda.so.1 is a stand-in with two working GPUs, compiled from C."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    (folder / "driver.c").write_text(_DRIVER)
    library = ["-shared", "-fPIC", "-o", str(folder / "libcuda.so.1")]
    subprocess.run([compiler, f"-DINIT={init}", *library, str(folder / "driver.c")], check=True)
    environment = {
        **os.environ,
        "LD_LIBRARY_PATH": str(folder),
        "PYTHONPATH": str(Path(onfh_runtime.__path__[0]).parent),
    }
    done = subprocess.run([sys.executable, "-c", _LOOK], env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_gpus_are_read_from_the_driver(tmp_path):
    assert gpus_with(tmp_path, 0) == "NVIDIA RTX 4000 Ada=sm89;NVIDIA RTX 5090=sm120"


def test_a_driver_without_a_gpu_has_none(tmp_path):
    assert gpus_with(tmp_path, 100) == ""


def test_this_machine_is_described():
    machine = this_machine()
    assert machine.gpus == find_gpus()
    assert dict(machine.flavours) == {found.name: found.version for found in find_flavours()}


@pytest.mark.gpu
def test_a_gpu_is_found():
    if not Path("/dev/nvidiactl").exists() and not os.environ.get("ONFH_REQUIRE_GPU"):
        pytest.skip("no NVIDIA GPU")
    assert find_gpus()
