"""What of this machine decides whether a plan fits: its GPUs, and the TensorRT flavours installed."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["Gpu", "Machine", "find_gpus", "this_machine"]

_DRIVER = "libcuda.so.1"
_MAJOR, _MINOR = 75, 76
"""CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR of the CUDA driver interface."""
_NAME_BYTES = 128


@dataclass(frozen=True)
class Gpu:
    """A GPU and its compute capability, written as builders write it: ``sm89`` is 8.9, ``sm120`` is 12.0."""

    name: str
    target: str


@dataclass(frozen=True)
class Machine:
    """The GPUs in the driver's order, and the version of each installed flavour by its name."""

    gpus: tuple[Gpu, ...]
    flavours: Mapping[str, str]


def this_machine() -> Machine:
    """Describe the machine this runs on."""
    from onfh_runtime.engines.flavours import find_flavours

    return Machine(find_gpus(), {found.name: found.version for found in find_flavours()})


def find_gpus() -> tuple[Gpu, ...]:
    """The GPUs the CUDA driver lets this process see; none where there is no driver."""
    try:
        driver = ctypes.CDLL(_DRIVER)
    except OSError:
        return ()
    count = ctypes.c_int()
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return ()
    found = (_gpu(driver, ordinal) for ordinal in range(count.value))
    return tuple(gpu for gpu in found if gpu is not None)


def _gpu(driver: ctypes.CDLL, ordinal: int) -> Gpu | None:
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    name = ctypes.create_string_buffer(_NAME_BYTES)
    failed = (
        driver.cuDeviceGet(ctypes.byref(device), ordinal)
        or driver.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, device)
        or driver.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, device)
        or driver.cuDeviceGetName(name, _NAME_BYTES, device)
    )
    return None if failed else Gpu(name.value.decode(errors="replace"), f"sm{major.value}{minor.value}")
