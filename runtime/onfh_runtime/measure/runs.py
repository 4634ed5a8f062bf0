"""Analyses that are timed, through the pipeline that ``onfh infer`` uses."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from onfh_runtime.analysis import Analysis
from onfh_runtime.backends import DEVICE_BACKENDS
from onfh_runtime.bundle import LoadedBundle
from onfh_runtime.dicom import Candidate
from onfh_runtime.errors import BackendError, SeriesError
from onfh_runtime.outputs.series_folder import get_ready, write_series
from onfh_runtime.pipeline import Pipeline
from onfh_runtime.result import Engine, Result
from onfh_runtime.timing import Span

__all__ = [
    "STEPS",
    "How",
    "Sample",
    "Write",
    "at_once",
    "not_written",
    "samples",
    "written_below",
]

STEPS = ("read", "preprocess", "classify", "segment", "postprocess", "write")
Write = Callable[[Analysis], Analysis]


@dataclass(frozen=True)
class How:
    """How the stages are opened: what :class:`Pipeline` takes."""

    backend: str = "auto"
    threads: int = 0
    gpu: int = 0
    graphs: bool = True

    def pipeline(self, bundle: LoadedBundle) -> Pipeline:
        """A pipeline, to be closed."""
        return Pipeline(bundle, backend=self.backend, threads=self.threads, gpu=self.gpu, graphs=self.graphs)

    def gpu_of(self, engine: Engine) -> int | None:
        """The GPU that an engine runs on, or None."""
        return self.gpu if engine.backend in DEVICE_BACKENDS else None


@dataclass(frozen=True)
class Sample:
    """One series that was answered.

    Attributes:
        result: what was said of it.
        spans: its steps.
        answered_s: when the answer was handed over, by ``time.perf_counter``.
        enqueues: what the host did to queue its steps on a GPU; in no span.
    """

    result: Result
    spans: tuple[Span, ...]
    answered_s: float
    enqueues: tuple[Span, ...] = ()

    @property
    def begun_s(self) -> float:
        """When the first step began."""
        return min(span.start_s for span in self.spans)

    @property
    def in_steps_s(self) -> float:
        """Time during which at least one step ran."""
        total, reached = 0.0, 0.0
        for span in sorted(self.spans, key=lambda span: span.start_s):
            total += max(0.0, span.stop_s - max(span.start_s, reached))
            reached = max(reached, span.stop_s)
        return total

    @property
    def enqueue_s(self) -> float:
        """Time in which this series' work was queued on a GPU."""
        return sum(span.seconds for span in self.enqueues)

    def step_s(self, step: str, lane: str | None = None) -> float:
        """Time of a step, or of what of it a lane did."""
        return sum(s.seconds for s in self.spans if s.step == step and lane in (None, s.lane))

    def lane_s(self, lane: str) -> float:
        """Time of everything in a lane."""
        return sum(span.seconds for span in self.spans if span.lane == lane)


def samples(pipeline: Pipeline, candidates: Iterable[Candidate], write: Write) -> Iterator[Sample]:
    """Analyse, and yield each series' figures as soon as its answer is there; the images are let go.

    Raises:
        SeriesError: the series is refused: what is never computed cannot be timed.
        BackendError: it failed.
    """
    for analysis in pipeline.run(candidates, write, get_ready=None if write is not_written else get_ready):
        answered = time.perf_counter()
        result = analysis.result
        if result.status != "succeeded":
            reason = result.reason
            code, text = (reason.code, reason.text) if reason else ("internal_error", "The analysis failed.")
            raise (SeriesError if result.status == "not_analysed" else BackendError)(code, text)
        clock = analysis.clock
        del analysis  # its images are as large as the series
        yield Sample(result, clock.spans, answered, clock.enqueues)


def at_once(taken: Sequence[Sample]) -> int:
    """How many series were on their way at the busiest moment."""
    moments = sorted(
        [(sample.begun_s, 1) for sample in taken] + [(max(s.stop_s for s in sample.spans), -1) for sample in taken]
    )
    most = now = 0
    for _, change in moments:
        now += change
        most = max(most, now)
    return most


def written_below(out: Path, bundle: LoadedBundle) -> Write:
    """Write every output of a series below a folder, as ``onfh infer`` does; each run replaces what was there."""
    return lambda analysis: write_series(out, analysis.replace(preferred=True), bundle)


def not_written(analysis: Analysis) -> Analysis:
    """Leave the answer in memory."""
    return analysis
