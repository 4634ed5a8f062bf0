"""The kernels compiled as C++ and run on the CPU over host memory; tests skip by name where there is no g++."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from onfh_runtime.kernels import kernel_source

FLAGS = ("-std=c++17", "-O2", "-shared", "-fPIC", "-Wall", "-Werror", "-Wno-unused-function")


@cache
def library(source: str | None = None) -> ctypes.CDLL:
    """The kernels (or another source of the same kind) as a shared library, compiled once per source."""
    source = kernel_source() if source is None else source
    compiler = shutil.which("g++")
    if compiler is None:
        if os.environ.get("ONFH_REQUIRE_TOOLS"):
            pytest.fail("ONFH_REQUIRE_TOOLS is set and g++ is absent")
        pytest.skip("g++ is not installed")
    digest = hashlib.sha256("\0".join((compiler, *FLAGS, source)).encode()).hexdigest()[:16]
    built = Path(tempfile.gettempdir()) / f"onfh-kernels-{os.getuid()}-{digest}.so"
    if not built.exists():
        with tempfile.TemporaryDirectory() as folder:
            code, made = Path(folder) / "kernels.cpp", Path(folder) / "kernels.so"
            code.write_text(source, encoding="utf-8")
            done = subprocess.run([compiler, *FLAGS, str(code), "-o", str(made)], capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            part = built.with_suffix(f".{os.getpid()}")
            shutil.copy(made, part)
            part.replace(built)
    return ctypes.CDLL(str(built))


def launch(
    kernel: str,
    grid: tuple[int, int, int],
    block: tuple[int, int, int],
    args: Sequence[int | np.generic],
    *,
    shared_bytes: int = 0,
    source: str | None = None,
) -> None:
    """Run a kernel to its end.

    Args:
        kernel: its name.
        grid: blocks along x, y, z.
        block: threads of a block, one-dimensional.
        args: in the kernel's order, an address (int) for a pointer and a NumPy scalar of the very type for a value.
        shared_bytes: dynamic shared memory of a block.
        source: another source than :func:`kernel_source`.
    """
    values = [np.uintp(value) if isinstance(value, int) else value for value in args]
    cells = [np.array([value]) for value in values]
    pointers = (ctypes.c_void_p * len(cells))(*(cell.ctypes.data for cell in cells))
    done = getattr(library(source), f"host_{kernel}")(
        (ctypes.c_int * 3)(*grid), (ctypes.c_int * 3)(*block), ctypes.c_int(shared_bytes), pointers
    )
    assert done != 1, f"{kernel} wrote behind its {shared_bytes} bytes of shared memory"
    assert done == 0, f"{kernel} cannot be launched as {grid} blocks of {block} threads"
