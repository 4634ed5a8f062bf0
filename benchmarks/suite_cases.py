"""What the suites are given: phantom series on disk, volumes in memory, the bundles; full sizes and tiny ones."""

from __future__ import annotations

import dataclasses
import logging
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import repeat
from pathlib import Path

import numpy as np

from onfh_runtime.analysis import Analysis
from onfh_runtime.bundle import LoadedBundle, load_bundle
from onfh_runtime.cli.infer import demo_bundle
from onfh_runtime.dicom import Candidate, find_series
from onfh_runtime.phantom import Phantom, axial_grid, coronal_from, random_spec, render, write_series
from onfh_runtime.pipeline import Pipeline
from onfh_runtime.timing import Stopwatch
from onfh_runtime.volume import Volume

HERE = Path(__file__).resolve().parent
SEED = 7
HEIGHT_MM = 300.0
"""What an axial series covers, however many slices it has."""
LARGE_GATED = 10


@dataclass(frozen=True)
class Sizes:
    """How much work the suites do.

    Attributes:
        matrix: rows and columns of an axial slice.
        axial: slices of the axial series.
        coronal: slices of the native coronal series, at most.
        thin: slices of the axial volume that becomes a coronal stack of ``stack`` slices.
        stack: see ``thin``.
        inputs: sides of stage inputs.
        encoded: slices of each compressed series.
        batches: rows that a backend is given at once.
        in_flight: studies that are given to the pipeline at once.
        volumes: (slices, matrix) of axial series of growing size.
        margins_mm: how far beyond the heads coronal slices are analysed; None for the whole stack.
        row: studies in a row with the large stages.
        patients: patients of an evaluation, and its slices and bootstrap rounds.
    """

    matrix: int
    axial: int
    coronal: int
    thin: int
    stack: int
    inputs: tuple[int, ...]
    encoded: int
    batches: tuple[int, ...]
    in_flight: tuple[int, ...]
    volumes: tuple[tuple[int, int], ...]
    margins_mm: tuple[float | None, ...]
    row: int
    patients: tuple[int, int, int]


FULL = Sizes(
    matrix=512,
    axial=200,
    coronal=60,
    thin=400,
    stack=60,
    inputs=(224, 512),
    encoded=60,
    batches=(1, 2, 4, 8),
    in_flight=(1, 2, 4, 8, 16),
    volumes=((100, 256), (200, 256), (100, 512), (200, 512), (300, 512), (400, 512)),
    margins_mm=(0.0, 12.0, 40.0, 80.0, None),
    row=20,
    patients=(200, 4_000, 500),
)
TINY = Sizes(
    matrix=128,
    axial=60,
    coronal=12,
    thin=60,
    stack=12,
    inputs=(64,),
    encoded=4,
    batches=(1, 2),
    in_flight=(1, 2),
    volumes=((60, 128),),
    margins_mm=(0.0,),
    row=2,
    patients=(8, 60, 20),
)


def phantom(slices: int, matrix: int) -> Phantom:
    """A patient with osteonecrosis of the right head, axial: 300 mm in so many slices."""
    spec = random_spec(SEED, scanner="site_a", lesions="right", implant="none")
    usual = axial_grid(spec, slices, matrix, matrix)
    thick, *in_plane = usual.spacing
    middle = usual.origin[2] + thick * (slices - 1) / 2
    thin = HEIGHT_MM / slices
    origin = (*usual.origin[:2], middle - thin * (slices - 1) / 2)
    return render(spec, dataclasses.replace(usual, origin=origin, spacing=(thin, *in_plane)))


def axial_series(folder: Path, slices: int, matrix: int) -> Path:
    """The phantom as uncompressed axial slices."""
    write_series(phantom(slices, matrix), folder, plane="axial", series_number=2, description="Hip axial")
    return folder


def coronal_series(folder: Path, slices: int, matrix: int) -> Path:
    """The phantom as native coronal slices of 6 mm, at most so many, as wide as the matrix and 200 rows high."""
    paths = write_series(coronal_from(phantom(min(matrix, 200), matrix), 6.0), folder, plane="coronal")
    for path in paths[slices:]:
        path.unlink()
    return folder


