"""What TensorRT-RTX compiles on the GPU it runs on, kept in a file: without it every process compiles for seconds."""

from __future__ import annotations

import logging
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from onfh_runtime.errors import OutputError
from onfh_runtime.outputs.files import write_atomically

if TYPE_CHECKING:
    import tensorrt as trt

__all__ = ["RuntimeCache"]

_log = logging.getLogger(__name__)


class RuntimeCache:
    """One file of compiled kernels, shared by the execution contexts of an engine.

    TensorRT-RTX itself checks version, driver and GPU of what it reads and refuses what does not fit, which is then
    compiled and written anew. A file that cannot be written is no error: the next process compiles again.

    Args:
        path: the file; its folder must exist for it to be written. None keeps the kernels in memory.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._cache: Any = None
        self._saved = 0

    def config_for(
        self, module: ModuleType, engine: trt.ICudaEngine, strategy: trt.ExecutionContextAllocationStrategy
    ) -> Any:
        """How to make an execution context that uses this cache and compiles for the CUDA graphs of this runtime.

        A graph holds for ever the kernels that were captured. So those for the very shape are compiled at once instead
        of behind fallback kernels, and TensorRT-RTX captures no graphs of its own, which would not nest in ours.

        Returns:
            An IRuntimeConfig, or ``strategy`` itself where the flavour has none.
        """
        if not hasattr(module, "IRuntimeConfig") or not hasattr(engine, "create_runtime_config"):
            return strategy
        config: trt.IRuntimeConfig = engine.create_runtime_config()
        if hasattr(config, "set_execution_context_allocation_strategy"):
            config.set_execution_context_allocation_strategy(strategy)
        if hasattr(config, "dynamic_shapes_kernel_specialization_strategy"):
            config.dynamic_shapes_kernel_specialization_strategy = _member(
                module, "DynamicShapesKernelSpecializationStrategy", "EAGER"
            )
        if hasattr(config, "cuda_graph_strategy"):
            config.cuda_graph_strategy = _member(module, "CudaGraphStrategy", "DISABLED")
        if hasattr(config, "create_runtime_cache") and hasattr(config, "set_runtime_cache"):
            if self._cache is None:
                self._cache = config.create_runtime_cache()
                self._read()
            config.set_runtime_cache(self._cache)
        return config

    def save(self) -> None:
        """Write the cache if it has changed in size since it was read or written."""
        if self._cache is None or self._path is None:
            return
        data = bytes(memoryview(self._cache.serialize()))
        if len(data) == self._saved:
            return
        self._saved = len(data)
        try:
            write_atomically(self._path, data)
        except OutputError as error:
            _log.info("compiled kernels are not kept: %s", error.text)

    def _read(self) -> None:
        if self._path is None:
            return
        try:
            data = self._path.read_bytes()
        except OSError:
            return
        if self._cache.deserialize(data):
            self._saved = len(data)
        else:
            _log.info("kernels compiled before do not fit this GPU, driver or version, and are compiled again")


def _member(module: ModuleType, name: str, member: str) -> Any:
    return getattr(getattr(module, name), member)
