"""``onfh doctor``: what this machine has, what is missing, and how to get it."""

from __future__ import annotations

import argparse
import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version

from onfh_runtime import __version__
from onfh_runtime.cpu import cpu_name

__all__ = ["HELP", "add_arguments", "run"]

HELP = "Say what this machine has, what is missing, what that would bring and how to get it."

REQUIRED = ("numpy", "pydicom", "onnxruntime", "highdicom", "pydantic")
OPTIONAL = (
    ("torch", "onfh train, onfh export", "pip install 'onfh-edge[export]'"),
    ("transformers", "onfh train, onfh export", "pip install 'onfh-edge[export]'"),
    ("onnx", "onfh export", "pip install 'onfh-edge[export]'"),
    ("imagecodecs", "JPEG lossless, HTJ2K, and parallel decoding", "pip install 'onfh-edge[codecs]'"),
    ("scipy", "distances of masks in onfh evaluate", "pip install 'onfh-edge[evaluate]'"),
    ("tritonclient", "the backend triton:URL", "pip install 'onfh-edge[triton]'"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """``onfh doctor`` takes no arguments of its own."""


def run(options: argparse.Namespace) -> int:
    """Run ``onfh doctor``; 1 when a required package is missing."""
    print(f"onfh-edge    {__version__}, Python {platform.python_version()} ({sys.executable})")
    print(f"machine      {platform.machine()}, {os.cpu_count()} cores, {cpu_name()}")
    missing = False
    for name in REQUIRED:
        found = _version(name)
        missing |= found is None
        print(f"{name:12} {found or 'MISSING: pip install --force-reinstall onfh-edge'}")
    for name, brings, command in OPTIONAL:
        print(f"{name:12} {_version(name) or f'not installed; it brings {brings}: {command}'}")
    if not missing:
        import onnxruntime

        print(f"backends     onnxruntime ({', '.join(onnxruntime.get_available_providers())}); used: CPU")
    print(_engines())
    return 1 if missing else 0


def _engines() -> str:
    """The TensorRT flavours that load here, what they build plans for, and the GPUs."""
    from onfh_runtime.engines import find_flavours, find_gpus, known_targets

    flavours = [f"{each.name} {each.version} (for {', '.join(known_targets(each))})" for each in find_flavours()]
    gpus = ", ".join(f"{gpu.name} ({gpu.target})" for gpu in find_gpus()) or "no NVIDIA GPU found"
    missing = "no TensorRT; onfh export builds plans with it: pip install 'onfh-edge[rtx]'"
    return f"engines      {'; '.join(flavours) or missing}\ngpus         {gpus}"


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
