"""The face of a GPU: memory, streams, events and graphs. Everything that runs on a GPU is written against it.

:func:`open_device` gives the real one. The tests have another whose memory is the host's and whose kernels are the same
source compiled for the CPU, so that what is written against this face runs without a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from onfh_runtime.device_memory import DeviceArray, DeviceMemoryError, Workspace

__all__ = ["Device", "DeviceArray", "DeviceMemoryError", "Event", "Graph", "Stream", "Workspace", "open_device"]


class Event(Protocol):
    """A moment of a stream: that all it was given before has run."""

    def synchronize(self) -> None:
        """Wait for it."""
        ...

    def elapsed_ms(self, since: Event) -> float:
        """Milliseconds on the GPU between two moments; waits for both."""
        ...


class Graph(Protocol):
    """Captured work. It is tied to the addresses it was captured with; it must not outlive them."""

    def launch(self, stream: Stream) -> None:
        """Queue all of it."""
        ...

    def close(self) -> None:
        """Release it; may be called more than once. Nothing of it may still run."""
        ...


class Stream(Protocol):
    """Work that runs in the order in which it was given. Every call returns at once unless said otherwise.

    Arrays must be equal in bytes where one is copied into the other (ValueError); what they hold must stay as it is
    until the copy has run. Whatever CUDA refuses is raised as BackendError ``gpu_failed``, often by a later call.
    """

    handle: int
    """CUDA's own, for TensorRT and ONNX Runtime; 0 where there is none."""

    def upload(self, target: DeviceArray, source: NDArray[Any]) -> None:
        """Copy from the host; ``source`` is C-contiguous and comes from :meth:`Workspace.pinned`."""
        ...

    def download(self, target: NDArray[Any], source: DeviceArray) -> None:
        """Copy to the host; ``target`` is C-contiguous and comes from :meth:`Workspace.pinned`."""
        ...

    def copy(self, target: DeviceArray, source: DeviceArray) -> None:
        """Copy on the device; the two do not overlap."""
        ...

    def zero(self, array: DeviceArray) -> None:
        """Fill with zero bytes."""
        ...

    def launch(
        self,
        kernel: str,
        grid: tuple[int, int, int],
        block: tuple[int, int, int],
        args: Sequence[DeviceArray | np.generic],
        *,
        shared_bytes: int = 0,
    ) -> None:
        """Run one of :data:`onfh_runtime.kernels.KERNELS`; scalars have the very type that the kernel takes."""
        ...

    def record(self) -> Event:
        """This moment, with its time."""
        ...

    def wait(self, event: Event) -> None:
        """Let what follows here wait for a moment of another stream; the caller does not wait."""
        ...

    def capture(self, work: Callable[[], bool]) -> Graph | None:
        """Capture what ``work`` queues on this stream instead of running it.

        ``work`` has run once before without capture, on the same buffers, and neither allocates nor waits. None when it
        returns False or cannot be captured: then nothing of it ran, and the caller queues it anew, uncaptured.
        """
        ...

    def synchronize(self) -> None:
        """Wait for all of it."""
        ...


class Device(Protocol):
    """One GPU. Streams and workspaces may be used from any thread, each by one thread at a time."""

    name: str
    target: str
    """Compute capability as builders write it: ``sm89`` is 8.9."""
    ordinal: int
    """Its place in the driver's list of the GPUs that this process sees."""
    integrated: bool
    """It shares its memory with the processor, as on a Jetson: what is mapped need not be copied."""
    memory_bytes: int

    def workspace(self) -> Workspace:
        """Empty named buffers."""
        ...

    def stream(self) -> Stream:
        """Another stream; it lives until the device is closed."""
        ...

    def current(self) -> AbstractContextManager[None]:
        """Make this the calling thread's GPU for the time, as TensorRT and ONNX Runtime want it; may be nested."""
        ...

    def free_bytes(self) -> int:
        """Bytes that can still be had: those free on the GPU, and of these at most what the limit leaves."""
        ...

    def close(self) -> None:
        """Release everything that came from here, workspaces and streams included; may be called more than once."""
        ...


def open_device(ordinal: int = 0, *, memory_limit: int | None = None) -> Device:
    """Open a GPU.

    Args:
        ordinal: which, in the driver's order.
        memory_limit: bytes that its workspaces may hold together; None for what the GPU has.

    Raises:
        MissingExtraError: ``missing_extra``, PyCUDA or CuPy is not installed or cannot be loaded.
        BackendError: ``no_driver``, ``driver_too_old``, ``no_such_gpu``, or ``gpu_failed``.
    """
    from onfh_runtime.cuda_device import CudaDevice

    return CudaDevice(ordinal, memory_limit=memory_limit)
