"""A plan opened on this machine's GPU. Device memory is the caller's and is given by address."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onfh_runtime.backends.protocol import bucket_sizes
from onfh_runtime.engines.flavours import Flavour
from onfh_runtime.engines.listening import BuildLog, profiler_from_module
from onfh_runtime.engines.opening import engine_from_plan, profiles_of_engine, refusal, tensors_of_engine
from onfh_runtime.engines.runtime_cache import RuntimeCache
from onfh_runtime.errors import BackendError

if TYPE_CHECKING:
    import tensorrt as trt

__all__ = ["PlanRunner", "plan_buckets"]

_log = logging.getLogger(__name__)
Profiles = tuple[tuple[int, int, int], ...]


def plan_buckets(profiles: Profiles, max_rows: int) -> tuple[int, ...]:
    """Row counts a plan is run with: powers of two up to its largest batch and ``max_rows``, and the lesser of those.

    Args:
        profiles: (least, usual, most) rows of each; row counts that none of them takes are left out.
        max_rows: the stage's largest batch.
    """
    sizes = bucket_sizes(min(max_rows, max(most for _, _, most in profiles)))
    return tuple(rows for rows in sizes if any(least <= rows <= most for least, _, most in profiles))


@dataclass
class _Context:
    """An execution context for one row count, and where its activations are now."""

    context: trt.IExecutionContext
    scratch_bytes: int
    scratch: int = field(default=0)
    profiler: trt.IProfiler | None = None
    """Held for the context, which does not own it."""


class PlanRunner:
    """One engine, and an execution context for each row count that is asked for, made when it is.

    The contexts share one piece of memory for their activations, which is enough because they run on one stream; only
    what TensorRT keeps from run to run is each context's own.

    Args:
        plan: from :func:`~onfh_runtime.engines.plan_from_onnx`, for the calling thread's GPU.
        flavour: what built it.
        scratch: given a number of bytes, returns the address of at least so many on the device, aligned to 256 bytes,
            which stay valid until it is called again or the runner is closed. It is called before every run, and what
            it returned before may then still be in use by the stream.
        onnx: the file the plan was built from, when it was built without its weights.
        runtime_cache: file for the kernels that TensorRT-RTX compiles on this GPU, read now and written as they come.

    Raises:
        DeviceMemoryError: ``gpu_out_of_memory``.
        EngineError: what :func:`~onfh_runtime.engines.opening.engine_from_plan` raises, with TensorRT's own words.
        BackendError: ``model_unsupported`` for a tensor whose type or shape this runtime does not feed.
    """

    def __init__(
        self,
        plan: memoryview | bytes,
        flavour: Flavour,
        *,
        scratch: Callable[[int], int],
        onnx: Path | None = None,
        runtime_cache: Path | None = None,
    ) -> None:
        self._flavour, self._scratch = flavour, scratch
        self._contexts: dict[int, _Context] = {}
        self._cache = RuntimeCache(runtime_cache) if hasattr(flavour.module, "IRuntimeCache") else None
        self._runtime: trt.Runtime | None = None
        self._engine: trt.ICudaEngine | None = None
        with BuildLog(flavour.module) as log:
            self._runtime, self._engine = engine_from_plan(plan, flavour, log, onnx)
            self.inputs, self.outputs = tensors_of_engine(flavour.module, self._engine)
            self.profiles: Profiles = profiles_of_engine(self._engine, self.inputs[0].name)

    def prepare(self, rows: int, *, stream: int) -> None:
        """Make what a run of so many rows needs: its context, and room for its activations.

        Raises:
            BackendError: ``stage_failed``, ``gpu_out_of_memory``; what ``scratch`` raises.
        """
        held = self._contexts.get(rows)
        if held is None:
            with BuildLog(self._flavour.module) as log:
                held = self._contexts[rows] = self._context_for(rows, stream, log)
        address = self._scratch(held.scratch_bytes)
        if address != held.scratch:
            context: trt.IExecutionContext = held.context
            context.set_device_memory(address, held.scratch_bytes)
            held.scratch = address

    def enqueue(self, addresses: Mapping[str, int], rows: int, *, stream: int) -> None:
        """Queue one run on a CUDA stream; nothing is waited for, but the first run of a row count may take long.

        Args:
            addresses: device address of every input and output, C-contiguous, (rows, ...) as ``inputs`` and ``outputs``
                say; they must stay valid until the stream has run.
            rows: within one of the plan's profiles.
            stream: handle of a CUDA stream that is not the default one, and always the same.

        Raises:
            BackendError: ``stage_failed``, ``gpu_out_of_memory``; what ``scratch`` raises.
        """
        self.prepare(rows, stream=stream)
        context: trt.IExecutionContext = self._contexts[rows].context
        with BuildLog(self._flavour.module) as log:
            for spec in (*self.inputs, *self.outputs):
                if not context.set_tensor_address(spec.name, addresses[spec.name]):
                    raise log.error("stage_failed", f"The plan does not take the buffer of {spec.name!r}.")
            if not context.execute_async_v3(stream):
                raise refusal(log, "stage_failed", "The plan could not be queued.")

    def enqueue_profiled(self, addresses: Mapping[str, int], rows: int, *, stream: int) -> list[tuple[str, float]]:
        """As :meth:`enqueue`, with TensorRT's profiler at the context of that row count from then on.

        Returns:
            A list that holds each layer's name and ms once the stream has run.
        """
        self.prepare(rows, stream=stream)
        held = self._contexts[rows]
        context: trt.IExecutionContext = held.context
        told: list[tuple[str, float]] = []
        held.profiler = profiler_from_module(self._flavour.module, told)
        context.profiler = held.profiler
        self.enqueue(addresses, rows, stream=stream)
        return told

    def capturable(self, rows: int, *, stream: int) -> bool:
        """Whether a run of so many rows, run once before, may be captured into a CUDA graph, as far as it is known."""
        context: trt.IExecutionContext = self._contexts[rows].context
        if hasattr(context, "is_stream_capturable"):
            return bool(context.is_stream_capturable(stream))
        return True

    def keep_compiled(self) -> None:
        """Write what TensorRT-RTX has compiled so far to its cache file, if that is new; other flavours have none."""
        if self._cache is not None:
            self._cache.save()

    def close(self) -> None:
        """Release the contexts, the engine and the runtime, in that order; may be called more than once."""
        self._contexts.clear()
        self._cache = None
        self._engine = None
        self._runtime = None

    def _context_for(self, rows: int, stream: int, log: BuildLog) -> _Context:
        if self._engine is None:
            raise BackendError("stage_failed", "The plan was closed and cannot run.", "Open it again.")
        engine: trt.ICudaEngine = self._engine
        profile = self._profile_for(rows)
        strategies: type[trt.ExecutionContextAllocationStrategy] = (
            self._flavour.module.ExecutionContextAllocationStrategy
        )
        how: Any = strategies.USER_MANAGED
        if self._cache is not None:
            how = self._cache.config_for(self._flavour.module, engine, strategies.USER_MANAGED)
        made: trt.IExecutionContext | None = engine.create_execution_context(how)
        if made is None:
            raise refusal(log, "stage_failed", f"{self._flavour.name} made no execution context for {rows} rows.")
        context: trt.IExecutionContext = made
        if not context.set_optimization_profile_async(profile, stream):
            raise log.error("stage_failed", f"The plan does not take up its profile {profile}.")
        for spec in self.inputs:
            if not context.set_input_shape(spec.name, (rows, *spec.shape)):
                raise log.error("stage_failed", f"The plan takes no batch of {rows}.")
        need = int(context.update_device_memory_size_for_shapes())
        need = need or int(engine.get_device_memory_size_for_profile_v2(profile))  # which is the most it can be
        _log.info("opened a context for %d rows, profile %d, %.1f MB of activations", rows, profile, need / 1e6)
        return _Context(context, need)

    def _profile_for(self, rows: int) -> int:
        """The profile whose usual row count is nearest; the narrowest of equals."""
        fitting = [index for index, (least, _, most) in enumerate(self.profiles) if least <= rows <= most]
        if not fitting:
            raise BackendError("stage_failed", f"No profile of the plan takes a batch of {rows}: {self.profiles}.")

        def misfit(index: int) -> tuple[int, int]:
            least, usual, most = self.profiles[index]
            return abs(usual - rows), most - least

        return min(fitting, key=misfit)
