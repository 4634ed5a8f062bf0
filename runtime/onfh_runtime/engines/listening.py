"""What TensorRT says: its log, the progress of a build and a way to stop it, and what its layers take."""

from __future__ import annotations

import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING

from onfh_runtime.errors import BackendError

if TYPE_CHECKING:
    import tensorrt as trt

__all__ = ["BuildLog", "EngineError", "Progress", "Watch", "profiler_from_module", "stopped_by_interrupt"]

KEPT_LINES = 20
LINE_CHARACTERS = 400

Progress = Callable[[str, int, int], "bool | None"]
"""Called with a phase's name, its steps done and its steps in all; False stops the build. Phases nest: the outermost is
named ``Building engine``. It may be called from a thread of TensorRT's own."""


class EngineError(BackendError):
    """A plan could not be built; ``log`` holds the last lines TensorRT logged, oldest first."""

    def __init__(self, code: str, text: str, fix: str = "", log: tuple[str, ...] = ()) -> None:
        super().__init__(code, text, fix)
        self.log = log

    def __str__(self) -> str:
        if not self.log:
            return super().__str__()
        return "\n    ".join([super().__str__(), "The last lines TensorRT logged:", *self.log])


class BuildLog:
    """Captures what TensorRT logs inside a ``with`` block.

    ``logger`` is the ILogger to give to TensorRT; ``warnings`` are its warnings and errors, ``recent`` its last lines.
    Builds that run at once see each other's lines, for TensorRT keeps to one logger while anything of it is alive.
    """

    def __init__(self, module: ModuleType) -> None:
        self.warnings: list[str] = []
        self.recent: deque[str] = deque(maxlen=KEPT_LINES)
        self.logger, self._listeners = _logger_from_module(module)

    def __enter__(self) -> BuildLog:
        self._listeners.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._listeners.remove(self)

    def add(self, line: str, *, warning: bool) -> None:
        """Keep what TensorRT logged, as one line."""
        line = " ".join(line.split())[:LINE_CHARACTERS]
        self.recent.append(line)
        if warning:
            self.warnings.append(line)

    def error(self, code: str, text: str, fix: str = "") -> EngineError:
        """An error that carries the last lines."""
        return EngineError(code, text, fix, tuple(self.recent))


class Watch:
    """Hands progress on, and remembers that the build is to stop.

    The bindings swallow what a callback raises, so what ``progress`` raises is kept in ``error`` and stops the build.
    """

    def __init__(self, module: ModuleType, progress: Progress | None) -> None:
        self.stopped = False
        self.error: Exception | None = None
        self._progress = progress
        self._steps: dict[str, int] = {}
        self.monitor = _monitor_from_module(module, self)

    def start(self, phase: str, steps: int) -> None:
        """A phase begins."""
        self._steps[phase] = steps
        self.step(phase, 0)

    def step(self, phase: str, done: int) -> bool:
        """Steps of a phase are done; whether to go on."""
        if self._progress is not None and not self.stopped:
            try:
                if self._progress(phase, done, self._steps.get(phase, done)) is False:
                    self.stopped = True
            except Exception as error:
                self.error, self.stopped = error, True
        return not self.stopped

    def finish(self, phase: str) -> None:
        """A phase is over; TensorRT does not tell every last step."""
        self.step(phase, self._steps.get(phase, 0))


@contextmanager
def stopped_by_interrupt(watch: Watch) -> Iterator[None]:
    """Inside, Ctrl-C stops the build at its next step; on leaving, the interrupt is raised as it would have been.

    A KeyboardInterrupt that strikes in one of TensorRT's callbacks would be swallowed there by the bindings.
    """
    previous = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or previous in (None, signal.SIG_IGN):
        yield
        return
    interrupted = False

    def stop(*_: object) -> None:
        nonlocal interrupted
        interrupted = watch.stopped = True

    signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
        if interrupted:
            signal.raise_signal(signal.SIGINT)


@cache
def _logger_from_module(module: ModuleType) -> tuple[trt.ILogger, list[BuildLog]]:
    """The one logger of this process, and the list of those that listen to it."""
    if TYPE_CHECKING:
        from tensorrt import ILogger
    else:
        ILogger = module.ILogger  # noqa: N806
    serious = (ILogger.INTERNAL_ERROR, ILogger.ERROR, ILogger.WARNING)
    listeners: list[BuildLog] = []

    class Logger(ILogger):  # type: ignore[misc]  # Any where the stubs are not installed
        def __init__(self) -> None:
            ILogger.__init__(self)

        def log(self, severity: trt.ILogger.Severity, msg: str) -> None:
            if severity != ILogger.VERBOSE:
                for listener in tuple(listeners):
                    listener.add(msg, warning=severity in serious)

    return Logger(), listeners


def _monitor_from_module(module: ModuleType, watch: Watch) -> trt.IProgressMonitor:
    if TYPE_CHECKING:
        from tensorrt import IProgressMonitor
    else:
        IProgressMonitor = module.IProgressMonitor  # noqa: N806

    class Monitor(IProgressMonitor):  # type: ignore[misc]  # Any where the stubs are not installed
        def __init__(self) -> None:
            IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            watch.start(phase_name, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return watch.step(phase_name, step + 1)

        def phase_finish(self, phase_name: str) -> None:
            watch.finish(phase_name)

    return Monitor()


def profiler_from_module(module: ModuleType, told: list[tuple[str, float]]) -> trt.IProfiler:
    """What an execution context tells its layers' names and ms; they are added to ``told`` as they come."""
    if TYPE_CHECKING:
        from tensorrt import IProfiler
    else:
        IProfiler = module.IProfiler  # noqa: N806

    class Profiler(IProfiler):  # type: ignore[misc]  # Any where the stubs are not installed
        def __init__(self) -> None:
            IProfiler.__init__(self)

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            told.append((layer_name, ms))

    return Profiler()
