"""An engine from a plan: asked whether it runs here, opened, its weights put back, its tensors read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from onfh_runtime.backends.protocol import TensorSpec
from onfh_runtime.device_memory import DeviceMemoryError
from onfh_runtime.engines.flavours import Flavour
from onfh_runtime.engines.listening import BuildLog
from onfh_runtime.errors import BackendError

if TYPE_CHECKING:
    import tensorrt as trt

__all__ = ["engine_from_plan", "profiles_of_engine", "refusal", "tensors_of_engine"]

_DIAGNOSES = {
    "VERSION_MISMATCH": "another version built it",
    "OLD_CUDA_DRIVER": "the driver is too old",
    "OLD_CUDA_RUNTIME": "the CUDA runtime is too old",
    "INSUFFICIENT_GPU_MEMORY": "the GPU has too little memory",
    "MALFORMED_ENGINE": "it is no plan of this flavour",
    "CUDA_ERROR": "the driver or the CUDA runtime is not installed correctly",
}


def engine_from_plan(
    plan: memoryview | bytes, flavour: Flavour, log: BuildLog, onnx: Path | None
) -> tuple[trt.Runtime, trt.ICudaEngine]:
    """Open a plan on the calling thread's GPU; both results must be kept, the runtime the longer.

    Args:
        plan: its bytes.
        flavour: what built it.
        log: is listening.
        onnx: the file it was built from, to take the weights from when the plan has none; None leaves it as it is.

    Raises:
        DeviceMemoryError: ``gpu_out_of_memory``.
        EngineError: ``gpu_unsupported`` when the flavour does not know this GPU, ``engine_unloadable``, or
            ``engine_not_refitted`` when the weights could not be put back.
    """
    module = flavour.module
    runtime: trt.Runtime = module.Runtime(log.logger)
    _require_validity(module, runtime, plan, flavour, log)
    engine: trt.ICudaEngine | None = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise refusal(
            log,
            "engine_unloadable",
            f"{flavour.name} {flavour.version} cannot open the plan on this machine.",
            "Build it again here: a plan is for one GPU and one version.",
        )
    if onnx is not None:
        _refit(module, engine, onnx, log)
    return runtime, engine


def refusal(log: BuildLog, code: str, text: str, fix: str = "") -> BackendError:
    """The error for something TensorRT refused: that there was no memory, where its log says so, else the one named."""
    if any(word in line.lower() for line in log.recent for word in ("out of memory", "outofmemory")):
        return DeviceMemoryError("gpu_out_of_memory", text, "Close other programs on this GPU, or use a smaller batch.")
    return log.error(code, text, fix)


def tensors_of_engine(
    module: ModuleType, engine: trt.ICudaEngine
) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs and outputs; BackendError ``model_unsupported`` for a type or shape this runtime does not feed."""
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
    return tuple(inputs), tuple(outputs)


def profiles_of_engine(engine: trt.ICudaEngine, tensor: str) -> tuple[tuple[int, int, int], ...]:
    """(least, usual, most) rows of every optimization profile, as an input has them."""
    found = []
    for index in range(engine.num_optimization_profiles):
        shapes: Sequence[trt.Dims] = engine.get_tensor_profile_shape(tensor, index)
        found.append((int(shapes[0][0]), int(shapes[1][0]), int(shapes[2][0])))
    return tuple(found)


def _require_validity(
    module: ModuleType, runtime: trt.Runtime, plan: memoryview | bytes, flavour: Flavour, log: BuildLog
) -> None:
    """Raise when the flavour can tell beforehand that it will not run the plan here, and why.

    Where the question itself fails, nothing is raised: opening the plan says more.
    """
    if not hasattr(runtime, "get_engine_validity") or not hasattr(module, "EngineInvalidityDiagnostics"):
        return
    diagnoses: Any = module.EngineInvalidityDiagnostics
    answer: tuple[Any, int] = runtime.get_engine_validity(plan)
    bits = int(answer[1])
    if bits & int(diagnoses.UNSUPPORTED_CC):
        raise log.error(
            "gpu_unsupported",
            f"{flavour.name} {flavour.version} does not know this GPU.",
            "Use another backend, such as tensorrt or onnxruntime-cuda.",
        )
    reasons = [text for name, text in _DIAGNOSES.items() if bits & int(getattr(diagnoses, name))]
    if reasons:
        raise log.error(
            "engine_unloadable",
            f"{flavour.name} {flavour.version} does not run the plan on this machine: {', '.join(reasons)}.",
            "Build it again here: a plan is for one GPU and one version.",
        )


def _refit(module: ModuleType, engine: trt.ICudaEngine, onnx: Path, log: BuildLog) -> None:
    refitter: trt.Refitter = module.Refitter(engine, log.logger)
    parser: trt.OnnxParserRefitter = module.OnnxParserRefitter(refitter, log.logger)
    # By its path, so that weights in a file beside it are found.
    if not parser.refit_from_file(str(onnx)) or not refitter.refit_cuda_engine():
        raise log.error(
            "engine_not_refitted",
            f"The weights of {onnx.name} could not be put back into the plan that was built without them.",
            "Build the plan with its weights in.",
        )
