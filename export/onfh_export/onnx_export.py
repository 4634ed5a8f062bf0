"""A Transformers network as an ONNX file, proved against the network it came from."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from onfh_runtime.errors import OnfhError

__all__ = ["INPUT_NAME", "OUTPUT_NAME", "check_onnx", "onnx_from_network"]

INPUT_NAME, OUTPUT_NAME = "pixel_values", "logits"
OPSET = 18
"""TensorRT 10 and 11, TensorRT-RTX and ONNX Runtime from 1.14 all read it."""
TOLERANCE = 1e-4
"""Of a logit, absolute and relative: FP32 sums in another order, not another network."""
PROOF_BATCHES = (1, 2, 3, 7)
"""Windowed attention is known to bake in the traced batch; odd sizes show it."""
_TRACED_BATCH = 2


class _Logits(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixel_values: Tensor) -> Tensor:
        logits: Tensor = self.network(pixel_values=pixel_values).logits
        return logits


def onnx_from_network(network: nn.Module, shape: tuple[int, int, int], path: Path) -> None:
    """Write an FP32 ONNX file with one input, ``pixel_values`` (batch, C, H, W), and one output, ``logits``.

    Args:
        network: a Transformers model in evaluation mode with eager attention.
        shape: (channels, height, width), baked into the file; only the batch is symbolic.
        path: the file to write; weights are inside it.

    Raises:
        OnfhError: ``onnx_mismatch``, see :func:`check_onnx`.
    """
    example = torch.zeros(_TRACED_BATCH, *shape)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        # The exporter's own deprecations are no business of whoever exports.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _Logits(network).eval(),
            (example,),
            str(path),
            input_names=[INPUT_NAME],
            output_names=[OUTPUT_NAME],
            dynamic_shapes={"pixel_values": {0: torch.export.Dim("batch", min=1, max=1024)}},
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
            optimize=True,
            verbose=False,
        )
    check_onnx(path, network, shape)


def check_onnx(path: Path, network: nn.Module, shape: tuple[int, int, int]) -> float:
    """Compare an ONNX file with its network on random input, at several batch sizes.

    Returns:
        The largest absolute difference of a logit.

    Raises:
        OnfhError: ``onnx_mismatch`` when the file is invalid, its batch is fixed, or a logit differs.
    """
    import onnx
    import onnxruntime

    onnx.checker.check_model(str(path), full_check=True)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    generator = torch.Generator().manual_seed(0)
    worst = 0.0
    for batch in PROOF_BATCHES:
        pixels = torch.randn(batch, *shape, generator=generator)
        with torch.inference_mode():
            expected = network(pixel_values=pixels).logits.numpy()
        try:
            (found,) = session.run([OUTPUT_NAME], {INPUT_NAME: pixels.numpy()})
        except Exception as error:  # onnxruntime raises its own, undocumented classes
            raise OnfhError("onnx_mismatch", f"{path.name} does not run at batch {batch}: {error}") from error
        if found.shape != expected.shape or not np.allclose(found, expected, rtol=TOLERANCE, atol=TOLERANCE):
            raise OnfhError("onnx_mismatch", f"{path.name} and its network give other logits at batch {batch}.")
        worst = max(worst, float(np.abs(found - expected).max()))
    return worst
