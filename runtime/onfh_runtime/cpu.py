"""The processor things run on where no GPU is asked for."""

from __future__ import annotations

import ctypes
import os
import platform
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

__all__ = ["cores", "cpu_name", "multiplies_bytes_exactly", "over_cores", "return_free_memory"]


def cores() -> int:
    """Cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


def over_cores(work: Callable[[slice], None], count: int) -> None:
    """Do ``work`` on 0 to ``count``, a stretch for each core."""
    edges = [count * k // cores() for k in range(cores() + 1)]
    with ThreadPoolExecutor(cores(), "onfh-cores") as pool:
        deque(pool.map(work, map(slice, edges[:-1], edges[1:])), 0)


def cpu_name() -> str:
    """The processor's name as the system tells it, for the record in results."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def multiplies_bytes_exactly() -> bool:
    """Whether products of bytes are known to be summed in 32 bits (x86 with VNNI) and not, saturating, in 16."""
    try:
        return "vnni" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False


def return_free_memory() -> None:
    """Give freed heap memory back to the system where the C library can (glibc); elsewhere nothing happens.

    Opening a model frees as much again as it keeps: glibc holds on to that, 230 MB of it for a ViT-B/16.
    """
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
