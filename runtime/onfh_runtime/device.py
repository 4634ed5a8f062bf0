"""Where things run. A CPU needs no more than a name."""

from __future__ import annotations

import ctypes
import platform
from contextlib import suppress
from pathlib import Path

__all__ = ["cpu_name", "return_free_memory"]


def cpu_name() -> str:
    """The processor's name as the system tells it, for the record in results."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def return_free_memory() -> None:
    """Give freed heap memory back to the system where the C library can (glibc); elsewhere nothing happens.

    Opening a model frees as much again as it keeps: glibc holds on to that, 230 MB of it for a ViT-B/16.
    """
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
