"""A trained network itself, FP32 on the CPU, as a backend: the column that every other is judged by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from onfh_runtime.backends import TensorSpec
from onfh_runtime.backends.protocol import check_tensors
from onfh_runtime.cpu import cpu_name
from onfh_runtime.errors import BackendError

__all__ = ["TorchBackend"]


class TorchBackend:
    """One stage as the network it was exported from.

    Args:
        network: (batch, C, H, W) float32 -> logits, or a Transformers output that has them. Put into evaluation mode.
        shape: (C, H, W).
        input_name: as in the bundle.
        output_name: as in the bundle.
    """

    name = "torch"
    precision = "fp32"
    batch_limit: int | None = None

    def __init__(self, network: nn.Module, shape: tuple[int, int, int], *, input_name: str, output_name: str) -> None:
        self._network: nn.Module | None = network.eval()
        self.device = cpu_name()
        self.inputs: tuple[TensorSpec, ...] = (TensorSpec(input_name, shape, np.dtype(np.float32)),)
        made = self._logits(np.zeros((1, *shape), np.float32))
        self.outputs: tuple[TensorSpec, ...] = (TensorSpec(output_name, made.shape[1:], np.dtype(np.float32)),)

    def run(
        self, inputs: Mapping[str, NDArray[Any]], outputs: Mapping[str, NDArray[Any]], *, stream: Any = None
    ) -> None:
        """Compute the logits into the caller's array; ``stream`` is ignored."""
        check_tensors("network", self.inputs, inputs)
        check_tensors("network", self.outputs, outputs)
        outputs[self.outputs[0].name][...] = self._logits(inputs[self.inputs[0].name])

    def close(self) -> None:
        """Let go of the network."""
        self._network = None

    def _logits(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        if self._network is None:
            raise BackendError("stage_failed", "The network was closed and cannot run.", "Open it again.")
        with torch.inference_mode():
            output: Any = self._network(torch.from_numpy(values))
        logits: Tensor = getattr(output, "logits", output)
        return np.asarray(logits.float().numpy())
