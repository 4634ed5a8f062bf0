"""Three lanes: read, compute, write.

While one series is computed, the next is read and the one before is written; the queues between the lanes hold one
series each, so memory stays bounded and the compute lane never waits for a disk. A series that fails, fails alone.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Literal

from onfh_runtime.analysis import Analysis, analyse, engine_of, without_answer
from onfh_runtime.bundle import LoadedBundle
from onfh_runtime.dicom import Candidate, SourceImage, read_volume
from onfh_runtime.errors import BackendError, OnfhError
from onfh_runtime.private_log import traceback_without_messages
from onfh_runtime.stages import StageRunner, open_runner
from onfh_runtime.timing import Stopwatch
from onfh_runtime.volume import Volume

__all__ = ["Pipeline", "as_onfh_error"]

_log = logging.getLogger(__name__)
_STAGES: tuple[Literal["classifier", "segmenter"], ...] = ("classifier", "segmenter")
_Stages = tuple[StageRunner, StageRunner]


@dataclass(frozen=True)
class _Read:
    candidate: Candidate
    clock: Stopwatch
    outcome: tuple[Volume, tuple[SourceImage, ...]] | OnfhError


class Pipeline:
    """Both stages of a bundle, opened once, and the lanes around them.

    Args:
        bundle: the checked bundle.
        backend: a name of :data:`onfh_runtime.backends.BACKENDS`.
        threads: threads for one operator, 0 for every core.
    """

    def __init__(self, bundle: LoadedBundle, *, backend: str = "auto", threads: int = 0) -> None:
        self._bundle, self._backend, self._threads = bundle, backend, threads
        self._stages: _Stages | OnfhError | None = None

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def run(self, candidates: Iterable[Candidate], write: Callable[[Analysis], Analysis]) -> Iterator[Analysis]:
        """Analyse candidates in the order given and yield what ``write`` returned for each, in the same order.

        ``write`` is called in the write lane, one analysis after the other; what it raises ends the run.

        Raises:
            UsageError: there is no such backend.
            BundleError: the bundle lacks what the backend needs.
        """
        waiting = iter(candidates)
        with ThreadPoolExecutor(1, "onfh-read") as reader, ThreadPoolExecutor(1, "onfh-write") as writer:
            ahead = _read_next(reader, waiting)
            behind: Future[Analysis] | None = None
            while ahead is not None:
                stages = self._open()
                read = ahead.result()
                ahead = _read_next(reader, waiting)
                analysis = self._compute(read, stages)
                del read
                if behind is not None:
                    yield behind.result()
                behind = writer.submit(write, analysis)
                del analysis
            if behind is not None:
                yield behind.result()

    def close(self) -> None:
        """Release both stages; may be called more than once."""
        if isinstance(self._stages, tuple):
            for stage in self._stages:
                stage.close()
        self._stages = None

    def _open(self) -> _Stages | OnfhError:
        """Both stages, or the error that keeps them from opening; tried once. UsageError and BundleError pass."""
        if self._stages is None:
            with ExitStack() as opened:
                try:
                    runners = []
                    for stage in _STAGES:
                        runners.append(open_runner(self._bundle, stage, self._backend, threads=self._threads))
                        opened.callback(runners[-1].close)
                    opened.pop_all()
                    self._stages = (runners[0], runners[1])
                except BackendError as error:
                    self._stages = error
        return self._stages

    def _compute(self, read: _Read, stages: _Stages | OnfhError) -> Analysis:
        classifier = stages[0] if isinstance(stages, tuple) else None
        failure = read.outcome if isinstance(read.outcome, OnfhError) else stages
        if isinstance(failure, OnfhError):
            return without_answer(read.candidate, failure, self._bundle, engine_of(classifier), read.clock)
        assert not isinstance(read.outcome, OnfhError)
        volume, sources = read.outcome
        try:
            return analyse(
                read.candidate,
                volume,
                sources,
                bundle=self._bundle,
                classifier=failure[0],
                segmenter=failure[1],
                clock=read.clock,
            )
        except Exception as error:
            return without_answer(read.candidate, as_onfh_error(error), self._bundle, engine_of(classifier), read.clock)


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


def _read_next(reader: ThreadPoolExecutor, waiting: Iterator[Candidate]) -> Future[_Read] | None:
    candidate = next(waiting, None)
    return None if candidate is None else reader.submit(_read, candidate)


def _read(candidate: Candidate) -> _Read:
    clock = Stopwatch()
    try:
        with clock.step("read"):
            return _Read(candidate, clock, read_volume(candidate))
    except Exception as error:
        return _Read(candidate, clock, as_onfh_error(error))
