"""Lanes: read, compute, write.

While one series is computed, the next is read, prepared and loaded (onto a GPU: uploaded), and the one before is put
into words and written. So many series are on their way at once and no more: memory stays bounded, and the compute lane
never waits for a disk. Stage 1 of the next series is queued before the gate of this one is waited for, when that next
series is there already; one that is alone waits for nobody. A series that fails, fails alone.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from threading import Lock
from typing import TYPE_CHECKING

from onfh_runtime.analysis import Analysis, Warnings, analysed, without_answer
from onfh_runtime.answer import Prepared, Said, prepare
from onfh_runtime.bundle import LoadedBundle, StageName
from onfh_runtime.compute import Compute, Job, open_compute
from onfh_runtime.dicom import Candidate, SourceImage, read_volume
from onfh_runtime.errors import BackendError, OnfhError
from onfh_runtime.private_log import traceback_without_messages
from onfh_runtime.result import Engine
from onfh_runtime.timing import Stopwatch
from onfh_runtime.volume import Volume

if TYPE_CHECKING:
    from onfh_runtime.engines import Progress

__all__ = ["Pipeline", "as_onfh_error"]

_log = logging.getLogger(__name__)
_NO_ENGINE = Engine(backend="none", precision="none", device="none")


@dataclass
class _Series:
    """A candidate on its way; once it has an ``error``, the lanes to come only pass it on."""

    candidate: Candidate
    clock: Stopwatch
    volume: Volume | None = None
    sources: tuple[SourceImage, ...] = ()
    job: Job | None = None
    said: Said | None = None
    error: OnfhError | None = None

    @contextmanager
    def lane(self) -> Iterator[None]:
        """What goes wrong in here is this series' own error."""
        try:
            yield
        except Exception as error:
            self.error = self.error or as_onfh_error(error)


