"""What this machine has for an analysis: GPUs, packages, backends, decoders, cached engines. Behind ``onfh doctor``.

Each part is looked at by itself: one that is half installed says so, and the others are looked at all the same.
"""

from __future__ import annotations

import contextlib
import ctypes
import platform
import re
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from onfh_runtime import __version__
from onfh_runtime.cpu import cores, cpu_name
from onfh_runtime.errors import OnfhError
from onfh_runtime.survey_commands import commands_for, kind_of

__all__ = ["OPTIONAL", "REQUIRED", "survey", "without_user_names"]

REQUIRED = ("highdicom", "numpy", "onnxruntime", "pillow", "pydantic", "pydicom")
OPTIONAL = (
    ("torch", "export", "onfh train, onfh export"),
    ("transformers", "export", "onfh train, onfh export"),
    ("onnx", "export", "onfh export"),
    ("imagecodecs", "codecs", "JPEG lossless and HTJ2K, and decoding on every core"),
    ("pynetdicom", "listen", "onfh listen"),
    ("scipy", "evaluate", "distances of masks in onfh evaluate"),
    ("tritonclient", "triton", "the backend triton:URL"),
)
"""Package, extra, and what it brings."""

_DECODED = (
    ("JPEG lossless", "1.2.840.10008.1.2.4.70"),
    ("JPEG-LS", "1.2.840.10008.1.2.4.80"),
    ("JPEG 2000", "1.2.840.10008.1.2.4.90"),
    ("HTJ2K", "1.2.840.10008.1.2.4.201"),
    ("RLE", "1.2.840.10008.1.2.5"),
)
_INTEGRATED = 18
"""CU_DEVICE_ATTRIBUTE_INTEGRATED of the CUDA driver interface."""
_VERSION_BYTES = 64
"""Of the longest version that NVML writes."""


def survey() -> dict[str, Any]:
    """Everything, as a JSON document without user names; ``missing`` lists required packages that are not here."""
    with contextlib.redirect_stdout(sys.stderr):  # what packages print when they are imported is no answer
        driver = _probed(_driver)
        kind = kind_of(driver.get("cuda"))
        commands = commands_for(kind)
        packages = [_package(name, "required", "", commands) for name in REQUIRED]
        packages += [_package(name, extra, brings, commands) for name, extra, brings in OPTIONAL]
        found = {
            "software": {"onfh-edge": __version__, "python": platform.python_version(), "executable": sys.executable},
            "machine": {
                "kind": kind.name,
                "architecture": platform.machine(),
                "cores": cores(),
                "processor": _probed(cpu_name),
            },
            "driver": {**driver, **({"command": commands["driver"]} if "problem" in driver else {})},
            "gpus": _probed(_gpus),
            "packages": packages,
            "gpu_packages": _gpu_packages(driver.get("cuda"), commands),
            "tensorrt": [_flavour(name, commands) for name in ("tensorrt", "tensorrt-rtx")],
            "onnxruntime": {**_probed(_onnxruntime), "command": commands["onnxruntime-cuda"]},
            "backends": _probed(_backends),
            "decoders": _probed(_decoders),
            "cache": _probed(_cache),
            "missing": [name for name in REQUIRED if _version(name) is None],
        }
    scrubbed: dict[str, Any] = without_user_names(found)
    return scrubbed


def without_user_names(value: Any) -> Any:
    """The same document; home folders, which name their user, become ``~``."""
    if isinstance(value, str):
        with contextlib.suppress(RuntimeError):
            home = str(Path.home())
            value = value.replace(home, "~") if len(home) > 1 else value
        return re.sub(r"/(?:home|Users)/[^/\s'\"]+", "~", value)
    if isinstance(value, Mapping):
        return {key: without_user_names(item) for key, item in value.items()}
    return [without_user_names(item) for item in value] if isinstance(value, list) else value


def _probed(look: Callable[[], Any]) -> Any:
    """What a look finds, or ``{"problem": ...}``: a broken package may raise anything."""
    try:
        return look()
    except OnfhError as error:
        return {"problem": error.text, "code": error.code, "fix": error.fix}
    except Exception as error:
        return {"problem": f"{type(error).__name__}: {_line(error)}"}


def _driver() -> dict[str, Any]:
    from onfh_runtime.cuda_driver import driver_version

    return {"cuda": driver_version(), "version": _nvml_version()}


def _nvml_version() -> str:
    """The driver's own version, such as 580.95.05; "" where NVML does not say it (a Jetson)."""
    with contextlib.suppress(OSError, AttributeError):
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
        text = ctypes.create_string_buffer(_VERSION_BYTES)
        if nvml.nvmlInit_v2() == 0:
            said = nvml.nvmlSystemGetDriverVersion(text, _VERSION_BYTES)
            nvml.nvmlShutdown()
            return text.value.decode() if said == 0 else ""
    return ""


