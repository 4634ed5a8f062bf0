"""A plan opened on this machine's GPU. Device memory is the caller's and is given by address."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from onfh_runtime.backends.protocol import TensorSpec
from onfh_runtime.engines.flavours import Flavour
from onfh_runtime.engines.listening import BuildLog
from onfh_runtime.errors import BackendError

if TYPE_CHECKING:
    import tensorrt as trt

__all__ = ["PlanRunner"]


class PlanRunner:
    """One engine and one execution context, for batches of its first optimization profile.

    Args:
        plan: from :func:`~onfh_runtime.engines.plan_from_onnx`, for this machine's GPU and with its weights in.
        flavour: what built it.

    Raises:
        BackendError: ``engine_unloadable`` with TensorRT's own words; ``model_unsupported`` for a tensor whose type or
            shape this runtime does not feed.
    """

    def __init__(self, plan: memoryview | bytes, flavour: Flavour) -> None:
        self._log = BuildLog(flavour.module)
        self._runtime: trt.Runtime | None = None
        self._engine: trt.ICudaEngine | None = None
        self._context: trt.IExecutionContext | None = None
        with self._log:
            self._open(plan, flavour)

    def enqueue(self, addresses: Mapping[str, int], batch: int, *, stream: int) -> None:
        """Queue one run on a CUDA stream; nothing is waited for.

        Args:
            addresses: device address of every input and output, C-contiguous, (batch, ...) as ``inputs`` and
                ``outputs`` say; they must stay valid until the stream has run.
            batch: rows, within the plan's first profile.
            stream: handle of a CUDA stream that is not the default one.

        Raises:
            BackendError: ``stage_failed``.
        """
        if self._context is None:
            raise BackendError("stage_failed", "The plan was closed and cannot run.", "Open it again.")
        context: trt.IExecutionContext = self._context
        with self._log:
            for spec in self.inputs:
                if not context.set_input_shape(spec.name, (batch, *spec.shape)):
                    raise self._log.error("stage_failed", f"The plan takes no batch of {batch}.")
            for spec in (*self.inputs, *self.outputs):
                context.set_tensor_address(spec.name, addresses[spec.name])
            if not context.execute_async_v3(stream):
                raise self._log.error("stage_failed", "The plan could not be queued.")

    def close(self) -> None:
        """Release the context, the engine and the runtime, in that order; may be called more than once."""
        self._context = None
        self._engine = None
        self._runtime = None

    def _open(self, plan: memoryview | bytes, flavour: Flavour) -> None:
        module = flavour.module
        runtime: trt.Runtime = module.Runtime(self._log.logger)
        engine: trt.ICudaEngine | None = runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise self._log.error(
                "engine_unloadable",
                f"{flavour.name} {flavour.version} cannot open the plan on this machine.",
                "Build it again here: a plan is for one GPU and one version.",
            )
        context: trt.IExecutionContext | None = engine.create_execution_context()
        if context is None:
            raise self._log.error("engine_unloadable", f"{flavour.name} has no room for an execution context.")
        self._runtime, self._engine, self._context = runtime, engine, context
        modes: type[trt.TensorIOMode] = module.TensorIOMode
        types: type[trt.DataType] = module.DataType
        dtypes: dict[Any, np.dtype[Any]] = {types.FLOAT: np.dtype(np.float32), types.HALF: np.dtype(np.float16)}
        inputs: list[TensorSpec] = []
        outputs: list[TensorSpec] = []
        for index in range(engine.num_io_tensors):
            name = str(engine.get_tensor_name(index))
            dims: trt.Dims = engine.get_tensor_shape(name)
            shape = tuple(int(side) for side in dims[1:])
            dtype: trt.DataType = engine.get_tensor_dtype(name)
            if dtype not in dtypes or min(shape, default=1) < 1:
                raise BackendError(
                    "model_unsupported", f"The plan's tensor {name!r} has the type {dtype} and the shape {shape}."
                )
            spec = TensorSpec(name, shape, dtypes[dtype])
            (inputs if engine.get_tensor_mode(name) == modes.INPUT else outputs).append(spec)
        self.inputs, self.outputs = tuple(inputs), tuple(outputs)
