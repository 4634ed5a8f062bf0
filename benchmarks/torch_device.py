"""torch as a device backend: a network on the buffers and the stream of the pipeline, captured into CUDA graphs.

It lets kernels and pipeline be measured on a GPU that has neither TensorRT nor ONNX Runtime's CUDA provider. On ``cpu``
the same code runs where device memory is the host's, which is how its test runs it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from onfh_runtime.backends import TensorSpec
from onfh_runtime.backends.protocol import bucket_sizes, check_bucket
from onfh_runtime.device import Device, DeviceArray, Stream

Network = Callable[[Tensor], Any]
_TYPES = {"float16": torch.float16, "float32": torch.float32}


class TorchDeviceBackend:
    """One stage.

    Args:
        network: (rows, C, H, W) of the input's type -> logits, or a Transformers output that has them.
        stage: ``classifier`` or ``segmenter``.
        given: its input.
        made: its output.
        precision: as results name it.
        max_rows: the largest batch wanted.
        device: where the buffers are.
        stream: every run goes here.
        on: torch's name of the device.
    """

    def __init__(
        self,
        network: Network,
        *,
        stage: str,
        given: TensorSpec,
        made: TensorSpec,
        precision: str,
        max_rows: int,
        device: Device,
        stream: Stream,
        on: str = "cuda",
    ) -> None:
        self.name, self.precision, self.device = f"torch-{on}", precision, device.name
        self.inputs, self.outputs, self.buckets = (given,), (made,), bucket_sizes(max_rows)
        self.warnings: tuple[tuple[str, str], ...] = ()
        self._network, self._stage, self._gpu, self._stream, self._on = network, stage, device, stream, on
        self._graphs: dict[tuple[int, ...], Any] = {}
        self.captured: list[int] = []
        """Row counts that run as a CUDA graph."""

    def run(self, inputs: Mapping[str, DeviceArray], outputs: Mapping[str, DeviceArray], *, stream: Stream) -> None:
        """Queue a run; the second with the same buffers is captured."""
        rows = check_bucket(self._stage, self, inputs, outputs)
        (given,), (made,) = inputs.values(), outputs.values()
        if self._on == "cpu":
            stream.synchronize()  # torch on the CPU knows no streams
            self._once(given, made)
            return
        with self._gpu.current(), torch.cuda.stream(torch.cuda.ExternalStream(stream.handle)):
            key = (rows, given.address, made.address)
            if self._graphs.get(key) is not None:
                self._graphs[key].replay()
                return
            self._once(given, made)
            if key not in self._graphs:
                stream.synchronize()
                self._graphs[key] = self._capture(given, made, stream)

    def close(self) -> None:
        """Drop graphs and network."""
        if self._graphs:
            self._stream.synchronize()
            self._graphs.clear()
        self._network = _closed

    def _once(self, given: DeviceArray, made: DeviceArray) -> None:
        with torch.inference_mode():
            answer = self._network(borrowed(given, self._on))
            borrowed(made, self._on).copy_(getattr(answer, "logits", answer))

    def _capture(self, given: DeviceArray, made: DeviceArray, stream: Stream) -> Any:
        """A graph of what just ran, or None where torch cannot capture it."""
        graph = torch.cuda.CUDAGraph()
        on = torch.cuda.ExternalStream(stream.handle)
        try:
            with torch.cuda.graph(graph, stream=on, capture_error_mode="thread_local"):
                self._once(given, made)
        except RuntimeError as error:
            print(f"torch captured no graph of the {self._stage} at {given.shape[0]} rows: {error}")
            return None
        self.captured.append(given.shape[0])
        return graph


def borrowed(array: DeviceArray, on: str) -> Tensor:
    """A device array as torch sees it, in the same memory."""
    if on == "cpu":
        memory = (ctypes.c_char * array.nbytes).from_address(array.address)
        return torch.frombuffer(memory, dtype=_TYPES[array.dtype.name]).reshape(array.shape)
    return torch.as_tensor(_CudaArray(array), device=on)


class _CudaArray:
    """An array as the CUDA Array Interface (version 3) describes one."""

    def __init__(self, array: DeviceArray) -> None:
        self.__cuda_array_interface__ = {
            "shape": array.shape,
            "typestr": np.dtype(array.dtype).str,
            "data": (array.address, False),
            "strides": None,
            "version": 3,
        }


def _closed(_: Tensor) -> Tensor:
    raise RuntimeError("the stage was closed")
