"""The contract every backend keeps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from onfh_runtime.errors import BackendError

__all__ = ["StageBackend", "TensorSpec", "check_tensors"]


@dataclass(frozen=True)
class TensorSpec:
    """A named input or output. ``shape`` leaves out the batch, which is always the first axis and always free."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


class StageBackend(Protocol):
    """Runs one stage on one device.

    Inputs and outputs are arrays on the backend's own device, C-contiguous, batch first. Outputs belong to the caller:
    ``run`` writes into them and keeps no reference once it has returned (or, with a stream, once the stream has run).
    """

    name: str
    precision: str
    device: str
    batch_limit: int | None
    """Rows that are worth giving at once; None for as many as the bundle allows."""
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def run(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any], *, stream: Any = None) -> None:
        """Compute ``outputs`` from ``inputs``; all share one batch size. Raises BackendError."""
        ...

    def close(self) -> None:
        """Release everything; may be called more than once."""
        ...


def check_tensors(stage: str, specs: tuple[TensorSpec, ...], arrays: Mapping[str, NDArray[Any]]) -> int:
    """Check arrays against their specs at the door and return the common batch size.

    Raises:
        BackendError: ``wrong_tensor`` when a name, shape, dtype or layout does not fit.
    """
    batch: int | None = None
    for spec in specs:
        array = arrays.get(spec.name)
        if array is None:
            raise BackendError("wrong_tensor", f"The {stage} needs the tensor {spec.name!r}, which was not given.")
        if array.shape[1:] != spec.shape or array.dtype != spec.dtype or not array.flags.c_contiguous:
            raise BackendError(
                "wrong_tensor",
                f"The {stage} takes {spec.name!r} as contiguous {spec.dtype} of shape (batch, {spec.shape}), "
                f"not {array.dtype} of shape {array.shape}.",
            )
        if batch is not None and array.shape[0] != batch:
            raise BackendError("wrong_tensor", f"The tensors of the {stage} differ in batch size.")
        batch = array.shape[0]
    return batch or 0
