"""A TensorRT without a GPU, for the wiring: plans are JSON, and runs are queued on a host device's stream.

Its classes have no public member that the binding it stands for lacks, by ``trt_api.json``; it asks for everything in
the order TensorRT does, and refuses by returning None or False and writing to the log, as TensorRT does.
"""

from __future__ import annotations

import json
from collections import Counter
from enum import Enum
from pathlib import Path
from types import ModuleType

import numpy as np
from host_device import HostStream, seen_by_host

from onfh_runtime.device import DeviceArray
from onfh_runtime.engines import Flavour

__all__ = ["BINDINGS", "CHANNELS", "FACTS", "LAYERS_MS", "PIXELS", "stand_in_flavour", "stand_in_plan"]

FACTS = json.loads((Path(__file__).parents[1] / "runtime" / "engines" / "trt_api.json").read_text())
BINDINGS = tuple(FACTS["bindings"])
PIXELS, CHANNELS = (1, 4, 6), 2
BYTES_PER_ROW = 1000
LAYERS_MS = {"mean": 0.25, "times ten + join": 0.75}
"""What a profiler is told of a row; as with TensorRT, once the run is over."""
SM = {"sm75": 0, "sm89": 1}


def stand_in_plan(*, profiles=((1, 4, 8),), half=False, stripped=False, cc="sm89", opens=True):
    """The bytes of a plan whose logits are the mean of a row, and its tenfold."""
    known = {"profiles": profiles, "half": half, "stripped": stripped, "cc": cc, "opens": opens}
    return json.dumps(known).encode()


def has(binding, owner, member):
    members = FACTS["classes"][owner]
    return member in members["everywhere"] or binding in members["somewhere"].get(member, ())


