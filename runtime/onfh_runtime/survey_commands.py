"""What kind of machine this is, and the commands that bring to it what is missing."""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Kind", "commands_for", "jetson_release", "kind_of"]

_RELEASE = Path("/etc/nv_tegra_release")
_SYSTEM = Path("/etc/os-release")
_JETPACK = {"35": "5", "36": "6", "37": "7", "38": "7", "39": "7"}
"""Jetson Linux (L4T) by its first number -> JetPack."""
_CUDA_OF_JETPACK = {"5": 11, "6": 12, "7": 13}
_NEWEST_CUDA = 13


@dataclass(frozen=True)
class Kind:
    """A machine as far as installing goes.

    Attributes:
        name: in words.
        jetpack: first number of its JetPack, "" where it is no Jetson.
        cuda: first number of the CUDA that its driver serves, or else the newest that the extras are made for.
        system: ID of /etc/os-release, such as ``ubuntu``.
        container: it runs in a container, whose driver is the host's.
    """

    name: str
    jetpack: str
    cuda: int
    system: str
    container: bool


def jetson_release(text: str) -> tuple[str, str]:
    """Jetson Linux and JetPack of an /etc/nv_tegra_release ("# R36 (release), REVISION: 4.3, ..."); "" when unknown."""
    found = re.match(r"#\s*R(\d+)\s*\(release\),\s*REVISION:\s*([\d.]+)", text)
    return (f"{found[1]}.{found[2]}", _JETPACK.get(found[1], "")) if found else ("", "")


def kind_of(
    driver: int | None, *, release: Path = _RELEASE, system: Path = _SYSTEM, machine: str = platform.machine()
) -> Kind:
    """The kind of this machine.

    Args:
        driver: the newest CUDA that the driver serves (13020 is 13.2), None without a driver.
        release: there on a Jetson.
        system: says which Linux this is.
        machine: the processor's architecture.
    """
    linux = next((line[3:] for line in _text(system).splitlines() if line.startswith("ID=")), "").strip('"')
    container = Path("/.dockerenv").exists() or Path("/run/.containerenv").exists()
    if not (said := _text(release)):
        cuda = driver // 1000 if driver else _NEWEST_CUDA
        return Kind(f"{machine} {linux or platform.system()}", "", cuda, linux, container)
    version, jetpack = jetson_release(said)
    cuda = driver // 1000 if driver else _CUDA_OF_JETPACK.get(jetpack, _NEWEST_CUDA)
    name = f"Jetson, Jetson Linux {version or 'of an unknown version'}" + (f" (JetPack {jetpack})" if jetpack else "")
    return Kind(name, jetpack or "unknown", cuda, linux, container)


def commands_for(kind: Kind, machine: str = platform.machine()) -> Mapping[str, str]:
    """For each part, the command that brings it to such a machine, or why there is none.

    Keys are ``driver``, ``cupy``, ``pycuda``, ``nvrtc``, ``nvidia-ml-py``, ``tensorrt``, ``tensorrt-rtx``,
    ``onnxruntime-cuda``, ``required``, and extras of this package.
    """
    extras = ("codecs", "evaluate", "export", "listen", "measure", "triton")
    commands = {extra: f"pip install 'onfh-edge[{extra}]'" for extra in extras}
    commands["required"] = "pip install --force-reinstall onfh-edge"
    commands["nvidia-ml-py"] = "pip install nvidia-ml-py"
    return {**commands, **(_jetson(kind) if kind.jetpack else _workstation(kind, machine))}


def _workstation(kind: Kind, machine: str) -> dict[str, str]:
    if kind.cuda >= _NEWEST_CUDA:
        gpu = "pip install 'onfh-edge[gpu]'"
        cupy, nvrtc, tensorrt = gpu, gpu, "pip install tensorrt"
    else:
        cupy = f"pip install 'cupy-cuda{kind.cuda}x>=14.0.1'"
        nvrtc = f"pip install nvidia-cuda-nvrtc-cu{kind.cuda} nvidia-cuda-runtime-cu{kind.cuda}"
        tensorrt = f"pip install tensorrt-cu{kind.cuda}"
    return {
        "driver": _driver(kind),
        "cupy": cupy,
        "pycuda": f"{_tools(kind)}PATH=/usr/local/cuda/bin:$PATH pip install 'pycuda>=2026.1'",
        "nvrtc": nvrtc,
        "tensorrt": tensorrt,
        "tensorrt-rtx": "pip install 'onfh-edge[rtx]'",
        "onnxruntime-cuda": "pip uninstall -y onnxruntime && pip install 'onnxruntime-gpu[cuda,cudnn]'"
        if machine == "x86_64"
        else "there is no package on PyPI for this processor",
    }


def _jetson(kind: Kind) -> dict[str, str]:
    extra = "jetson" if kind.cuda < _NEWEST_CUDA else "gpu"
    inside = f"python{sys.version_info.major}.{sys.version_info.minor} -m venv --system-site-packages VENV"
    return {
        "driver": "it belongs to Jetson Linux: flash JetPack again with NVIDIA's SDK Manager",
        "cupy": f"pip install 'onfh-edge[{extra}]'",
        "pycuda": "sudo apt install g++ python3-dev cuda-toolkit && PATH=/usr/local/cuda/bin:$PATH "
        "pip install 'pycuda>=2026.1'",
        "nvrtc": "sudo apt install cuda-nvrtc-12-6" if kind.jetpack == "6" else "sudo apt install cuda-toolkit",
        "tensorrt": f"sudo apt install tensorrt python3-libnvinfer, in a virtual environment that sees it ({inside})",
        "tensorrt-rtx": "it does not run on a Jetson; use tensorrt",
        "onnxruntime-cuda": "there is no package on PyPI for a Jetson; use tensorrt",
    }


def _driver(kind: Kind) -> str:
    if kind.container:
        return "give the container the GPU: docker run --gpus all (the host needs nvidia-container-toolkit)"
    known = {"ubuntu": "sudo ubuntu-drivers install", "debian": "sudo apt install nvidia-driver"}
    return known.get(kind.system, "install NVIDIA's driver, 580 or newer, as your system's handbook says")


def _tools(kind: Kind) -> str:
    """What PyCUDA is compiled with: it comes as source."""
    if kind.system in ("ubuntu", "debian"):
        return "sudo apt install g++ python3-dev && "
    return ""


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