def _gpus() -> list[dict[str, Any]]:
    from onfh_runtime.engines.machine import find_gpus

    return [
        {"ordinal": ordinal, "name": gpu.name, "compute_capability": _dotted(gpu.target), **_memory(ordinal)}
        for ordinal, gpu in enumerate(find_gpus())
    ]


def _memory(ordinal: int) -> dict[str, Any]:
    """Bytes, and whether they are the processor's too."""
    driver, device = ctypes.CDLL("libcuda.so.1"), ctypes.c_int()
    total, integrated = ctypes.c_size_t(), ctypes.c_int()
    driver.cuDeviceGet(ctypes.byref(device), ordinal)
    driver.cuDeviceTotalMem_v2(ctypes.byref(total), device)
    driver.cuDeviceGetAttribute(ctypes.byref(integrated), _INTEGRATED, device)
    return {"memory_bytes": total.value, "integrated": bool(integrated.value)}


def _package(name: str, extra: str, brings: str, commands: Mapping[str, str]) -> dict[str, Any]:
    found = _version(name)
    missing = {} if found else {"command": commands[extra]}
    return {"name": name, "version": found, "required": extra == "required", "brings": brings, **missing}


def _gpu_packages(driver: int | None, commands: Mapping[str, str]) -> list[dict[str, Any]]:
    """CuPy, NVRTC, PyCUDA and NVML's Python package, each imported and asked."""

    def cupy() -> str:
        module = import_module("cupy")
        return f"{module.__version__}, built for CUDA {_cuda(module.cuda.runtime.runtimeGetVersion())}"

    def nvrtc() -> str:
        major, minor = import_module("cupy").cuda.nvrtc.getVersion()
        return f"{major}.{minor}"

    def pycuda() -> str:
        module = import_module("pycuda.driver")
        return f"{_version('pycuda') or 'no metadata'}, built for CUDA {'.'.join(map(str, module.get_version()[:2]))}"

    def nvml() -> str:
        import_module("pynvml")
        return _version("nvidia-ml-py") or "no metadata"

    parts = (
        ("cupy", "preprocessing and masks on the GPU", cupy),
        ("nvrtc", "what CuPy compiles the kernels with", nvrtc),
        ("pycuda", "the GPU's memory and streams", pycuda),
        ("nvidia-ml-py", "energy of a study in onfh bench", nvml),
    )
    found = []
    for name, brings, look in parts:
        said = _probed(look)
        usable = isinstance(said, str)
        outcome = {"version": said} if usable else {"version": None, **said, "command": commands[name]}
        if name == "cupy" and usable and driver is not None:
            outcome.update(_cupy_fits(driver, commands))
        found.append({"name": name, "brings": brings, **outcome})
    return found


def _cupy_fits(driver: int, commands: Mapping[str, str]) -> dict[str, Any]:
    from onfh_runtime.cuda_driver import import_cupy

    said = _probed(lambda: import_cupy(driver) and {})
    return {**said, "command": commands["cupy"]} if said else {}


def _flavour(name: str, commands: Mapping[str, str]) -> dict[str, Any]:
    """A TensorRT: its version, and whether it knows the first GPU (None without one)."""
    from onfh_runtime.engines import find_gpus, flavour, known_targets

    def look() -> dict[str, Any]:
        found, gpus = flavour(name), find_gpus()
        known = list(known_targets(found))
        return {
            "version": found.version,
            "module": found.module.__name__,
            "builds_for": known,
            "knows_gpu": gpus[0].target in known if gpus else None,
        }

    said = _probed(look)
    missing = {"version": None, "command": commands[name]} if "problem" in said else {}
    return {"name": name, "brings": "the fastest stages on a GPU", **missing, **said}


def _onnxruntime() -> dict[str, Any]:
    ort = import_module("onnxruntime")
    return {"version": ort.__version__, "providers": list(ort.get_available_providers())}


def _backends() -> dict[str, Any]:
    from onfh_runtime.backends.choice import choose_backend

    choice = choose_backend("auto")
    refused = [
        {"backend": item.backend, "code": item.error.code, "text": item.error.text, "fix": item.error.fix}
        for item in choice.refused
    ]
    return {"auto": choice.backend, "refused": refused}


def _decoders() -> dict[str, bool]:
    from onfh_runtime.dicom.codecs import can_decode

    return {"uncompressed": True, **{name: can_decode(uid) for name, uid in _DECODED}}


def _cache() -> dict[str, Any]:
    from onfh_runtime.engines.cache import cache_folder, cached_bytes

    return {"folder": str(cache_folder()), "bytes": cached_bytes()}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _dotted(target: str) -> str:
    return f"{target[2:-1]}.{target[-1]}"


def _cuda(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


def _line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else "no reason given"