def stand_in_flavour(binding: str, stream: HostStream, *, gpu: str = "sm89", captures: bool = True) -> Flavour:
    """A flavour whose module stands in for that binding, for plans that run on ``stream``.

    ``module.told`` counts what was asked of it; ``module.config`` holds what the last runtime configuration was given.
    """
    name, version = binding.rsplit("-", 1)
    module = ModuleType("stand_in_tensorrt")
    module.told = Counter()
    module.given = {}

    class ILogger:
        INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

    class TensorIOMode(Enum):
        INPUT, OUTPUT = 0, 1

    class DataType(Enum):
        FLOAT, HALF = 0, 1

    class ExecutionContextAllocationStrategy(Enum):
        STATIC, USER_MANAGED = 0, 1

    class CudaGraphStrategy(Enum):
        DISABLED, WHOLE_GRAPH_CAPTURE = 0, 1

    class DynamicShapesKernelSpecializationStrategy(Enum):
        LAZY, EAGER = 0, 1

    class EngineInvalidityDiagnostics:
        VERSION_MISMATCH, UNSUPPORTED_CC, OLD_CUDA_DRIVER, OLD_CUDA_RUNTIME = 1, 2, 4, 8
        INSUFFICIENT_GPU_MEMORY, MALFORMED_ENGINE, CUDA_ERROR = 16, 32, 64

    class IProfiler:
        def report_layer_time(self, layer_name, ms):
            raise NotImplementedError

    class IRuntimeCache:
        def __init__(self):
            self._kernels = []

        def serialize(self):
            return json.dumps({"gpu": gpu, "kernels": self._kernels}).encode()

        def deserialize(self, blob):
            try:
                found = json.loads(blob)
            except ValueError:
                return False
            if found["gpu"] == gpu:
                self._kernels = found["kernels"]
            return found["gpu"] == gpu

    class IRuntimeConfig:
        def __init__(self):
            self._strategy, self._cache = ExecutionContextAllocationStrategy.STATIC, None
            self.cuda_graph_strategy = CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
            self.dynamic_shapes_kernel_specialization_strategy = DynamicShapesKernelSpecializationStrategy.LAZY

        def set_execution_context_allocation_strategy(self, strategy):
            self._strategy = strategy

        def create_runtime_cache(self):
            return IRuntimeCache()

        def set_runtime_cache(self, cache):
            self._cache = cache
            return True

    class IExecutionContext:
        profiler = None

        def __init__(self, engine, strategy, cache):
            self._engine, self._cache, self._profile = engine, cache, None
            self._shapes, self._addresses, self._memory = {}, {}, None
            assert strategy is ExecutionContextAllocationStrategy.USER_MANAGED, strategy
            module.told["contexts"] += 1

        def set_optimization_profile_async(self, index, handle):
            assert handle == stream.handle
            self._profile = index
            module.told[f"profile {index}"] += 1
            return True

        def set_input_shape(self, tensor, shape):
            least, _, most = self._engine._plan["profiles"][self._profile]
            self._shapes[tensor] = tuple(shape)
            return shape[1:] == PIXELS and least <= shape[0] <= most

        def update_device_memory_size_for_shapes(self):
            return self._shapes["pixels"][0] * BYTES_PER_ROW

        def set_device_memory(self, address, size):
            assert address % 256 == 0
            assert size >= self.update_device_memory_size_for_shapes()
            self._memory = DeviceArray(address, (size,), np.dtype(np.uint8))

        def set_tensor_address(self, tensor, address):
            self._addresses[tensor] = address
            return address % 16 == 0

        def is_stream_capturable(self, handle):
            assert handle == stream.handle
            return captures

        def execute_async_v3(self, handle):
            assert handle == stream.handle
            assert self._memory is not None
            module.told["executions"] += 1
            rows, kernel = self._shapes["pixels"][0], f"{self._shapes['pixels'][0]} rows"
            if self._cache is not None and kernel not in self._cache._kernels:
                self._cache._kernels.append(kernel)
                module.told["compilations"] += 1
            dtype = np.dtype(np.float16 if self._engine._plan["half"] else np.float32)
            pixels = DeviceArray(self._addresses["pixels"], (rows, *PIXELS), dtype)
            logits = DeviceArray(self._addresses["logits"], (rows, CHANNELS), dtype)
            memory, weights, profiler = self._memory, self._engine._weights, self.profiler
            assert profiler is None or isinstance(profiler, IProfiler)

            def work():
                seen_by_host(memory)[:] = 0
                mean = weights * seen_by_host(pixels).astype(np.float32).mean(axis=(1, 2, 3))
                seen_by_host(logits)[:] = np.stack([mean, 10 * mean], axis=1)
                for layer, ms in LAYERS_MS.items() if profiler is not None else ():
                    profiler.report_layer_time(layer, rows * ms)

            stream.call(work, pixels, logits, memory)
            return True

    class ICudaEngine:
        num_io_tensors = 2

        def __init__(self, plan):
            self._plan, self._weights = plan, float("nan") if plan["stripped"] else 1.0

        @property
        def num_optimization_profiles(self):
            return len(self._plan["profiles"])

        def get_tensor_name(self, index):
            return ("logits", "pixels")[index]

        def get_tensor_mode(self, tensor):
            return TensorIOMode.INPUT if tensor == "pixels" else TensorIOMode.OUTPUT

        def get_tensor_shape(self, tensor):
            return (-1, *PIXELS) if tensor == "pixels" else (-1, CHANNELS)

        def get_tensor_dtype(self, tensor):
            return DataType.HALF if self._plan["half"] else DataType.FLOAT

        def get_tensor_profile_shape(self, tensor, index):
            return [(rows, *PIXELS) for rows in self._plan["profiles"][index]]

        def get_device_memory_size_for_profile_v2(self, index):
            return self._plan["profiles"][index][2] * BYTES_PER_ROW

        def create_runtime_config(self):
            return IRuntimeConfig()

        def create_execution_context(self, how):
            if not isinstance(how, IRuntimeConfig):
                return IExecutionContext(self, how, None)
            module.given = {
                "graphs": how.cuda_graph_strategy.name,
                "shapes": how.dynamic_shapes_kernel_specialization_strategy.name,
            }
            return IExecutionContext(self, how._strategy, how._cache)

    class Runtime:
        def __init__(self, logger):
            self._logger = logger

        def get_engine_validity(self, plan):
            return (None, 0 if json.loads(plan)["cc"] == gpu else EngineInvalidityDiagnostics.UNSUPPORTED_CC)

        def deserialize_cuda_engine(self, plan):
            known = json.loads(plan)
            if known["opens"] is not True:
                self._logger.log(ILogger.ERROR, known["opens"])
                return None
            return ICudaEngine(known)

    class Refitter:
        def __init__(self, engine, logger):
            self._engine, self._weights = engine, None

        def refit_cuda_engine(self):
            self._engine._weights = self._weights
            return True

    class OnnxParserRefitter:
        def __init__(self, refitter, logger):
            self._refitter = refitter

        def refit_from_file(self, path):
            self._refitter._weights = 1.0
            return Path(path).is_file()

    for owner in [value for value in list(locals().values()) if isinstance(value, type)]:
        if has(binding, "module", owner.__name__):
            for member in [member for member in vars(owner) if member[0] != "_"]:
                if not isinstance(owner, type(Enum)) and not has(binding, owner.__name__, member):
                    delattr(owner, member)
            setattr(module, owner.__name__, owner)
    return Flavour(name, module, version)
