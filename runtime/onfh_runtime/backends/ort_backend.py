"""ONNX Runtime on the CPU: the embedded default."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onfh_runtime.backends.protocol import TensorSpec, check_tensors
from onfh_runtime.cpu import cores, cpu_name, multiplies_bytes_exactly, return_free_memory
from onfh_runtime.errors import BackendError

__all__ = ["OrtBackend", "first_line", "session_options", "tensor_spec"]

_DTYPES: dict[str, np.dtype[Any]] = {"tensor(float)": np.dtype(np.float32), "tensor(float16)": np.dtype(np.float16)}


class OrtBackend:
    """One stage in one ONNX Runtime session on the CPU.

    Args:
        path: the stage's ONNX file.
        precision: the precision that file holds, as named in the bundle.
        threads: threads for one operator; 0 lets ONNX Runtime take every core.

    Raises:
        BackendError: ``model_unloadable`` when ONNX Runtime refuses the file, ``model_unsupported`` when height or
            width is not fixed or a tensor has a type this runtime does not feed.
    """

    name = "onnxruntime"
    batch_limit: int | None = 1
    """Rows gain nothing from company on a CPU, and alone they give the same bits whatever else is analysed: in a batch
    their place decides how products are blocked, which was seen to move a probability by 2e-7."""

    def __init__(self, path: Path, *, precision: str, threads: int = 0) -> None:
        import onnxruntime as ort

        try:
            self._session: Any = ort.InferenceSession(
                str(path), session_options(threads), providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime's exception classes share no base but Exception
            raise BackendError(
                "model_unloadable", f"ONNX Runtime cannot load {path.name}: {first_line(error)}", "Export it again."
            ) from error
        return_free_memory()
        self.precision = precision
        self.device = cpu_name()
        self._stage = path.parent.name
        self.inputs = tuple(tensor_spec(path, node) for node in self._session.get_inputs())
        self.outputs = tuple(tensor_spec(path, node) for node in self._session.get_outputs())

    def run(
        self, inputs: Mapping[str, NDArray[Any]], outputs: Mapping[str, NDArray[Any]], *, stream: Any = None
    ) -> None:
        """Compute ``outputs`` (NumPy arrays owned by the caller) from ``inputs``; ``stream`` is ignored on a CPU."""
        if self._session is None:
            raise BackendError("stage_failed", f"The {self._stage} was closed and cannot run.", "Open it again.")
        check_tensors(self._stage, self.inputs, inputs)
        check_tensors(self._stage, self.outputs, outputs)
        binding = self._session.io_binding()
        for spec in self.inputs:
            binding.bind_cpu_input(spec.name, inputs[spec.name])
        for spec in self.outputs:
            array = outputs[spec.name]
            binding.bind_output(spec.name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
        try:
            self._session.run_with_iobinding(binding)
        except Exception as error:
            raise BackendError("stage_failed", f"The {self._stage} failed: {first_line(error)}") from error

    def close(self) -> None:
        """Drop the session."""
        self._session = None


def session_options(threads: int) -> Any:
    """How ONNX Runtime opens a stage on the CPU; ``threads`` for one operator, 0 for one on every physical core.

    Which options are worth it was measured: ``benchmarks/cpu_options.py``.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    # ONNX Runtime counts every core of the machine, also those that this process may not use.
    options.intra_op_num_threads = threads or (cores() if cores() < (os.cpu_count() or 1) else 0)
    options.log_severity_level = 3
    # The arena keeps its high-water mark for ever; a stage's buffers are large and few, so malloc serves as well.
    options.enable_cpu_mem_arena = False
    # A thread that spins between two operators is quick to go on, and takes the core from the lanes beside it: briefly.
    options.add_session_config_entry("session.intra_op.spin_duration_us", "100")
    if not multiplies_bytes_exactly():  # INT8 weights then take a slower product, which does
        options.add_session_config_entry("session.x64quantprecision", "1")
    return options


def tensor_spec(path: Path, node: Any) -> TensorSpec:
    """An input or output of a session; BackendError ``model_unsupported`` for one this runtime does not feed."""
    if node.type not in _DTYPES or not all(isinstance(n, int) for n in node.shape[1:]):
        raise BackendError(
            "model_unsupported",
            f"{path.name} has the tensor {node.name!r} of type {node.type} and shape {node.shape}; all but the batch "
            "must be fixed, and the type float or float16.",
            "Export it again with `onfh export`.",
        )
    return TensorSpec(node.name, tuple(node.shape[1:]), _DTYPES[node.type])


def first_line(error: Exception) -> str:
    """What ONNX Runtime says, without the stack it may print below."""
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
