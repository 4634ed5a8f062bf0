"""Whole analyses through the lanes of the pipeline, from files to what would be written; nothing is written.

The pipeline is open and warm. What lies around it (imports, opening the stages, outputs) is in spine.py and
bench_outputs.py.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from suite_cases import Sizes, analysed, backend_calls, candidate_of, one_alone, step_ms, with_margin

from onfh_runtime.bundle import LoadedBundle
from onfh_runtime.dicom import Candidate
from onfh_runtime.measure import spread
from onfh_runtime.pipeline import Pipeline

DOES_NOT_MEASURE = (
    "imports, opening the stages and their memory: spine.py",
    "writing the outputs: bench_outputs.py",
    "different studies: the same series is analysed again and again, so its files are in the page cache",
    "a GPU: make gpu-check",
)


@pytest.fixture(scope="module")
def candidate(axial: Path) -> Candidate:
    """The usual series, found before."""
    return candidate_of(axial)


@pytest.fixture(scope="module")
def demo(opened: Callable[[str], LoadedBundle]) -> Iterator[Pipeline]:
    """The demo bundle, open."""
    with Pipeline(opened("demo"), backend="onnxruntime") as pipeline:
        yield pipeline


def measure(benchmark: Any, pipeline: Pipeline, candidate: Candidate, count: int, rounds: int = 9) -> None:
    """Time ``count`` studies, and record their steps and what the backend's calls took of each round.

    ``over_calls_alone`` is held against the calls of the same study analysed step by step before and after: those of
    the round itself share the cores with the lanes beside them, which lengthens them.
    """
    clocks: list[Any] = []
    last: list[Any] = []
    in_calls: list[float] = []
    walls: list[float] = []
    over_calls: list[float] = []
    rows: list[int] = []

    def run() -> None:
        start = time.perf_counter()
        with backend_calls() as calls:
            done = analysed(pipeline, candidate, count)
        walls.append(time.perf_counter() - start)
        over_calls.append(walls[-1] / calls.seconds)
        in_calls.append(calls.seconds)
        rows[:] = [calls.rows]
        clocks.extend(each.clock for each in done)
        last[:] = done[-1:]

    analysed(pipeline, candidate, 1)  # opens the stages
    before, _ = one_alone(pipeline, candidate)
    benchmark.pedantic(run, rounds=rounds)
    after, _ = one_alone(pipeline, candidate)
    alone = count * (before + after) / 2
    images, result = last[0].images, last[0].result
    benchmark.extra_info |= {
        "studies": count,
        "volume": list(images.volume.voxels.shape),
        "million_voxels": images.volume.voxels.size / 1e6,
        "coronal_slices": len(result.slices),
        "rows_per_study": rows[-1] / count,
        "calls_s": statistics.median(in_calls),
        "over_calls": spread(over_calls),
        "over_calls_alone": spread([seconds / alone for seconds in walls]),
        "step_ms": step_ms(clocks),
        "engine": result.engine.model_dump(),
    }


def test_single(benchmark: Any, candidate: Candidate, bundle_name: str, opened: Callable[[str], LoadedBundle]) -> None:
    """One study alone."""
    with Pipeline(opened(bundle_name), backend="onnxruntime") as pipeline:
        measure(benchmark, pipeline, candidate, 1, rounds=3 if bundle_name == "large" else 9)


def test_in_flight(benchmark: Any, candidate: Candidate, demo: Pipeline, in_flight: int) -> None:
    """So many studies given at once."""
    measure(benchmark, demo, candidate, in_flight, rounds=5)


def test_row(
    benchmark: Any, candidate: Candidate, bundle_name: str, opened: Callable[[str], LoadedBundle], sizes: Sizes
) -> None:
    """Twenty studies in a row."""
    with Pipeline(opened(bundle_name), backend="onnxruntime") as pipeline:
        measure(benchmark, pipeline, candidate, sizes.row, rounds=1 if bundle_name == "large" else 3)


def test_volume(
    benchmark: Any, axial_folder: Callable[[int, int], Path], demo: Pipeline, volume_size: tuple[int, int]
) -> None:
    """One study alone, by slices and matrix: the same 300 mm of a patient, finer."""
    measure(benchmark, demo, candidate_of(axial_folder(*volume_size)), 1)


def test_slices(
    benchmark: Any, candidate: Candidate, opened: Callable[[str], LoadedBundle], margin_mm: float | None
) -> None:
    """One study alone, by how far beyond the heads coronal slices are analysed."""
    with Pipeline(with_margin(opened("demo"), margin_mm), backend="onnxruntime") as pipeline:
        measure(benchmark, pipeline, candidate, 1)
