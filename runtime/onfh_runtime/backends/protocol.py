"""The contract every backend keeps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from onfh_runtime.errors import BackendError

if TYPE_CHECKING:
    from onfh_runtime.device import DeviceArray, Stream

__all__ = ["DeviceBackend", "StageBackend", "TensorSpec", "bucket_sizes", "check_bucket", "check_tensors"]


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


class DeviceBackend(Protocol):
    """Runs one stage on one device, on buffers of that device, by queueing on one stream.

    Inputs and outputs are the caller's, C-contiguous, batch first, and must stay as they are until the stream has run
    what was queued. All runs go on the stream the backend was opened with.
    """

    name: str
    precision: str
    device: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    buckets: tuple[int, ...]
    """Row counts it runs, ascending; callers fill up to one of them."""
    warnings: tuple[tuple[str, str], ...]
    """(code, text) of what a reader of the results has to know of this backend."""

    @property
    def captured(self) -> tuple[int, ...]:
        """Row counts that so far run as a CUDA graph, ascending."""
        ...

    def run(self, inputs: Mapping[str, DeviceArray], outputs: Mapping[str, DeviceArray], *, stream: Stream) -> None:
        """Queue the computation of ``outputs`` from ``inputs``; all share one row count, one of ``buckets``.

        Raises:
            BackendError: ``wrong_tensor``, or ``stage_failed`` when it cannot be queued.
        """
        ...

    def close(self) -> None:
        """Release everything; may be called more than once. Nothing of it may still be running."""
        ...


def bucket_sizes(limit: int) -> tuple[int, ...]:
    """Row counts worth kernels of their own: the powers of two below ``limit``, and ``limit``."""
    return (*(1 << power for power in range((limit - 1).bit_length())), limit)


def check_tensors(
    stage: str, specs: tuple[TensorSpec, ...], arrays: Mapping[str, NDArray[Any]] | Mapping[str, DeviceArray]
) -> int:
    """Check arrays against their specs at the door and return the common batch size.

    Arrays of NumPy must be contiguous; those of a device always are.

    Raises:
        BackendError: ``wrong_tensor`` when a name, shape, dtype or layout does not fit.
    """
    batch: int | None = None
    for spec in specs:
        array = arrays.get(spec.name)
        if array is None:
            raise BackendError("wrong_tensor", f"The {stage} needs the tensor {spec.name!r}, which was not given.")
        contiguous = not isinstance(array, np.ndarray) or array.flags.c_contiguous
        if array.shape[1:] != spec.shape or array.dtype != spec.dtype or not contiguous:
            raise BackendError(
                "wrong_tensor",
                f"The {stage} takes {spec.name!r} as contiguous {spec.dtype} of shape (batch, {spec.shape}), "
                f"not {array.dtype} of shape {array.shape}.",
            )
        if batch is not None and array.shape[0] != batch:
            raise BackendError("wrong_tensor", f"The tensors of the {stage} differ in batch size.")
        batch = array.shape[0]
    return batch or 0


def check_bucket(
    stage: str,
    backend: DeviceBackend,
    inputs: Mapping[str, DeviceArray],
    outputs: Mapping[str, DeviceArray],
) -> int:
    """Check the buffers of a run and return its row count.

    Raises:
        BackendError: ``wrong_tensor``, also when the row count is none of the backend's.
    """
    rows = check_tensors(stage, backend.inputs, inputs)
    if check_tensors(stage, backend.outputs, outputs) != rows or rows not in backend.buckets:
        raise BackendError(
            "wrong_tensor",
            f"The {stage} runs {', '.join(map(str, backend.buckets))} rows at once, not {rows} into "
            f"{check_tensors(stage, backend.outputs, outputs)}.",
        )
    return rows
