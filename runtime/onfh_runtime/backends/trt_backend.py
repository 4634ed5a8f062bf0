"""TensorRT of every flavour, on buffers and a stream of the caller."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from onfh_runtime.backends.protocol import check_bucket
from onfh_runtime.bundle import StageName
from onfh_runtime.device import Device, DeviceArray, Graph, Stream
from onfh_runtime.engines.cache import FoundPlan
from onfh_runtime.engines.flavours import Flavour
from onfh_runtime.engines.run import PlanRunner, plan_buckets
from onfh_runtime.errors import BackendError

__all__ = ["TrtBackend"]

_log = logging.getLogger(__name__)

_GRAPHS_PER_BUCKET = 2
"""A caller that swaps two sets of buffers keeps its graphs; one that never gives the same again holds no more."""


class TrtBackend:
    """One stage as a TensorRT engine, with an execution context and a CUDA graph for each row count.

    Contexts are made when their row count first comes. The first run with some buffers is queued plainly and then
    captured; later ones launch that graph. The contexts' activations share one buffer of the device, which grows with
    the row count: whoever starts with the largest bucket has it grow once.

    Args:
        found: the plan, from :func:`~onfh_runtime.engines.cache.plan_for`, or one made for a test.
        flavour: what built it.
        stage: ``classifier`` or ``segmenter``.
        max_rows: the largest batch wanted.
        device: the GPU the plan is for.
        stream: every run goes here.
        graphs: whether runs are captured; without, each is queued layer by layer.
        runtime_cache: file for the kernels that TensorRT-RTX compiles; None keeps them in memory.
        warnings: (code, text) that results are to show with those of the plan.

    Raises:
        DeviceMemoryError: ``gpu_out_of_memory``.
        EngineError: ``gpu_unsupported``, ``engine_unloadable`` or ``engine_not_refitted``, with TensorRT's own words.
        BackendError: ``model_unsupported``, or ``engine_unloadable`` when no profile takes ``max_rows`` or less.
    """

    def __init__(
        self,
        found: FoundPlan,
        flavour: Flavour,
        *,
        stage: StageName,
        max_rows: int,
        device: Device,
        stream: Stream,
        graphs: bool = True,
        runtime_cache: Path | None = None,
        warnings: tuple[tuple[str, str], ...] = (),
    ) -> None:
        self.name, self.precision, self.device = flavour.name, str(found.facts.precision), device.name
        self.warnings = warnings + found.warnings
        self._stage, self._gpu, self._stream, self._wanted = stage, device, stream, graphs
        self._graphs: OrderedDict[tuple[int, ...], Graph | None] = OrderedDict()
        self._scratch: DeviceArray | None = None
        self._closed = False
        onnx = found.onnx if found.facts.stripped else None
        with device.current():
            self._runner = PlanRunner(
                found.data, flavour, scratch=self._give_scratch, onnx=onnx, runtime_cache=runtime_cache
            )
        self.inputs, self.outputs = self._runner.inputs, self._runner.outputs
        self.buckets = plan_buckets(self._runner.profiles, max_rows)
        if not self.buckets:
            raise BackendError(
                "engine_unloadable",
                f"The plan of the {stage} takes batches of {self._runner.profiles}, none of them of up to {max_rows} "
                "rows.",
            )
        self._workspace = device.workspace()

    @property
    def captured(self) -> tuple[int, ...]:
        """Row counts that so far run as a CUDA graph, ascending."""
        return tuple(sorted({rows for (rows, *_), graph in self._graphs.items() if graph is not None}))

    def run(self, inputs: Mapping[str, DeviceArray], outputs: Mapping[str, DeviceArray], *, stream: Stream) -> None:
        """Queue ``outputs`` from ``inputs`` on the stream this was opened with.

        The first run of a row count waits, for its context and its kernels to be made.

        Raises:
            BackendError: ``wrong_tensor``, ``stage_failed``, ``gpu_out_of_memory``.
        """
        rows, addresses = self._checked(inputs, outputs, stream)
        with self._gpu.current():
            self._runner.prepare(rows, stream=stream.handle)  # may drop graphs
            key = (rows, *(addresses[spec.name] for spec in (*self.inputs, *self.outputs)))
            graph = self._graphs.get(key)
            if graph is not None:
                self._graphs.move_to_end(key)
                graph.launch(stream)
                return
            self._runner.enqueue(addresses, rows, stream=stream.handle)
            if key not in self._graphs:
                stream.synchronize()
                self._runner.keep_compiled()
                self._remember(key, self._capture(addresses, rows))

    def layer_times(
        self, inputs: Mapping[str, DeviceArray], outputs: Mapping[str, DeviceArray], *, stream: Stream
    ) -> tuple[tuple[str, float], ...]:
        """Run once, wait, and say what TensorRT's own profiler measured.

        The profiler stays and slows later runs, and no graph may be captured beside it: open a backend for this alone,
        without graphs.

        Returns:
            Each layer's name and ms, in the order they ran; empty where this flavour tells none.

        Raises:
            BackendError: as :meth:`run`.
        """
        rows, addresses = self._checked(inputs, outputs, stream)
        with self._gpu.current():
            told = self._runner.enqueue_profiled(addresses, rows, stream=stream.handle)
            stream.synchronize()
        return tuple(told)

    def close(self) -> None:
        """Wait for the stream and release everything; may be called more than once."""
        if self._closed:
            return
        self._closed = True
        with self._gpu.current():
            with suppress(BackendError):  # a stream that failed has nothing left to wait for
                self._stream.synchronize()
            self._drop_graphs()
            self._runner.close()
        self._workspace.close()

    def _capture(self, addresses: Mapping[str, int], rows: int) -> Graph | None:
        """A graph of a run that was queued before, or None where it is to be queued every time."""
        if not self._wanted:
            return None
        handle = self._stream.handle

        def work() -> bool:
            try:
                self._runner.enqueue(addresses, rows, stream=handle)
            except BackendError:  # what may be queued may still not be captured
                return False
            return True

        graph = self._stream.capture(work) if self._runner.capturable(rows, stream=handle) else None
        if graph is None:
            _log.info("the %s is queued without a CUDA graph at %d rows", self._stage, rows)
        return graph

    def _checked(
        self, inputs: Mapping[str, DeviceArray], outputs: Mapping[str, DeviceArray], stream: Stream
    ) -> tuple[int, dict[str, int]]:
        """The row count of a run, and the addresses of its tensors by name."""
        if self._closed:
            raise BackendError("stage_failed", f"The {self._stage} was closed and cannot run.", "Open it again.")
        if stream is not self._stream:
            raise BackendError("stage_failed", f"The {self._stage} was opened for another stream and runs on no other.")
        rows = check_bucket(self._stage, self, inputs, outputs)
        return rows, {name: array.address for name, array in (*inputs.items(), *outputs.items())}

    def _remember(self, key: tuple[int, ...], graph: Graph | None) -> None:
        self._graphs[key] = graph
        if len(self._graphs) > _GRAPHS_PER_BUCKET * len(self.buckets):
            _, oldest = self._graphs.popitem(last=False)
            if oldest is not None:
                oldest.close()  # the stream has just been waited for

    def _drop_graphs(self) -> None:
        """Close every graph; the stream must have been waited for."""
        while self._graphs:
            _, graph = self._graphs.popitem()
            if graph is not None:
                graph.close()

    def _give_scratch(self, nbytes: int) -> int:
        """Address of at least so many bytes; what was given before goes when it is too small."""
        if self._scratch is None or self._scratch.nbytes < nbytes:
            self._stream.synchronize()
            self._drop_graphs()  # they would write where the activations were
            self._scratch = None
            self._scratch = self._workspace.device("activations", (max(nbytes, 1),), "uint8")
        return self._scratch.address
