"""The machine a figure was taken on: what of it decides how fast it is, and neither its name nor its user's."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import onfh_runtime
from onfh_runtime.cpu import cores, cpu_name

__all__ = ["PACKAGES", "machine_fingerprint"]

PACKAGES = (
    "cupy-cuda12x",
    "cupy-cuda13x",
    "highdicom",
    "imagecodecs",
    "numpy",
    "onnx",
    "onnxruntime",
    "onnxruntime-gpu",
    "pycuda",
    "pydicom",
    "scipy",
    "tensorrt",
    "tensorrt-rtx-cu13-bindings",
    "torch",
    "tritonclient",
)
"""What takes part in some figure; those that are not installed are left out."""

_NO_RECORDS = (":(top)", ":(top,exclude)benchmarks/results")
"""What of a checkout counts as changed: a benchmark writes its record there before it is over."""

_GPU_FIELDS = {
    "name": "name",
    "driver": "driver_version",
    "memory_mb": "memory.total",
    "power_limit_w": "power.limit",
    "sm_clock_mhz": "clocks.sm",
    "sm_clock_max_mhz": "clocks.max.sm",
    "memory_clock_mhz": "clocks.mem",
    "memory_clock_max_mhz": "clocks.max.mem",
    "performance_state": "pstate",
    "temperature_c": "temperature.gpu",
}
"""Names of ours, and those of ``nvidia-smi --query-gpu``."""

_ANSWER_S = 20
_CPUFREQ = Path("/sys/devices/system/cpu/cpu0/cpufreq")


def machine_fingerprint(packages: tuple[str, ...] = PACKAGES) -> dict[str, object]:
    """Describe the machine, the software and the commit, for the record beside figures.

    What cannot be read here is None or absent. No user, host, path or serial number is in it.

    Args:
        packages: distributions whose versions matter.

    Returns:
        Plain values that JSON takes.
    """
    return {
        "cpu": _cpu(),
        "memory_gb": _memory_gb(),
        "gpus": _gpus(),
        "jetson_power_mode": _jetson_power_mode(),
        "system": f"{platform.system()} {platform.release()}",
        "architecture": platform.machine(),
        "python": platform.python_version(),
        "packages": {name: found for name in packages if (found := _version(name)) is not None},
        "onfh_edge": _version("onfh-edge"),
        **_commit(),
    }


def _cpu() -> dict[str, object]:
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {
        "name": cpu_name(),
        "cores": os.cpu_count(),
        "cores_usable": cores(),
        "governor": _line(_CPUFREQ / "scaling_governor"),
        "clock_mhz": _mhz("scaling_cur_freq") or _cpuinfo_mhz(),
        "clock_max_mhz": _mhz("cpuinfo_max_freq"),
        "load_1_min": load,
    }


def _mhz(name: str) -> float | None:
    khz = _line(_CPUFREQ / name)
    return int(khz) / 1000 if khz is not None and khz.isdigit() else None


def _cpuinfo_mhz() -> float | None:
    """What a virtual machine shows where it hides its frequency scaling."""
    for line in _text(Path("/proc/cpuinfo")).splitlines():
        if line.startswith("cpu MHz"):
            return float(line.split(":", 1)[1])
    return None


def _memory_gb() -> float | None:
    """Of the machine, and in a container of its limit, 10^9 bytes."""
    try:
        found = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
    limit = _line(Path("/sys/fs/cgroup/memory.max"))
    if limit is not None and limit.isdigit():
        found = min(found, int(limit))
    return round(found / 1e9, 1)


def _gpus() -> list[dict[str, object]]:
    """Every GPU that nvidia-smi tells of; without it, those the CUDA driver names."""
    said = _said("nvidia-smi", f"--query-gpu={','.join(_GPU_FIELDS.values())}", "--format=csv,noheader,nounits")
    if said:
        return [_gpu(line) for line in said.splitlines()]
    from onfh_runtime.engines.machine import find_gpus

    return [{"name": gpu.name, "target": gpu.target} for gpu in find_gpus()]


def _gpu(line: str) -> dict[str, object]:
    values = [value.strip() for value in line.split(",")]
    return {name: _number(value) for name, value in zip(_GPU_FIELDS, values, strict=False)}


def _number(value: str) -> float | str | None:
    """A number where it is one, None for nvidia-smi's several ways to say that it cannot tell."""
    if value.startswith("["):
        return None
    try:
        return float(value)
    except ValueError:
        return value


def _jetson_power_mode() -> str | None:
    """What ``nvpmodel`` calls the mode that is set."""
    said = _said("nvpmodel", "-q")
    for line in said.splitlines():
        if "NV Power Mode" in line:
            return line.split(":", 1)[1].strip()
    return None


def _commit() -> dict[str, object]:
    """The commit of the checkout this package runs from, and whether more than records was changed in it.

    None when it is installed.
    """
    here = Path(onfh_runtime.__file__).resolve()
    if not _said("git", "-C", str(here.parent), "ls-files", here.name):
        return {"commit": None, "changed": None}
    return {
        "commit": _said("git", "-C", str(here.parent), "rev-parse", "HEAD").strip() or None,
        "changed": bool(
            _said("git", "-C", str(here.parent), "status", "--porcelain", "--untracked-files=no", "--", *_NO_RECORDS)
        ),
    }


def _said(*command: str) -> str:
    """What a program prints; nothing where it is absent or fails."""
    if shutil.which(command[0]) is None:
        return ""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_ANSWER_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _line(path: Path) -> str | None:
    return _text(path).strip() or None


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
