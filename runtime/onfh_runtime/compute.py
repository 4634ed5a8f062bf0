"""Where both stages of a bundle run: on the host, or on a GPU."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from onfh_runtime.answer import Prepared, Said, classifier_input, say
from onfh_runtime.backends.choice import Choice, choose_backend, next_best
from onfh_runtime.bundle import Bundle, LoadedBundle, StageName
from onfh_runtime.errors import BackendError
from onfh_runtime.result import Engine
from onfh_runtime.stages import StageRunner, open_runner, precision_of
from onfh_runtime.timing import Stopwatch
from onfh_runtime.volume import Volume

if TYPE_CHECKING:
    from onfh_runtime.engines import Progress

__all__ = ["Compute", "HostCompute", "Job", "open_compute"]

_STAGES: tuple[StageName, StageName] = ("classifier", "segmenter")


@dataclass
class Job:
    """One prepared volume on its way through both stages.

    ``known`` holds the probabilities of slices of ``prepared.seen`` that stage 1 saw before, by index.
    """

    prepared: Prepared
    known: Mapping[int, float]
    clock: Stopwatch


class Compute(Protocol):
    """Both stages, opened. The three calls of a job may come from three threads, each job's in this order.

    Attributes:
        engine: what computes, as outputs name it.
        warnings: (code, text) pairs that belong in every result.
        ahead: how many loaded jobs are worth having before the one that is finished; ``load`` never waits for more.
    """

    engine: Engine
    ahead: int
    warnings: tuple[tuple[str, str], ...]

    def load(self, prepared: Prepared, volume: Volume, known: Mapping[int, float], clock: Stopwatch) -> Job:
        """Bring a prepared volume to where it is computed."""
        ...

    def start(self, job: Job) -> None:
        """Queue stage 1 where there is a queue."""
        ...

    def finish(self, job: Job) -> Said:
        """Wait for stage 1, run stage 2 on the gated slices and give what both say."""
        ...

    def drop(self, job: Job) -> None:
        """Give up what the job holds; to be called for every loaded job, and may be called more than once."""
        ...

    def captured(self) -> dict[StageName, tuple[int, ...]]:
        """Batch sizes that run as CUDA graphs, by stage; empty on a host."""
        ...

    def close(self) -> None:
        """Release both stages; may be called more than once."""
        ...


@dataclass
class _HostJob(Job):
    values: NDArray[np.float32]


class HostCompute:
    """Both stages on arrays of the host; owns them.

    Raises (all calls):
        BackendError: a stage failed.
    """

    ahead = 1

    def __init__(
        self,
        rules: Bundle,
        classifier: StageRunner,
        segmenter: StageRunner,
        *,
        warnings: tuple[tuple[str, str], ...] = (),
    ) -> None:
        self._rules, self._classifier, self._segmenter = rules, classifier, segmenter
        self.warnings = warnings
        backend, precision = classifier.backend, precision_of(classifier.backend, segmenter.backend)
        self.engine = Engine(backend=backend.name, precision=precision, device=backend.device)

    def load(self, prepared: Prepared, volume: Volume, known: Mapping[int, float], clock: Stopwatch) -> Job:
        """Make stage 1's input."""
        return _HostJob(prepared, known, clock, classifier_input(prepared, self._classifier, known, clock))

    def start(self, job: Job) -> None:
        """A host has no queue."""

    def finish(self, job: Job) -> Said:
        """Run both stages."""
        assert isinstance(job, _HostJob)
        return say(
            job.prepared,
            self._rules,
            classifier=self._classifier,
            segmenter=self._segmenter,
            clock=job.clock,
            values=job.values,
            known=job.known,
        )

    def drop(self, job: Job) -> None:
        """A host's job holds nothing but arrays."""

    def captured(self) -> dict[StageName, tuple[int, ...]]:
        """A host has no graphs."""
        return {}

    def close(self) -> None:
        """Close both stages."""
        self._classifier.close()
        self._segmenter.close()


def open_compute(
    bundle: LoadedBundle,
    backend: str = "auto",
    *,
    threads: int = 0,
    gpu: int = 0,
    graphs: bool = True,
    progress: Progress | None = None,
) -> Compute:
    """Both stages of a bundle on the named backend.

    Args:
        bundle: the checked bundle.
        backend: a name of :data:`onfh_runtime.backends.BACKENDS`. ``auto`` goes on with the next best, and with a
            warning for the results, where what should run on the GPU could not be opened after all.
        threads: threads for one operator on the host, 0 for every core.
        gpu: which GPU, in the driver's order.
        graphs: whether TensorRT's runs are captured into CUDA graphs.
        progress: told of the steps when an engine has to be built.

    Raises:
        UsageError: there is no such backend.
        MissingExtraError: what the backend needs is not installed.
        BundleError: the bundle lacks what the backend needs.
        BackendError: a stage cannot be loaded, or is not what the bundle describes.
    """
    choice = choose_backend(backend, gpu)
    while choice.on_device:
        try:
            return _on_device(bundle, choice, gpu, graphs=graphs, progress=progress)
        except BackendError as error:
            if backend != "auto":
                raise
            choice = next_best(choice, error, gpu)
    with ExitStack() as opened:
        runners = []
        for stage in _STAGES:
            runners.append(open_runner(bundle, stage, choice.backend, threads=threads))
            opened.callback(runners[-1].close)
        opened.pop_all()
    return HostCompute(bundle.content, *runners, warnings=choice.warnings)


def _on_device(bundle: LoadedBundle, choice: Choice, gpu: int, *, graphs: bool, progress: Progress | None) -> Compute:
    from onfh_runtime.backends.on_device import open_device_stage
    from onfh_runtime.device import open_device
    from onfh_runtime.device_compute import DeviceCompute
    from onfh_runtime.device_stage import DeviceStage

    rules = bundle.content
    with ExitStack() as opened:
        device = open_device(gpu)
        opened.callback(device.close)
        stream = device.stream()
        stages = []
        for stage, spec in zip(_STAGES, (rules.classifier, rules.segmenter), strict=True):
            run = open_device_stage(bundle, stage, choice.backend, device, stream, graphs=graphs, progress=progress)
            opened.callback(run.close)
            stages.append(DeviceStage(stage, spec, run))
        compute = DeviceCompute(device, rules, *stages, stream=stream, warnings=choice.warnings)
        opened.pop_all()
    return compute
