"""The CUDA driver, and the two packages that speak to it: whether they are here and fit each other."""

from __future__ import annotations

import ctypes
from importlib import import_module
from types import ModuleType

from onfh_runtime.engines.machine import find_gpus
from onfh_runtime.errors import BackendError, MissingExtraError

__all__ = ["check_gpu", "driver_version", "import_cupy", "import_pycuda", "leave_context"]

_LIBRARY = "libcuda.so.1"
_NO_DEVICE = 100
"""CUDA_ERROR_NO_DEVICE."""
_INSTALL = "Run: pip install 'onfh-edge[gpu]' (on a Jetson: 'onfh-edge[jetson]')"


def driver_version() -> int:
    """The newest CUDA that the driver serves, as it says it: 13020 is 13.2.

    Raises:
        BackendError: ``no_driver``, or ``no_such_gpu`` when the driver sees no GPU at all.
    """
    try:
        driver = ctypes.CDLL(_LIBRARY)
    except OSError as error:
        raise BackendError(
            "no_driver",
            f"There is no NVIDIA driver here: {_LIBRARY} cannot be loaded.",
            "Install NVIDIA's driver (in a container: give it the GPU, for example docker run --gpus all).",
        ) from error
    if status := driver.cuInit(0):
        if status == _NO_DEVICE:
            raise _no_such_gpu("The NVIDIA driver sees no GPU.")
        said = ctypes.c_char_p()
        driver.cuGetErrorString(status, ctypes.byref(said))
        raise BackendError(
            "no_driver",
            f"The NVIDIA driver does not start: {(said.value or b'unknown error').decode()} ({status}).",
            "Restart the machine if the driver was just updated; nvidia-smi must list the GPU.",
        )
    version = ctypes.c_int()
    driver.cuDriverGetVersion(ctypes.byref(version))
    return version.value


def check_gpu(ordinal: int) -> None:
    """Raise BackendError ``no_such_gpu`` unless the driver lists that many GPUs."""
    gpus = find_gpus()
    if not 0 <= ordinal < len(gpus):
        listed = ", ".join(f"{place}: {gpu.name} ({gpu.target})" for place, gpu in enumerate(gpus))
        raise _no_such_gpu(f"There is no GPU {ordinal}; the driver lists {listed or 'none'}.")


def import_cupy(driver: int) -> ModuleType:
    """CuPy, if it was built for a CUDA that this driver serves.

    Raises:
        MissingExtraError: ``missing_extra``.
        BackendError: ``driver_too_old``.
    """
    try:
        cupy = import_module("cupy")
    except ImportError as error:
        raise MissingExtraError("missing_extra", f"CuPy cannot be imported: {_line(error)}", _INSTALL) from error
    built: int = cupy.cuda.runtime.runtimeGetVersion()
    if driver // 1000 < built // 1000:
        raise BackendError(
            "driver_too_old",
            f"The NVIDIA driver serves CUDA {_words(driver)}, and the CuPy installed here is built for CUDA "
            f"{_words(built)}.",
            f"Install a driver for CUDA {built // 1000} (on a Jetson: a newer JetPack), or "
            f"cupy-cuda{driver // 1000}x in place of cupy-cuda{built // 1000}x.",
        )
    return cupy


def import_pycuda() -> ModuleType:
    """PyCUDA's driver module, ready for use.

    Raises:
        MissingExtraError: ``missing_extra``, not installed, or built for another CUDA than the driver's.
    """
    try:
        cuda = import_module("pycuda.driver")
    except ModuleNotFoundError as error:
        raise MissingExtraError("missing_extra", f"PyCUDA cannot be imported: {_line(error)}", _INSTALL) from error
    except ImportError as error:  # it is linked against the driver: a symbol is missing, or a library
        raise MissingExtraError(
            "missing_extra",
            f"PyCUDA is installed and cannot be loaded: {_line(error)}",
            "Build it again with the CUDA toolkit of this driver: pip install --force-reinstall --no-cache-dir pycuda",
        ) from error
    cuda.init()
    return cuda


def leave_context() -> None:
    """Take the thread's current context off its stack, which PyCUDA does not do when it lets go of a context."""
    ctypes.CDLL(_LIBRARY).cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))


def _no_such_gpu(text: str) -> BackendError:
    return BackendError("no_such_gpu", text, "Choose another, and look at CUDA_VISIBLE_DEVICES.")


def _words(version: int) -> str:
    return f"{version // 1000}.{version % 1000 // 10}"


def _line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
