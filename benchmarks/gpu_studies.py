"""Studies through both stages on a device: their answers against the host's, and what they cost there."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from onfh_runtime.answer import Answer, Prepared, Said, conclude, prepare
from onfh_runtime.bundle import Bundle, LoadedBundle
from onfh_runtime.compute import Compute, Job
from onfh_runtime.dicom import find_series, read_volume
from onfh_runtime.evaluation import dice
from onfh_runtime.infer import infer
from onfh_runtime.phantom import Grid, coronal_from, coronal_grid, random_spec, render, write_series
from onfh_runtime.timing import Span, Stopwatch
from onfh_runtime.volume import Volume

GPU = "gpu"
"""Lane of the spans that a device measured on its compute stream."""
Study = tuple[Volume, Prepared]


@dataclass(frozen=True)
class Agreement:
    """One series on the device against the host."""

    flips: int
    """Decisions that differ: of the patient, and of each side."""
    probability_drift: float
    mask_dice: float
    """1 where both masks are empty."""


def phantom_series(folder: Path, count: int, seed: int = 61) -> Path:
    """Native coronal series of different phantoms, every second one with a lesion."""
    for index in range(count):
        lesions = ("right", "none", "both", "none", "left", "none")[index % 6]
        spec = random_spec(seed * 1_000_000 + index, scanner="site_a", lesions=lesions, implant="none")
        write_series(coronal_from(render(spec, coronal_grid(spec))), folder / str(index))
    return folder


def copied_studies(folder: Path, count: int, *, slices: int, side: int, seed: int = 7) -> Path:
    """One phantom as so many studies of ``slices`` uncompressed coronal slices of ``side`` squared, 3 mm apart."""
    spec = random_spec(seed, scanner="site_a", lesions="right", implant="none")
    usual = coronal_grid(spec)
    thick = usual.spacing[0]
    pixel = usual.spacing[2] * usual.shape[2] / side
    planes = round(slices * 3.0 / thick)
    middle = [usual.origin[0] + usual.spacing[2] * (usual.shape[2] - 1) / 2]
    middle += [usual.origin[1] + thick * (usual.shape[0] - 1) / 2]
    height = usual.origin[2] - usual.spacing[1] * (usual.shape[1] - 1) / 2
    origin = (
        middle[0] - pixel * (side - 1) / 2,
        middle[1] - thick * (planes - 1) / 2,
        height + pixel * (side - 1) / 2,
    )
    shown = coronal_from(render(spec, Grid("coronal", origin, (planes, side, side), (thick, pixel, pixel))))
    for index in range(count):  # the seed is part of every UID
        other = dataclasses.replace(shown, spec=dataclasses.replace(spec, seed=index))
        write_series(other, folder / f"{index:03}")
    return folder


def prepared_series(folder: Path, rules: Bundle) -> list[Study]:
    """Every series below a folder, read and prepared."""
    candidates, _ = find_series([folder])
    volumes = [read_volume(candidate)[0] for candidate in candidates]
    return [(volume, prepare(volume, rules, Stopwatch())) for volume in volumes]


def said_of(compute: Compute, study: Study, clock: Stopwatch | None = None) -> Said:
    """What both stages say of one series."""
    volume, prepared = study
    job = compute.load(prepared, volume, {}, clock or Stopwatch())
    try:
        compute.start(job)
        return compute.finish(job)
    finally:
        compute.drop(job)


def agreements(host: Compute, device: Compute, studies: Iterable[Study], rules: Bundle) -> list[Agreement]:
    """Every series through both."""
    found = []
    for study in studies:
        answers: list[Answer] = [conclude(said_of(compute, study), study[1], rules) for compute in (host, device)]
        decisions = [
            [each.found.patient.state, each.found.sides.right.state, each.found.sides.left.state] for each in answers
        ]
        ours, theirs = (answer.mask for answer in answers)
        overlap = dice(ours, theirs) if ours.any() or theirs.any() else 1.0
        drift = np.abs(answers[0].probabilities - answers[1].probabilities).max()
        flips = sum(first != second for first, second in zip(*decisions, strict=True))
        found.append(Agreement(flips, float(drift), float(overlap)))
    return found


def gpu_ms(spans: Sequence[Span]) -> dict[str, float]:
    """Milliseconds on the compute stream, by step and in ``total``."""
    spent: dict[str, float] = {}
    for span in spans:
        if span.lane == GPU:
            spent[span.step] = spent.get(span.step, 0.0) + (span.stop_s - span.start_s) * 1e3
    return {**spent, "total": sum(spent.values())}


def study_times(compute: Compute, study: Study, *, warm_up: int, runs: int) -> list[dict[str, float]]:
    """:func:`gpu_ms` of one series that is alone on the device, run after run, warm."""
    times = []
    for run in range(warm_up + runs):
        clock = Stopwatch()
        said_of(compute, study, clock)
        if run >= warm_up:
            times.append(gpu_ms(clock.spans))
    return times


def idle_share(spans: Iterable[Span], since_s: float = 0.0) -> float:
    """Of the time from ``since_s``, or the first span on the compute stream, to the last: the share with none."""
    busy = sorted((max(span.start_s, since_s), span.stop_s) for span in spans if span.lane == GPU)
    busy = [(start, stop) for start, stop in busy if stop > start]
    ran, end = 0.0, busy[0][0]
    for start, stop in busy:
        ran += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return 1 - ran / (end - busy[0][0])


@dataclass(frozen=True)
class ManyStudies:
    """A run of many series: each one's clock in order, and the moments (s) at which it was written."""

    clocks: list[Stopwatch]
    written_s: list[float]

    def steady(self, skip: int) -> tuple[float, float, float]:
        """Without the first ``skip`` series: ms a series end to end, median ms of GPU compute, idle share."""
        end_to_end = (self.written_s[-1] - self.written_s[skip - 1]) / (len(self.written_s) - skip) * 1e3
        kept = self.clocks[skip:]
        compute = sorted(gpu_ms(clock.spans)["total"] for clock in kept)[len(kept) // 2]
        since = min(span.start_s for span in kept[0].spans if span.lane == GPU)
        return end_to_end, compute, idle_share((span for clock in self.clocks for span in clock.spans), since)


def many_studies(compute: Compute, bundle: LoadedBundle, folder: Path, out: Path) -> ManyStudies:
    """`onfh infer` on every series below a folder, its stages opened before; ``compute`` is closed by it.

    Raises:
        RuntimeError: a series did not succeed.
    """
    watched = _Watched(compute)
    written, said = [], []

    def on_result(result: Any, _: Path) -> None:
        written.append(time.perf_counter())
        said.append(result)

    with patch("onfh_runtime.pipeline.open_compute", lambda *_, **__: watched):
        infer([folder], out, bundle=bundle, on_result=on_result)
    failed = [result.reason.text for result in said if result.status != "succeeded"]
    if failed or not said:
        raise RuntimeError(f"{len(failed)} of {len(said)} series failed: {failed[0] if failed else 'there was none'}")
    return ManyStudies(watched.clocks, written)


class _Watched:
    """A compute that remembers the clock of every job, in the order in which they finish."""

    def __init__(self, compute: Compute) -> None:
        self._compute = compute
        self.clocks: list[Stopwatch] = []
        self.engine, self.ahead, self.warnings = compute.engine, compute.ahead, compute.warnings
        self.start, self.drop, self.close = compute.start, compute.drop, compute.close
        self.load: Callable[[Prepared, Volume, Mapping[int, float], Stopwatch], Job] = compute.load

    def finish(self, job: Job) -> Said:
        said = self._compute.finish(job)
        self.clocks.append(job.clock)
        return said