def axial_volume(slices: int, matrix: int) -> Volume:
    """The phantom as a volume in memory, int16 as it would be stored; 300 mm high."""
    # Rendered at a quarter of the slices: what is averaged does not matter, its size does.
    part = phantom(max(15, slices // 4), matrix)
    stored = np.clip(np.rint(part.hu) + 1024, 0, 32767).astype(np.int16)
    voxels = stored[np.arange(slices) * len(stored) // slices]
    affine = part.affine.copy()
    affine[:3, 0] *= len(stored) / slices
    return Volume(voxels, affine, np.ones(slices), np.full(slices, -1024.0))


def candidate_of(folder: Path) -> Candidate:
    """The one series of a folder."""
    (candidate,), _ = find_series([folder])
    return candidate


def open_demo() -> LoadedBundle:
    """The bundle that ships with the runtime."""
    return load_bundle(demo_bundle())


def large_available() -> bool:
    """Whether the large stages can be made here."""
    return find_spec("torch") is not None and find_spec("transformers") is not None


def open_large(folder: Path) -> LoadedBundle:
    """ViT-B/16 at 224 and UperNet-Swin-T at 512 with seeded weights, 10 slices gated; made in a process of its own."""
    command = [sys.executable, str(HERE / "large_stages.py"), str(folder), str(LARGE_GATED)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return load_bundle(folder)


def with_margin(bundle: LoadedBundle, margin_mm: float | None) -> LoadedBundle:
    """The bundle, but with the coronal slices so far beyond the heads analysed."""
    coverage = bundle.content.coverage.model_copy(update={"margin_mm": margin_mm})
    return dataclasses.replace(bundle, content=bundle.content.model_copy(update={"coverage": coverage}))


def analysed(pipeline: Pipeline, candidate: Candidate, count: int, write: object = None) -> list[Analysis]:
    """Analyse the same series ``count`` times through the lanes; the pixels of all but the last are let go.

    Raises:
        AssertionError: an analysis did not succeed, so that its time would mean nothing.
    """
    kept = []
    for analysis in pipeline.run(repeat(candidate, count), write or (lambda each: each)):  # type: ignore[arg-type]
        assert analysis.result.status == "succeeded", analysis.result.reason
        kept.append(dataclasses.replace(analysis, images=None) if len(kept) < count - 1 else analysis)
    return kept


def step_ms(clocks: Iterable[Stopwatch]) -> dict[str, float]:
    """Median over analyses of the time in each step, ms."""
    steps: dict[str, list[float]] = {}
    for clock in clocks:
        for step, ms in clock.timing.model_dump().items():
            if step != "total" and ms is not None:
                steps.setdefault(step, []).append(ms)
    return {step: float(np.median(values)) for step, values in steps.items()}


class Calls(logging.Handler):
    """Adds up what the stages log of each backend call."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.seconds, self.rows = 0.0, 0

    def emit(self, record: logging.LogRecord) -> None:
        """Take rows and ms of "ran STAGE on ROWS rows in MS ms"."""
        if isinstance(record.args, tuple) and len(record.args) == 3:
            self.rows += int(record.args[1])  # type: ignore[call-overload]
            self.seconds += float(record.args[2]) / 1000  # type: ignore[arg-type]


@contextmanager
def backend_calls() -> Iterator[Calls]:
    """Collect the backend calls made inside."""
    logger, calls = logging.getLogger("onfh_runtime.stages"), Calls()
    level = logger.level
    logger.addHandler(calls)
    logger.setLevel(logging.INFO)
    try:
        yield calls
    finally:
        logger.removeHandler(calls)
        logger.setLevel(level)


def one_alone(pipeline: Pipeline, candidate: Candidate) -> tuple[float, int]:
    """Seconds and rows of the backend calls of a study that is analysed step by step, nothing beside them."""
    with backend_calls() as calls:
        result = pipeline.analyse(candidate).result
    assert result.status == "succeeded", result.reason
    return calls.seconds, calls.rows
