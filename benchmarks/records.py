"""Records of benchmarks as the plots and the README's table read them."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

MACHINE = "2-core-cpu"
"""What the files of records call the machine whose figures the README shows."""
NAMES = {
    "numpy": "NumPy",
    "onnxruntime": "ONNX Runtime",
    "pydicom": "pydicom",
    "SimpleITK": "SimpleITK",
    "torch": "torch",
}


def read_record(results: Path, name: str, machine: str = MACHINE) -> dict[str, Any] | None:
    """The record ``NAME-MACHINE.json``, or None where there is none yet."""
    path = results / f"{name}-{machine}.json"
    document: dict[str, Any] | None = json.loads(path.read_text()) if path.exists() else None
    return document


def read_figures(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """The figures of a record; those from before the schema have them beside everything else."""
    found: Mapping[str, Any] = document["results"] if "schema" in document else document
    return found


def command_line(script: str, parser: argparse.ArgumentParser, options: argparse.Namespace) -> str:
    """How to take a record again: the script, and the options that are not what they are by default."""
    usual, words = vars(parser.parse_args([])), ["python", f"benchmarks/{Path(script).name}"]
    for name, value in vars(options).items():
        if name != "json" and value != usual[name]:
            given = value if isinstance(value, list) else [] if value is True else [value]
            words += [f"--{name.replace('_', '-')}", *map(str, given)]
    return " ".join(words)


def taken_on(document: Mapping[str, Any]) -> str:
    """Hardware, versions, date and commit of a record, as much of it as it says."""
    machine = document["machine"]
    cpu = machine["cpu"]
    if isinstance(cpu, str):  # from before the schema
        named, cores, packages = cpu, machine["cores"], machine
    else:
        named, cores, packages = cpu["name"], cpu["cores_usable"], machine["packages"]
    words = [f"{named}, {cores} cores", *(gpu["name"] for gpu in machine.get("gpus", []))]
    words.append(f"Python {machine['python']}")
    words += [f"{label} {packages[name]}" for name, label in NAMES.items() if name in packages]
    if "created" in document:
        words.append(str(document["created"])[:10])
    if machine.get("commit"):
        words.append(f"commit {str(machine['commit'])[:7]}" + (" with changes" if machine.get("changed") else ""))
    return ", ".join(words)
