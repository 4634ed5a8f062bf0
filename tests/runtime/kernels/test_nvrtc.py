"""NVRTC alone, without a GPU or a toolkit, compiles the kernels for every GPU that is supported."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import re
from pathlib import Path

import pytest

from onfh_runtime.kernels import KERNELS, kernel_source

TARGETS = (75, 80, 86, 87, 89, 90, 100, 110, 120)


def library():
    """libnvrtc of the wheel nvidia-cuda-nvrtc."""
    spec = importlib.util.find_spec("nvidia")
    found = [
        path
        for folder in (spec.submodule_search_locations or [] if spec else [])
        for path in sorted(Path(folder).glob("*/lib/libnvrtc.so.*"))
        if "alt" not in path.name
    ]
    if not found:
        if os.environ.get("ONFH_REQUIRE_TOOLS"):
            pytest.fail("ONFH_REQUIRE_TOOLS is set and the wheel nvidia-cuda-nvrtc is absent")
        pytest.skip("the wheel nvidia-cuda-nvrtc is not installed")
    return ctypes.CDLL(str(found[-1]))


def compiled(source, target):
    """Whether it compiles, what is said about it, and the cubin."""
    nvrtc, program, size = library(), ctypes.c_void_p(), ctypes.c_size_t()

    def read(what):
        assert getattr(nvrtc, f"nvrtcGet{what}Size")(program, ctypes.byref(size)) == 0
        text = ctypes.create_string_buffer(size.value)
        assert getattr(nvrtc, f"nvrtcGet{what}")(program, text) == 0
        return text.raw

    assert nvrtc.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"kernels.cu", 0, None, None) == 0
    try:
        options = (f"--gpu-architecture=sm_{target}", "--std=c++17", "--ptxas-options=-v")
        failed = nvrtc.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * 3)(*map(str.encode, options)))
        log = read("ProgramLog").decode().rstrip("\0")
        return not failed, log, b"" if failed else read("CUBIN")
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


@pytest.mark.parametrize("target", TARGETS)
def test_the_kernels_compile_without_warnings_and_keep_to_their_registers(target):
    fine, log, cubin = compiled(kernel_source(), target)
    assert fine, log
    assert [line for line in log.splitlines() if line and not line.startswith("ptxas ")] == []
    assert "warning" not in log
    spilled = re.findall(r"(\d+) bytes spill", log)
    assert len(spilled) == 2 * len(KERNELS)
    assert set(spilled) == {"0"}, log
    for kernel in KERNELS:
        assert kernel.encode() in cubin


def test_a_warning_would_be_seen():
    fine, log, _ = compiled(kernel_source() + "\n__global__ void odd() { int unused; }\n", 75)
    assert fine
    assert "warning" in log