class Pipeline:
    """Both stages of a bundle, opened once, and the lanes around them.

    Args:
        bundle: the checked bundle.
        backend: a name of :data:`onfh_runtime.backends.BACKENDS`.
        threads: threads for one operator on the host, 0 for every core.
        gpu: which GPU, in the driver's order.
        graphs: whether TensorRT's runs are captured into CUDA graphs.
        progress: told of the steps when an engine has to be built.
    """

    def __init__(
        self,
        bundle: LoadedBundle,
        *,
        backend: str = "auto",
        threads: int = 0,
        gpu: int = 0,
        graphs: bool = True,
        progress: Progress | None = None,
    ) -> None:
        self._bundle = bundle
        self._opened_by = partial(
            open_compute, bundle, backend, threads=threads, gpu=gpu, graphs=graphs, progress=progress
        )
        self._opening = Lock()
        self._compute: Compute | OnfhError | None = None

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def run(
        self,
        candidates: Iterable[Candidate],
        write: Callable[[Analysis], Analysis],
        *,
        get_ready: Callable[[], object] | None = None,
    ) -> Iterator[Analysis]:
        """Analyse candidates in the order given and yield what ``write`` returned for each, in the same order.

        Args:
            candidates: series.
            write: called in the write lane, one analysis after the other; what it raises ends the run.
            get_ready: called there while the first series is computed, so that ``write`` finds loaded what it needs;
                what it raises is for ``write`` to meet again.

        Raises:
            UsageError: there is no such backend.
            BundleError: the bundle lacks what the backend needs.
        """
        waiting = iter(candidates)
        ahead: deque[Future[_Series]] = deque()
        current: _Series | None = None
        behind: Future[Analysis] | None = None
        # The write lane is left first, so that what was computed is written even when the run is given up.
        with (
            ThreadPoolExecutor(thread_name_prefix="onfh-read") as reader,
            ThreadPoolExecutor(1, "onfh-write") as writer,
        ):

            def read_ahead(count: int) -> None:
                ahead.extend(reader.submit(self._loaded, candidate) for candidate in islice(waiting, max(0, count)))

            try:
                read_ahead(1)
                most = self._most_ahead() if ahead else 0
                while ahead or current is not None:
                    done, current = current, None
                    if ahead and (done is None or ahead[0].done()):
                        current = ahead.popleft().result()
                        self._start(current)
                    if done is None:
                        continue
                    read_ahead(most - len(ahead) - (current is not None))
                    if get_ready is not None:
                        writer.submit(get_ready)
                        get_ready = None
                    self._finish(done)
                    if behind is not None:
                        yield behind.result()
                    behind = writer.submit(self._written, done, write)
                    del done
                if behind is not None:
                    yield behind.result()
            finally:
                for series in [current, *(left.result() for left in ahead if not left.cancel())]:
                    if series is not None:
                        self._drop(series)

    def analyse(self, candidate: Candidate, known: Mapping[str, float] | None = None) -> Analysis:
        """Analyse one candidate in this thread.

        Args:
            candidate: the series.
            known: what stage 1 said before of whole native coronal slices, by SOP Instance UID; used where the bundle
                lets the stages see whole slices.

        Raises:
            UsageError: there is no such backend.
            BundleError: the bundle lacks what the backend needs.
        """
        self._most_ahead()
        series = self._loaded(candidate, known)
        self._start(series)
        self._finish(series)
        return self._analysed(series)

    def open(self) -> Engine:
        """Open both stages now instead of with the first series, and say what computes.

        Raises:
            UsageError: there is no such backend.
            MissingExtraError: what the backend needs is not installed.
            BundleError: the bundle lacks what the backend needs.
            BackendError: a stage cannot be loaded.
        """
        return self._open().engine

    def captured(self) -> dict[StageName, tuple[int, ...]]:
        """Batch sizes that run as CUDA graphs, by stage; none on a host. Opens both stages, and raises as ``open``."""
        return self._open().captured()

    def close(self) -> None:
        """Release both stages; may be called more than once."""
        if self._compute is not None and not isinstance(self._compute, OnfhError):
            self._compute.close()
        self._compute = None

    def _open(self) -> Compute:
        """Both stages, opened once; an error is kept and raised again."""
        with self._opening:
            if self._compute is None:
                try:
                    self._compute = self._opened_by()
                except OnfhError as error:
                    self._compute = error
            if isinstance(self._compute, OnfhError):
                raise self._compute
            return self._compute

    def _most_ahead(self) -> int:
        """How many series to have on their way before the one that is computed; a BackendError waits for them."""
        try:
            return self._open().ahead
        except BackendError:
            return 1

    def _loaded(self, candidate: Candidate, known: Mapping[str, float] | None = None) -> _Series:
        series = _Series(candidate, Stopwatch())
        with series.lane():
            with series.clock.step("read"):
                series.volume, series.sources = read_volume(candidate)
            try:
                prepared = prepare(series.volume, self._bundle.content, series.clock)
            finally:
                compute = self._open()  # only now: it may be under way; its error goes before one of the series
            indices = _indices(known or {}, prepared, series.sources)
            series.job = compute.load(prepared, series.volume, indices, series.clock)
        return series

    def _start(self, series: _Series) -> None:
        if series.error is None and series.job is not None:
            with series.lane():
                self._open().start(series.job)

    def _finish(self, series: _Series) -> None:
        try:
            if series.error is None and series.job is not None:
                with series.lane():
                    series.said = self._open().finish(series.job)
        finally:
            self._drop(series)

    def _drop(self, series: _Series) -> None:
        if series.job is not None:
            self._open().drop(series.job)

    def _written(self, series: _Series, write: Callable[[Analysis], Analysis]) -> Analysis:
        return write(self._analysed(series))

    def _analysed(self, series: _Series) -> Analysis:
        engine: Engine = _NO_ENGINE
        warnings: Warnings = ()
        with series.lane():
            compute = self._open()
            engine, warnings = compute.engine, compute.warnings
        if series.volume is not None and series.job is not None and series.said is not None:
            with series.lane():
                return analysed(
                    series.candidate,
                    series.volume,
                    series.sources,
                    series.job.prepared,
                    series.said,
                    bundle=self._bundle,
                    engine=engine,
                    warnings=warnings,
                    clock=series.clock,
                )
        assert series.error is not None
        return without_answer(
            series.candidate,
            series.error,
            bundle=self._bundle,
            engine=engine,
            warnings=warnings,
            clock=series.clock,
        )


def as_onfh_error(error: Exception) -> OnfhError:
    """The error itself when it is ours; otherwise ``internal_error``, with the places it came through in the log.

    Text and log name only the class: a message from elsewhere might hold what must not be written.
    """
    if isinstance(error, OnfhError):
        return error
    _log.error("unexpected error: %s", traceback_without_messages(error))
    return BackendError(
        "internal_error",
        f"The analysis stopped at an unexpected {type(error).__name__}.",
        "Run again with --verbose and report what it prints.",
    )


def _indices(known: Mapping[str, float], prepared: Prepared, sources: tuple[SourceImage, ...]) -> dict[int, float]:
    """Known probabilities by the index of the seen slice; only a native slice that is seen whole can be known."""
    plan, box = prepared.plan, prepared.box
    if not known or not plan.native or (box[1], box[2]) != tuple(slice(0, side) for side in plan.shape[1:]):
        return {}
    uids = [sources[plan.source_slice(index)].sop_instance_uid for index in range(box[0].start, box[0].stop)]
    return {index: known[uid] for index, uid in enumerate(uids) if uid in known}
