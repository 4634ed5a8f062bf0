"""The two stages as the pipeline sees them: an input tensor in, probabilities out."""

from __future__ import annotations

import logging
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onfh_runtime.backends import DeviceBackend, StageBackend, TensorSpec, open_stage
from onfh_runtime.bundle import LoadedBundle, Stage, StageName
from onfh_runtime.errors import BackendError

_log = logging.getLogger(__name__)

__all__ = [
    "StageRunner",
    "not_a_probability",
    "open_runner",
    "positive_probability",
    "precision_of",
    "stage_tensors",
]


class StageRunner:
    """One stage on one backend, run in batches of at most the stage's ``max_batch``; owns the backend.

    Raises:
        BackendError: ``stage_mismatch`` when the model's tensors are not those the bundle describes.
    """

    def __init__(self, stage: StageName, spec: Stage, backend: StageBackend) -> None:
        self._stage, self.spec, self.backend = stage, spec, backend
        self._input, self._output = stage_tensors(stage, spec, backend.inputs, backend.outputs)

    def probabilities(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Probability of the positive class.

        Args:
            values: (slices, channels, height, width) float32, as :func:`stage_input` makes them.

        Returns:
            (slices,) float32 from the classifier, (slices, output height, output width) float32 from the segmenter.

        Raises:
            BackendError: ``not_a_probability`` when the stage answers NaN or a value outside 0 to 1; what the backend
                raises.
        """
        batch = min(self.spec.max_batch, self.backend.batch_limit or self.spec.max_batch)
        result = np.empty((len(values), *self._output.shape[1:]), np.float32)
        for start in range(0, len(values), batch):
            chunk = np.ascontiguousarray(values[start : start + batch], self._input.dtype)
            logits: NDArray[Any] = np.empty((len(chunk), *self._output.shape), self._output.dtype)
            start_s = time.perf_counter()
            self.backend.run({self._input.name: chunk}, {self._output.name: logits})
            _log.info("ran %s on %d rows in %.2f ms", self._stage, len(chunk), (time.perf_counter() - start_s) * 1000)
            result[start : start + len(chunk)] = positive_probability(logits, self.spec)
        # Written so that NaN fails too.
        if not ((result >= 0) & (result <= 1)).all():
            raise not_a_probability(self._stage)
        return result

    def close(self) -> None:
        """Release the backend."""
        self.backend.close()


def stage_tensors(
    stage: StageName, spec: Stage, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]
) -> tuple[TensorSpec, TensorSpec]:
    """The one input and the one output that a stage has.

    Raises:
        BackendError: ``stage_mismatch`` when the model's tensors are not those the bundle describes.
    """
    wanted = (len(spec.input.windows), *spec.input.size)
    if [(tensor.name, tensor.shape) for tensor in inputs] != [(spec.input_name, wanted)]:
        raise BackendError(
            "stage_mismatch",
            f"The {stage}'s model takes {[(s.name, s.shape) for s in inputs]}, the bundle says "
            f"{spec.input_name!r} of shape {wanted}.",
            "Export the bundle again.",
        )
    if [tensor.name for tensor in outputs] != [spec.output_name]:
        raise BackendError(
            "stage_mismatch",
            f"The {stage}'s model gives {sorted(s.name for s in outputs)}, the bundle says {spec.output_name!r}.",
            "Export the bundle again.",
        )
    output = outputs[0]
    rank = 1 if stage == "classifier" else 3
    least = max(spec.positive_class + 1, 2 if spec.activation == "softmax" else 1)
    if len(output.shape) != rank or output.shape[0] < least:
        raise BackendError(
            "stage_mismatch",
            f"The {stage}'s model gives outputs of shape {output.shape}, which do not fit class "
            f"{spec.positive_class} and {spec.activation}.",
            "Check positive_class and activation in bundle.json.",
        )
    return inputs[0], output


def precision_of(classifier: StageBackend | DeviceBackend, segmenter: StageBackend | DeviceBackend) -> str:
    """The precision of both stages, or of each where they differ: ``fp32``, ``int8/fp32``."""
    return "/".join(dict.fromkeys((classifier.precision, segmenter.precision)))


def not_a_probability(stage: StageName) -> BackendError:
    """The error of a stage that answers NaN or a value outside 0 to 1."""
    return BackendError(
        "not_a_probability",
        f"The {stage} answered NaN or a value outside 0 to 1.",
        "Check the model's precision: FP16 may overflow; export with `--precision fp32` to compare.",
    )


def open_runner(bundle: LoadedBundle, stage: StageName, backend: str = "auto", *, threads: int = 0) -> StageRunner:
    """A stage of a bundle on the named backend.

    Raises:
        UsageError: there is no such backend.
        BundleError: the bundle lacks what the backend needs.
        BackendError: the stage cannot be loaded, or is not what the bundle describes.
    """
    spec = bundle.content.classifier if stage == "classifier" else bundle.content.segmenter
    opened = open_stage(bundle, stage, backend, threads=threads)
    try:
        return StageRunner(stage, spec, opened)
    except BackendError:
        opened.close()
        raise


def positive_probability(logits: NDArray[Any], spec: Stage) -> NDArray[np.float32]:
    """Probability of the positive class from (batch, classes, ...) logits, float32, in 0..1."""
    values = logits.astype(np.float32, copy=False)
    if spec.activation == "none":
        return values[:, spec.positive_class]
    positive = values[:, spec.positive_class]
    if spec.activation == "sigmoid":
        return _sigmoid(positive)
    if values.shape[1] == 2:
        return _sigmoid(positive - values[:, 1 - spec.positive_class])
    exponents = np.exp(values - values.max(axis=1, keepdims=True))
    return np.asarray(exponents[:, spec.positive_class] / exponents.sum(axis=1), np.float32)


def _sigmoid(values: NDArray[np.float32]) -> NDArray[np.float32]:
    # tanh never overflows, exp(-x) does
    return np.asarray(0.5 * (1 + np.tanh(0.5 * values)), np.float32)
