"""``onfh doctor``: what this machine has, what is missing, and how to get it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["HELP", "add_arguments", "lines", "run"]

HELP = "Say what this machine has, what is missing, what that would bring and how to get it."
WIDTH = 16


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``onfh doctor``."""
    parser.add_argument("--json", action="store_true", help="print it as JSON to stdout and nothing else")


def run(options: argparse.Namespace) -> int:
    """Run ``onfh doctor``; 1 when a required package is missing."""
    from onfh_runtime.survey import survey

    found = survey()
    if options.json:
        print(json.dumps(found, indent=1))
    else:
        print("\n".join(f"{name:{WIDTH}} {text}".rstrip() for name, text in lines(found)))
    return 1 if found["missing"] else 0


def lines(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The survey in (part, words), one line each."""
    software, machine = found["software"], found["machine"]
    yield "onfh-edge", f"{software['onfh-edge']}, Python {software['python']} ({software['executable']})"
    processor = machine["processor"] if isinstance(machine["processor"], str) else machine["architecture"]
    yield "machine", f"{machine['kind']}, {machine['cores']} cores, {processor}"
    for package in found["packages"]:
        yield package["name"], _package(package)
    yield "decoders", _decoders(found["decoders"])
    yield from _gpu(found)
    backends = found["backends"]
    if "problem" in backends:
        yield "backend", f"cannot be chosen: {backends['problem']}"
    else:
        yield "backend", f"auto is {backends['auto']}"
        alike: dict[str, list[str]] = {}
        for refusal in backends["refused"]:
            alike.setdefault(f"{refusal['text']} [{refusal['code']}]", []).append(refusal["backend"])
        for reason, names in alike.items():
            yield "", f"not {', '.join(names)}: {reason}"
    cache = found["cache"]
    size = cache.get("problem") or f"{cache['folder']}, {cache['bytes'] / 1e6:.0f} MB"
    yield "engine cache", size


def _gpu(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    driver, gpus = found["driver"], found["gpus"]
    if "problem" in driver:
        yield "driver", f"{driver['problem']} It brings every GPU backend: {driver['command']}"
    else:
        own = f"{driver['version']}, " if driver["version"] else ""
        yield "driver", f"{own}serves CUDA {driver['cuda'] // 1000}.{driver['cuda'] % 1000 // 10}"
    for gpu in gpus if isinstance(gpus, list) else ():
        kind = "shared with the processor" if gpu["integrated"] else "of its own"
        yield (
            f"gpu {gpu['ordinal']}",
            f"{gpu['name']}, compute capability {gpu['compute_capability']}, {gpu['memory_bytes'] / 2**30:.1f} GiB "
            f"{kind}",
        )
    if not gpus:
        yield "gpu", "no NVIDIA GPU found"
    elif not isinstance(gpus, list):
        yield "gpu", f"cannot be listed: {gpus['problem']}"
    for part in found["gpu_packages"]:
        yield part["name"], _part(part)
    for flavour in found["tensorrt"]:
        yield flavour["name"], _part(flavour) if "problem" in flavour else _flavour(flavour)
    runtime = found["onnxruntime"]
    yield "providers", runtime.get("problem") or _providers(runtime)


def _package(package: Mapping[str, Any]) -> str:
    if package["version"]:
        return str(package["version"])
    if package["required"]:
        return f"MISSING: {package['command']}"
    return f"not installed; it brings {package['brings']}: {package['command']}"


def _part(part: Mapping[str, Any]) -> str:
    if "problem" not in part:
        return str(part["version"])
    problem = str(part["problem"]).rstrip(".")
    return f"cannot be used ({problem}); it brings {part['brings']}: {part['command']}"


def _flavour(flavour: Mapping[str, Any]) -> str:
    knows = {True: "knows this GPU", False: "does not know this GPU", None: ""}[flavour["knows_gpu"]]
    targets = ", ".join(flavour["builds_for"]) or "the GPU it runs on"
    return f"{flavour['version']}, builds for {targets}" + (f"; {knows}" if knows else "")


def _providers(runtime: Mapping[str, Any]) -> str:
    there = ", ".join(runtime["providers"])
    if "CUDAExecutionProvider" in runtime["providers"]:
        return there
    return f"{there}; none for CUDA, which brings GPUs without TensorRT: {runtime['command']}"


def _decoders(decoders: Mapping[str, Any]) -> str:
    if "problem" in decoders:
        return f"cannot be listed: {decoders['problem']}"
    missing = [name for name, there in decoders.items() if not there]
    there = ", ".join(name for name, is_there in decoders.items() if is_there)
    return there + (f"; not {', '.join(missing)}: pip install 'onfh-edge[codecs]'" if missing else "")
