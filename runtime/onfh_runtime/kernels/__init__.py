"""The CUDA kernels, as source: compiled for the GPU at hand when a device is opened.

The source needs no header file, so NVRTC alone compiles it; compiled as C++ it runs on a CPU, which is how tests check
it where there is no GPU.
"""

from __future__ import annotations

import re
from importlib.resources import files

__all__ = ["KERNELS", "kernel_source"]


def kernel_source() -> str:
    """Every kernel in one C++17 source text."""
    folder = files(__name__)
    names = sorted(item.name for item in folder.iterdir() if item.name.endswith(".cu"))
    return "\n".join((folder / name).read_text(encoding="utf-8") for name in ("portable.h", *names))


KERNELS: tuple[str, ...] = tuple(re.findall(r"^(?:\w+_)?KERNEL\((\w+)", kernel_source(), re.MULTILINE))
"""Names of the kernels, extern "C"."""
