"""A network as an ONNX file that TensorRT fuses well, proved against the network it came from."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from onfh_export.graph.clean import clean
from onfh_runtime.errors import OnfhError

__all__ = [
    "INPUT_NAME",
    "OUTPUT_NAME",
    "TOLERANCE",
    "check_onnx",
    "check_same_rows",
    "logits_of",
    "onnx_from_network",
    "proof_batches",
    "raw_onnx_from_network",
]

INPUT_NAME, OUTPUT_NAME = "pixel_values", "logits"
OPSET = 18
"""TensorRT 10 and 11, TensorRT-RTX and ONNX Runtime from 1.14 all read it."""
TOLERANCE = 1e-4
"""Of a logit, absolute and relative: FP32 sums in another order, not another network."""
PROOF_BATCHES = (1, 2, 3, 7)
"""Windowed attention is known to bake in the traced batch; odd sizes show it."""
_TRACED_BATCH = 2
_CHUNK = 2
"""Rows a network computes at once to make what is expected; UperNet at 512 takes 1 GB for each."""

Shape = tuple[int, int, int]
Rows = NDArray[np.float32]


def logits_of(answer: Any) -> Tensor:
    """The logits in what a network returns: a tensor, ``.logits``, ``["logits"]`` or the first of several."""
    if isinstance(answer, Tensor):
        return answer
    if hasattr(answer, OUTPUT_NAME):
        found: Tensor = answer.logits
        return found
    if isinstance(answer, Mapping):
        return logits_of(answer[OUTPUT_NAME] if OUTPUT_NAME in answer else next(iter(answer.values())))
    return logits_of(answer[0])


class _Logits(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixel_values: Tensor) -> Tensor:
        return logits_of(self.network(pixel_values))


def onnx_from_network(
    network: nn.Module, shape: Shape, path: Path | None = None, *, opset: int = OPSET, max_batch: int = 8
) -> onnx.ModelProto:
    """An FP32 graph with one input, ``pixel_values`` (batch, C, H, W), and one output, ``logits``, cleaned.

    Args:
        network: a module whose first argument is the pixels, in evaluation mode; see :func:`logits_of` for its answer.
            A Transformers model with eager attention.
        shape: (channels, height, width), baked into the graph; only the batch is symbolic.
        path: a file to write the graph to, weights inside, and to check against the network.
        opset: see :func:`~onfh_export.graph.clean.clean`.
        max_batch: the largest batch that is checked.

    Raises:
        OnfhError: ``network_not_exportable``, ``opset_unsupported``, or ``onnx_mismatch``, see :func:`check_onnx`.
    """
    model = clean(raw_onnx_from_network(network, shape), opset=opset)
    if path is not None:
        onnx.save(model, path)
        check_onnx(path, network, shape, max_batch=max_batch)
    return model


def raw_onnx_from_network(network: nn.Module, shape: Shape) -> onnx.ModelProto:
    """The graph of :func:`onnx_from_network` as the exporter leaves it.

    Raises:
        OnfhError: ``network_not_exportable``.
    """
    example = torch.zeros(_TRACED_BATCH, *shape)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            # The exporter's own deprecations are no business of whoever exports.
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                _Logits(network).eval(),
                (example,),
                input_names=[INPUT_NAME],
                output_names=[OUTPUT_NAME],
                dynamic_shapes={"pixel_values": {0: torch.export.Dim("batch", min=1, max=1024)}},
                opset_version=OPSET,
                dynamo=True,
                optimize=True,
                verbose=False,
            )
    except Exception as error:  # whatever a network's own code, torch.export or the exporter raises
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise OnfhError(
            "network_not_exportable",
            f"{type(network).__name__} cannot be exported with a dynamic batch of {shape} images: {reason}",
            "Use eager attention, standard operators, and no Python branch on the batch.",
        ) from error
    if program is None:
        raise OnfhError("network_not_exportable", f"torch.onnx made nothing of {type(network).__name__}.")
    return program.model_proto


def check_onnx(
    path: Path,
    network: nn.Module,
    shape: Shape,
    *,
    max_batch: int = 8,
    max_rows: int = 32,
    expected: Callable[[Rows], Rows] = np.asarray,
) -> float:
    """Compare an ONNX file with its network on random images, at several batch sizes.

    Every image has the same answer whatever the batch it is in and wherever it stands there.

    Args:
        path: the file.
        network: what it was made from.
        shape: (channels, height, width).
        max_batch: checked besides 1, 2, 3 and 7.
        max_rows: images the file computes in all; with fewer than those batches need, ``max_batch`` is lowered first.
        expected: what the file should make of the network's logits, where that is not the same.

    Returns:
        The largest absolute difference of a logit.

    Raises:
        OnfhError: ``onnx_mismatch`` when the file is invalid, its batch is fixed, or a logit differs.
    """

    def answers(rows: Rows) -> Rows:
        with torch.inference_mode():
            chunks = [logits_of(network(chunk)) for chunk in torch.split(torch.from_numpy(rows), _CHUNK)]
        return expected(torch.cat(chunks).numpy())

    return _check(path, answers, "its network", shape, max_batch, max_rows)


def check_same_rows(
    source: Path,
    path: Path,
    shape: Shape,
    *,
    max_batch: int = 8,
    max_rows: int = 32,
    expected: Callable[[Rows], Rows] = np.asarray,
) -> float:
    """Compare an ONNX file with the one it was made from, as :func:`check_onnx` does; ``source`` runs image by image.

    Raises:
        OnfhError: ``onnx_mismatch``.
    """
    session = _session(source)

    def answers(rows: Rows) -> Rows:
        return expected(np.concatenate([_run(session, rows[index : index + 1]) for index in range(len(rows))]))

    return _check(path, answers, source.name, shape, max_batch, max_rows)


def _check(
    path: Path, answers: Callable[[Rows], Rows], source: str, shape: Shape, max_batch: int, max_rows: int
) -> float:
    try:
        onnx.checker.check_model(str(path), full_check=True)
        session = _session(path)
    except Exception as error:  # the checker, shape inference and onnxruntime raise unrelated classes
        raise OnfhError("onnx_mismatch", f"{path.name} is no valid ONNX file: {error}") from error
    batches = proof_batches(max_batch, max_rows)
    images = np.random.default_rng(0).standard_normal((max(batches), *shape), dtype=np.float32)
    expected = answers(images)
    worst = 0.0
    for batch in batches:
        # Another image leads each batch, so that none keeps its neighbours or its place.
        places = (np.arange(batch) + batch) % len(images)
        try:
            found = _run(session, images[places])
        except Exception as error:  # onnxruntime raises its own, undocumented classes
            raise OnfhError("onnx_mismatch", f"{path.name} does not run at batch {batch}: {error}") from error
        wanted = expected[places]
        if found.shape != wanted.shape or not np.allclose(found, wanted, rtol=TOLERANCE, atol=TOLERANCE):
            raise OnfhError("onnx_mismatch", f"{path.name} and {source} give other logits at batch {batch}.")
        worst = max(worst, float(np.abs(found - wanted).max()))
    return worst


def proof_batches(max_batch: int, max_rows: int) -> list[int]:
    """Batch sizes to check, smallest first: 1, 2, 3, 7 and the largest, as far as ``max_rows`` images in all go."""
    batches: list[int] = []
    for batch in sorted({*PROOF_BATCHES, max_batch}):
        left = max_rows - sum(batches)
        if min(batch, left) > max(batches, default=0):
            batches.append(min(batch, left))
    return batches


def _session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _run(session: onnxruntime.InferenceSession, images: Rows) -> Rows:
    outputs = [output.name for output in session.get_outputs()]
    wanted = OUTPUT_NAME if OUTPUT_NAME in outputs else outputs[0]
    (found,) = session.run([wanted], {session.get_inputs()[0].name: images})
    answer: Rows = found
    return answer
