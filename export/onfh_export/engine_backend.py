"""A plan as a backend of the parity gate, on this machine's GPU; torch holds its device memory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from onfh_runtime.backends.protocol import check_tensors
from onfh_runtime.engines.flavours import Flavour
from onfh_runtime.engines.run import PlanRunner
from onfh_runtime.errors import BackendError

__all__ = ["EngineBackend"]


class EngineBackend:
    """One stage as a TensorRT engine.

    Args:
        path: the plan.
        flavour: what built it.
        precision: of the ONNX file it was built from.
        batch_limit: the most rows of the plan's first profile, the one that runs.

    Raises:
        BackendError: ``engine_unloadable``, also when this torch has no CUDA to hold the buffers.
    """

    def __init__(self, path: Path, flavour: Flavour, *, precision: str, batch_limit: int) -> None:
        if not torch.cuda.is_available():
            raise BackendError(
                "engine_unloadable",
                "This torch cannot use the GPU, so the engine was not run.",
                "Install a CUDA build of torch to have its answers compared.",
            )
        self._stream: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._activations: torch.Tensor | None = None
        self._runner = PlanRunner(path.read_bytes(), flavour, scratch=self._scratch)
        self.name, self.precision = flavour.name, precision
        self.batch_limit: int | None = batch_limit
        self.device = torch.cuda.get_device_name()
        self.inputs, self.outputs = self._runner.inputs, self._runner.outputs

    def run(
        self, inputs: Mapping[str, NDArray[Any]], outputs: Mapping[str, NDArray[Any]], *, stream: Any = None
    ) -> None:
        """Compute ``outputs`` from ``inputs``, both NumPy arrays of the caller; waits for the answer."""
        check_tensors("engine", self.inputs, inputs)
        check_tensors("engine", self.outputs, outputs)
        batch = len(next(iter(inputs.values())))
        with torch.cuda.stream(self._stream):
            held = {name: torch.from_numpy(array).cuda() for name, array in inputs.items()}
            made = {name: torch.empty_like(torch.from_numpy(array), device="cuda") for name, array in outputs.items()}
            addresses = {name: tensor.data_ptr() for name, tensor in (held | made).items()}
            self._runner.enqueue(addresses, batch, stream=self._stream.cuda_stream)
            for name, tensor in made.items():
                outputs[name][...] = tensor.cpu().numpy()  # on the same stream, and waits for it

    def close(self) -> None:
        """Release the engine."""
        self._runner.close()
        self._activations = None

    def _scratch(self, nbytes: int) -> int:
        """Address of at least so many bytes for the engine's activations; called where the stream is current."""
        if self._activations is None or self._activations.numel() < nbytes:
            self._stream.synchronize()
            self._activations = None  # before the larger one is asked for
            self._activations = torch.empty(nbytes, dtype=torch.uint8, device="cuda")
        return self._activations.data_ptr()
