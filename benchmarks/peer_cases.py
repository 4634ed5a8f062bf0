"""What the peers are given: a study, the two pairs of stages, and what this runtime answers."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onfh_runtime.answer import conclude, prepare
from onfh_runtime.bundle import LoadedBundle, Stage, StageName, load_bundle
from onfh_runtime.cli.infer import demo_bundle
from onfh_runtime.compute import open_compute
from onfh_runtime.dicom import find_series, read_volume
from onfh_runtime.findings import gated_slices
from onfh_runtime.phantom import write_demo_study
from onfh_runtime.preprocess import mask_to_volume, stage_input
from onfh_runtime.timing import Stopwatch

HERE = Path(__file__).resolve().parent
CASES = ("demo", "large")
LARGE_GATED = 10


@dataclass(frozen=True)
class Case:
    """One pair of stages on one study.

    Attributes:
        name: of :data:`CASES`.
        bundle: its bundle.
        path: the JSON file for the peers.
        answers: an .npz file of what this runtime says: probabilities, gated, mask (bits), the whole slices seen and
            the stages' inputs.
    """

    name: str
    bundle: LoadedBundle
    path: Path
    answers: Path


def write_study(folder: Path, slices: int, matrix: int) -> Path:
    """Write the phantom's axial series; its coronal one lies beside it."""
    write_demo_study(folder, slices=slices, matrix=matrix)
    return folder / "axial"


def open_bundle(name: str, folder: Path) -> tuple[LoadedBundle, Path]:
    """A case's bundle, and the folder of its checkpoints; what does not ship is made below ``folder``."""
    checkpoints = folder / "checkpoints"
    # Processes of their own leave their memory behind.
    if name == "demo":
        _run("demo_checkpoints.py", checkpoints)
        return load_bundle(demo_bundle()), checkpoints
    _run("large_stages.py", checkpoints)
    _run("large_stages.py", folder / "bundle", str(LARGE_GATED))
    return load_bundle(folder / "bundle"), checkpoints


def write_case(name: str, series: Path, folder: Path) -> Case:
    """Ask this runtime once, and write what the peers need to know."""
    folder.mkdir(parents=True, exist_ok=True)
    bundle, checkpoints = open_bundle(name, folder)
    rules = bundle.content
    (candidate,), _ = find_series([series])
    volume, _ = read_volume(candidate)
    compute = open_compute(bundle, "onnxruntime")
    clock = Stopwatch()
    prepared = prepare(volume, rules, clock)
    said = compute.finish(compute.load(prepared, volume, {}, clock))
    compute.close()
    answer = conclude(said, prepared, rules)
    # The stack of an answer has whole slices, but only those seen.
    whole = np.zeros(prepared.plan.shape, np.uint8)
    whole[prepared.box[0]] = answer.mask
    answers = folder / "onfh.npz"
    values = stage_input(prepared.seen, rules.classifier.input)
    gated = gated_slices(said.probabilities, rules.gate)
    seen = type(prepared.seen)(prepared.seen.hu[gated], prepared.seen.affine)
    np.savez(
        answers,
        probabilities=said.probabilities,
        gated=gated,
        mask=np.packbits(mask_to_volume(whole, prepared.plan, volume) > 0),
        stack=prepared.stack.hu,
        classifier_input=values,
        segmenter_input=stage_input(seen, rules.segmenter.input),
    )
    path = folder / "case.json"
    content = {
        "series": str(series),
        "slice_spacing_mm": rules.slice_spacing_mm,
        "box": [[side.start, side.stop] for side in prepared.box],
        "classifier": _stage(rules.classifier, bundle, "classifier", checkpoints),
        "segmenter": _stage(rules.segmenter, bundle, "segmenter", checkpoints),
        "gate": rules.gate.model_dump(),
        "gated": None if name == "demo" else gated.tolist(),
        "mask_threshold": rules.mask_threshold,
        "answers": str(answers),
    }
    path.write_text(json.dumps(content, indent=1))
    return Case(name, bundle, path, answers)


def _run(script: str, *words: str | Path) -> None:
    subprocess.run([sys.executable, str(HERE / script), *map(str, words)], check=True)


def _stage(spec: Stage, bundle: LoadedBundle, name: StageName, checkpoints: Path) -> dict[str, Any]:
    given = spec.input
    assert len(set(given.windows)) == len(set(given.mean)) == len(set(given.std)) == 1, "the peers know one window"
    window = given.windows[0]
    return {
        "checkpoint": str(checkpoints / name),
        "architecture": spec.architecture,
        "onnx": str(bundle.model_path(name, "fp32")),
        "onnx_fp16": str(bundle.model_path(name, "fp16")) if "fp16" in spec.models else None,
        "size": given.size,
        "channels": len(given.windows),
        "window": [window.center - window.width / 2, window.center + window.width / 2],
        "mean": given.mean[0],
        "std": given.std[0],
        "min_pixel_spacing_mm": given.min_pixel_spacing_mm,
        "max_batch": spec.max_batch,
    }
