"""ONNX Runtime on buffers and a stream of the caller: for GPUs that have no TensorRT at hand."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from onfh_runtime.backends.ort_backend import first_line, tensor_spec
from onfh_runtime.backends.protocol import bucket_sizes, check_bucket
from onfh_runtime.device import Device, DeviceArray, DeviceMemoryError, Stream
from onfh_runtime.errors import BackendError

__all__ = ["OrtCudaBackend"]

_log = logging.getLogger(__name__)

_PROVIDERS = {"cuda": "CUDAExecutionProvider", "cpu": "CPUExecutionProvider"}
_ARENA_SHARE = 0.9
"""Of the memory that is free when a session opens; the rest is for the buffers between the stages."""
_BOOKKEEPING = frozenset(
    {"Cast", "Concat", "Constant", "ConstantOfShape", "Equal", "Expand", "Gather", "Mul", "Range", "Reshape", "Shape"}
    | {"Size", "Slice", "Squeeze", "Unsqueeze", "Where"}
)
"""Operators on shapes, which ONNX Runtime puts on the CPU on purpose and which cost nothing there."""


class OrtCudaBackend:
    """One stage in one ONNX Runtime session, through I/O binding: no copy is made, and nothing is waited for.

    Args:
        path: the stage's ONNX file.
        stage: ``classifier`` or ``segmenter``.
        precision: the precision that file holds, as named in the bundle.
        max_rows: the largest batch wanted.
        device: where the buffers are.
        stream: every run goes here.
        provider: ``cuda``; ``cpu`` runs the same code on a device whose memory is the host's, and then waits.
        warnings: (code, text) that results are to show with this backend's own.

    Raises:
        DeviceMemoryError: ``gpu_out_of_memory``.
        BackendError: ``model_unloadable``, also when the CUDA provider does not start; ``model_unsupported``.
    """

    captured: tuple[int, ...] = ()
    """Its own graphs need buffers that are bound once for all."""

    def __init__(
        self,
        path: Path,
        *,
        stage: str,
        precision: str,
        max_rows: int,
        device: Device,
        stream: Stream,
        provider: Literal["cuda", "cpu"] = "cuda",
        warnings: tuple[tuple[str, str], ...] = (),
    ) -> None:
        import onnxruntime as ort

        self.name, self.precision, self.device = f"onnxruntime-{provider}", precision, device.name
        self.buckets = bucket_sizes(max_rows)
        self._stage, self._gpu, self._stream, self._on = stage, device, stream, provider
        self._ordinal = device.ordinal if provider == "cuda" else 0
        if provider == "cuda" and hasattr(ort, "preload_dlls"):
            # Finds CUDA and cuDNN in wheels. It prints what it lacks; whether that matters, the session says.
            with contextlib.redirect_stdout(io.StringIO()):
                ort.preload_dlls()
        with device.current():
            self._session: Any = _session(ort, path, stage, _provider(device, stream, provider))
        self.warnings = warnings + _left_to_the_cpu(self._session, stage, _PROVIDERS[provider])
        self.inputs = tuple(tensor_spec(path, node) for node in self._session.get_inputs())
        self.outputs = tuple(tensor_spec(path, node) for node in self._session.get_outputs())
        self._options: Any = ort.RunOptions()
        self._options.add_run_config_entry("disable_synchronize_execution_providers", "1")

    def run(self, inputs: Mapping[str, DeviceArray], outputs: Mapping[str, DeviceArray], *, stream: Stream) -> None:
        """Queue ``outputs`` from ``inputs`` on the stream this was opened with.

        Raises:
            BackendError: ``wrong_tensor``, ``stage_failed``, ``gpu_out_of_memory``.
        """
        if self._session is None:
            raise BackendError("stage_failed", f"The {self._stage} was closed and cannot run.", "Open it again.")
        if stream is not self._stream:
            raise BackendError("stage_failed", f"The {self._stage} was opened for another stream and runs on no other.")
        check_bucket(self._stage, self, inputs, outputs)
        if self._on == "cpu":
            stream.synchronize()  # the CPU provider knows no streams
        binding = self._session.io_binding()
        for spec in self.inputs:
            array = inputs[spec.name]
            binding.bind_input(spec.name, self._on, self._ordinal, array.dtype.type, array.shape, array.address)
        for spec in self.outputs:
            array = outputs[spec.name]
            binding.bind_output(spec.name, self._on, self._ordinal, array.dtype.type, array.shape, array.address)
        with self._gpu.current():
            try:
                self._session.run_with_iobinding(binding, self._options)
            except Exception as error:  # ONNX Runtime's exception classes share no base but Exception
                raise _failed("stage_failed", f"The {self._stage} failed: {first_line(error)}", error) from error

    def close(self) -> None:
        """Wait for the stream and drop the session; may be called more than once."""
        if self._session is None:
            return
        with self._gpu.current():
            with suppress(BackendError):  # a stream that failed has nothing left to wait for
                self._stream.synchronize()
            self._session = None


def _provider(device: Device, stream: Stream, on: Literal["cuda", "cpu"]) -> tuple[str, dict[str, str]]:
    if on == "cpu":
        return _PROVIDERS[on], {}
    return _PROVIDERS[on], {
        "device_id": str(device.ordinal),
        "user_compute_stream": str(stream.handle),
        # By doubling, the default, the last step of a large network takes up to twice what it needs.
        "arena_extend_strategy": "kSameAsRequested",
        "gpu_mem_limit": str(int(device.free_bytes() * _ARENA_SHARE)),
        # The default tries every algorithm at each new shape: seconds for each bucket, and the fastest of one process
        # need not be that of the next, so that answers would differ between runs.
        "cudnn_conv_algo_search": "HEURISTIC",
        # FP32 is chosen for its answers; TF32 would keep 10 bits of each factor.
        "use_tf32": "0",
    }


def _session(ort: Any, path: Path, stage: str, provider: tuple[str, dict[str, str]]) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.enable_cpu_mem_arena = False
    options.use_deterministic_compute = True
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    try:
        session = ort.InferenceSession(str(path), options, providers=[provider])
    except Exception as error:  # as above
        text = f"ONNX Runtime cannot load {path.name}: {first_line(error)}"
        raise _failed("model_unloadable", text, error) from error
    # A provider whose libraries are missing is dropped for the CPU's without an error.
    if session.get_providers()[0] != provider[0]:
        raise BackendError(
            "model_unloadable",
            f"ONNX Runtime cannot use the GPU for the {stage}: its CUDA provider does not start.",
            "Install the CUDA and cuDNN libraries of its version: pip install 'onnxruntime-gpu[cuda,cudnn]'.",
        )
    return session


def _left_to_the_cpu(session: Any, stage: str, provider: str) -> tuple[tuple[str, str], ...]:
    """A warning when parts of the network run on the CPU, as far as this ONNX Runtime tells."""
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return ()
    left = [
        node.op_type
        for part in session.get_provider_graph_assignment_info()
        if part.ep_name != provider
        for node in part.get_nodes()
        if node.op_type not in _BOOKKEEPING
    ]
    if not left:
        return ()
    kinds = ", ".join(sorted(set(left)))
    text = f"{len(left)} nodes of the {stage} ({kinds}) run on the CPU, because ONNX Runtime has no kernel for the GPU."
    _log.warning(text)
    return (("cpu_nodes", text),)


def _failed(code: str, text: str, error: Exception) -> BackendError:
    words = str(error).lower()
    if "failed to allocate memory" in words or "out of memory" in words or "available memory of" in words:
        return DeviceMemoryError("gpu_out_of_memory", text, "Close other programs on this GPU, or use a smaller batch.")
    return BackendError(code, text)
