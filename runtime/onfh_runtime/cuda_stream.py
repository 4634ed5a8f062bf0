"""Streams, events and graphs of CUDA: PyCUDA queues copies, CuPy queues kernels and captures graphs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import numpy as np
from numpy.typing import NDArray

from onfh_runtime.cuda_context import CudaContext
from onfh_runtime.device import DeviceArray, Event, Stream
from onfh_runtime.errors import BackendError

if TYPE_CHECKING:
    import cupy
    import pycuda.driver as cuda

__all__ = ["CudaEvent", "CudaGraph", "CudaStream"]

_NON_BLOCKING = 1
"""CU_STREAM_NON_BLOCKING: not held up by the legacy default stream, which other libraries may use."""


class CudaEvent:
    """A moment of a stream. Its CUDA event goes back to be used again once nobody holds it."""

    def __init__(self, context: CudaContext, event: cuda.Event) -> None:
        self._context = context
        self.event: cuda.Event = event

    def synchronize(self) -> None:
        """Wait for it."""
        with self._context.calling():
            self.event.synchronize()

    def elapsed_ms(self, since: Event) -> float:
        """Milliseconds on the GPU between two moments; waits for both."""
        assert isinstance(since, CudaEvent)
        with self._context.calling():
            self.event.synchronize()
            since.event.synchronize()
            return float(self.event.time_since(since.event))

    def __del__(self) -> None:
        self._context.spare_events.append(self.event)


class CudaGraph:
    """Captured work."""

    def __init__(self, context: CudaContext, graph: cupy.cuda.Graph) -> None:
        self._context = context
        self._graph: cupy.cuda.Graph | None = graph

    def launch(self, stream: Stream) -> None:
        """Queue all of it."""
        assert isinstance(stream, CudaStream)
        graph: cupy.cuda.Graph | None = self._graph
        if graph is None:
            raise ValueError("the graph was closed")
        with self._context.launching():
            graph.launch(stream.borrowed)

    def close(self) -> None:
        """Release it."""
        if self._graph is not None:
            with self._context.launching():
                self._graph = None


class CudaStream:
    """A stream of the GPU, owned by PyCUDA and borrowed by CuPy."""

    def __init__(self, context: CudaContext, kernels: Mapping[str, cupy.RawKernel]) -> None:
        self._context, self._kernels = context, kernels
        self._graphs: WeakSet[CudaGraph] = WeakSet()
        with context.calling():
            self._stream: cuda.Stream | None = context.cuda.Stream(_NON_BLOCKING)
            self.handle: int = self._open().handle

    def __cuda_stream__(self) -> tuple[int, int]:
        """NVIDIA's protocol for lending a stream: its version, and the handle."""
        return 0, self.handle

    @cached_property
    def borrowed(self) -> cupy.cuda.Stream:
        """The same stream for CuPy, which does not own it."""
        return self._context.cupy.cuda.Stream.from_external(self)

    def upload(self, target: DeviceArray, source: NDArray[Any]) -> None:
        """Copy from page-locked memory of the host."""
        if _is_copy(target.nbytes, source.nbytes, source):
            with self._context.calling():
                self._context.cuda.memcpy_htod_async(target.address, source, self._open())

    def download(self, target: NDArray[Any], source: DeviceArray) -> None:
        """Copy to page-locked memory of the host."""
        if _is_copy(target.nbytes, source.nbytes, target):
            with self._context.calling():
                self._context.cuda.memcpy_dtoh_async(target, source.address, self._open())

    def copy(self, target: DeviceArray, source: DeviceArray) -> None:
        """Copy on the device."""
        if _is_copy(target.nbytes, source.nbytes):
            with self._context.calling():
                self._context.cuda.memcpy_dtod_async(target.address, source.address, source.nbytes, self._open())

    def zero(self, array: DeviceArray) -> None:
        """Fill with zero bytes."""
        if array.nbytes:
            with self._context.calling():
                self._context.cuda.memset_d8_async(array.address, 0, array.nbytes, self._open())

    def launch(
        self,
        kernel: str,
        grid: tuple[int, int, int],
        block: tuple[int, int, int],
        args: Sequence[DeviceArray | np.generic],
        *,
        shared_bytes: int = 0,
    ) -> None:
        """Run one of our kernels."""
        if kernel not in self._kernels:
            raise ValueError(f"there is no kernel {kernel!r}")
        values = tuple(np.uintp(arg.address) if isinstance(arg, DeviceArray) else arg for arg in args)
        raw: cupy.RawKernel = self._kernels[kernel]
        with self._context.launching(), self.borrowed:
            raw(grid, block, values, shared_mem=shared_bytes)

    def record(self) -> CudaEvent:
        """This moment, with its time."""
        spare = self._context.spare_events
        with self._context.calling():
            event: cuda.Event = spare.popleft() if spare else self._context.cuda.Event()
            event.record(self._open())
        return CudaEvent(self._context, event)

    def wait(self, event: Event) -> None:
        """Let what follows here wait for a moment of another stream."""
        assert isinstance(event, CudaEvent)
        with self._context.calling():
            self._open().wait_for_event(event.event)

    def capture(self, work: Callable[[], bool]) -> CudaGraph | None:
        """Capture what ``work`` queues here; None where it cannot be captured."""
        kept = False
        captured: cupy.cuda.Graph | None = None
        with self._context.capturing():
            stream: cupy.cuda.Stream = self.borrowed
            refusals = self._context.cupy.cuda.runtime.CUDARuntimeError
            try:
                stream.begin_capture(self._context.cupy.cuda.runtime.streamCaptureModeThreadLocal)
            except refusals:
                return None
            try:
                kept = work()
            except BackendError:
                pass  # CUDA refused something in it; the caller's own attempt will meet what is really wrong
            finally:
                try:
                    captured = stream.end_capture()
                except refusals:
                    kept = False
        if not kept or captured is None:
            return None
        graph = CudaGraph(self._context, captured)
        self._graphs.add(graph)
        return graph

    def synchronize(self) -> None:
        """Wait for all of it."""
        with self._context.calling():
            self._open().synchronize()

    def close(self) -> None:
        """Release it and its graphs."""
        for graph in list(self._graphs):
            graph.close()
        with self._context.calling():
            self.__dict__.pop("borrowed", None)
            self._stream = None

    def _open(self) -> cuda.Stream:
        if self._stream is None:
            raise BackendError("gpu_failed", "The stream was closed and cannot be used.")
        return self._stream


def _is_copy(target: int, source: int, host: NDArray[Any] | None = None) -> bool:
    """Whether there is anything to copy; ValueError where it does not fit."""
    if target != source:
        raise ValueError(f"{source} bytes into {target}")
    if host is not None and not host.flags.c_contiguous:
        raise ValueError("an array to copy is not C-contiguous")
    return source > 0
