"""A device without a GPU: its memory is the host's, its kernels are compiled as C++, and it is stricter than CUDA.

Work is put off until somebody waits for it, so a missing ``synchronize`` or ``wait`` shows in the results. Memory
begins as bytes of 255 (NaN as a float) and has a guard behind it. What CUDA would forgive, or answer with silence, is
an AssertionError here: an array that its workspace took back, a copy from memory that is not page-locked, work on a
closed device, and whatever must not happen during a capture.
"""

from __future__ import annotations

import ctypes
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import host_kernels
import numpy as np
from numpy.typing import NDArray

from onfh_runtime.device import DeviceArray, Workspace
from onfh_runtime.device_memory import Block, DeviceMemory, Kind, out_of_memory
from onfh_runtime.kernels import KERNELS

__all__ = ["HostDevice", "HostEvent", "HostGraph", "HostStream", "seen_by_host"]

_ALIGNMENT = 256
_GUARD = 256
_FRESH, _FREED, _FENCE = 0xFF, 0xDD, 0xEE


class HostDevice:
    """Memory, streams and events over host memory.

    Args:
        memory_bytes: what there is of it.
        memory_limit: as for ``open_device``.
        integrated: whether memory can be mapped.
        target: compute capability to pretend.
        deferred: False runs everything as it is queued.

    ``launches`` counts launches by kernel, ``copied`` bytes by direction (upload, download, copy), ``allocations`` the
    blocks taken so far: after warm-up that must not change.
    """

    def __init__(
        self,
        *,
        memory_bytes: int = 1 << 30,
        memory_limit: int | None = None,
        integrated: bool = False,
        target: str = "sm00",
        deferred: bool = True,
    ) -> None:
        self.name, self.target, self.ordinal, self.integrated = "host memory", target, 0, integrated
        self.memory_bytes, self.deferred, self.open = memory_bytes, deferred, True
        self.launches: Counter[str] = Counter()
        self.copied: Counter[str] = Counter()
        self.lock = threading.RLock()
        self.capture: tuple[int, HostStream] | None = None
        self.streams: list[HostStream] = []
        self.memory = HostMemory(self, memory_limit)
        self.workspaces: list[Workspace] = []

    @property
    def allocations(self) -> int:
        return self.memory.allocations

    def workspace(self) -> Workspace:
        self.check_open()
        self.workspaces.append(HostWorkspace(self.memory))
        return self.workspaces[-1]

    def stream(self) -> HostStream:
        self.check_open()
        self.streams.append(HostStream(self))
        return self.streams[-1]

    def current(self) -> AbstractContextManager[None]:
        self.check_open()
        return nullcontext()

    def free_bytes(self) -> int:
        return self.memory.free_bytes()

    def close(self) -> None:
        if self.open:
            self.drain()
            for workspace in self.workspaces:
                workspace.close()
            self.open = False

    def drain(self) -> None:
        """Run all that is queued anywhere."""
        for stream in self.streams:
            stream.run_to(stream.queued)

    def check_open(self) -> None:
        assert self.open, "the device was closed"

    def check_not_capturing(self, what: str) -> None:
        capturing = self.capture is not None and self.capture[0] == threading.get_ident()
        assert not capturing, f"{what} during a capture"


class HostMemory(DeviceMemory):
    """Blocks with a guard behind them; what was freed is never used again, so that its use is noticed."""

    def __init__(self, device: HostDevice, limit: int | None) -> None:
        super().__init__(limit, integrated=device.integrated)
        self.device, self.held = device, 0
        self.given: dict[tuple[Kind, int], int] = {}
        """Bytes that are valid, by kind and the host's address of the block."""
        self.blocks: dict[tuple[Kind, int], NDArray[np.uint8]] = {}
        self.freed: list[NDArray[np.uint8]] = []

    def _allocate(self, kind: Kind, nbytes: int) -> Block:
        self.device.check_open()
        self.device.check_not_capturing("an allocation")
        if self._counted(kind, nbytes) > self._free_bytes():
            raise out_of_memory(nbytes, self._free_bytes())
        self.held += self._counted(kind, nbytes)
        raw = np.full(nbytes + _GUARD + _ALIGNMENT, _FENCE, np.uint8)
        start = -raw.ctypes.data % _ALIGNMENT
        memory = raw[start : start + nbytes]
        memory[:] = _FRESH
        address = memory.ctypes.data
        self.blocks[kind, address] = raw
        return Block(
            kind, nbytes, 0 if kind == "pinned" else address, None if kind == "device" else memory, (memory, raw)
        )

    def _release(self, block: Block) -> None:
        self.device.check_not_capturing("memory released")
        self.device.drain()
        memory, raw = block.owner
        address = memory.ctypes.data
        self.check_guard(block.kind, address, block.nbytes)
        del self.given[block.kind, address], self.blocks[block.kind, address]
        memory[:] = _FREED
        self.freed.append(raw)
        self.held -= self._counted(block.kind, block.nbytes)

    def _free_bytes(self) -> int:
        return self.device.memory_bytes - self.held

    def check_guard(self, kind: Kind, address: int, nbytes: int) -> None:
        raw = self.blocks[kind, address]
        start = address - raw.ctypes.data + nbytes
        assert (raw[start:] == _FENCE).all(), f"something wrote behind a {kind} buffer of {nbytes} bytes"

    def check(self, kinds: Sequence[Kind], address: int, nbytes: int, what: str) -> None:
        """That a range lies in what a workspace gave last under some name."""
        given = [(start, size) for (kind, start), size in self.given.items() if kind in kinds]
        inside = any(start <= address and address + nbytes <= start + size for start, size in given)
        assert inside, f"{what} is not {' or '.join(kinds)} memory of an open workspace, or was taken back"


class HostWorkspace(Workspace):
    """Remembers how much of each block is valid."""

    def _block(self, kind: Kind, name: str, shape: Sequence[int], dtype: Any) -> Block:
        block = super()._block(kind, name, shape, dtype)
        memory, _ = block.owner
        assert isinstance(self._memory, HostMemory)
        self._memory.given[kind, memory.ctypes.data] = int(np.prod(shape, dtype=int)) * np.dtype(dtype).itemsize
        return block


class HostEvent:
    """A place in a stream's work."""

    def __init__(self, stream: HostStream) -> None:
        self.stream, self.place, self.at = stream, stream.queued + 1, 0.0

    def synchronize(self) -> None:
        self.stream.device.check_open()
        self.stream.device.check_not_capturing("waiting for an event")
        self.stream.run_to(self.place)

    def elapsed_ms(self, since: HostEvent) -> float:
        since.synchronize()
        self.synchronize()
        return (self.at - since.at) * 1e3

    def happen(self) -> None:
        self.at = time.perf_counter()


class HostGraph:
    """What a capture queued, to be queued again; its arrays are looked at anew each time."""

    def __init__(self, device: HostDevice, captured: list[tuple[Callable[[], None], Callable[[], None]]]) -> None:
        self.device, self.captured, self.open = device, captured, True

    def launch(self, stream: HostStream) -> None:
        assert self.open, "the graph was closed"
        for check, run in self.captured:
            stream.queue(check, run)

    def close(self) -> None:
        self.open = False


class HostStream:
    """Work in order, run when somebody waits for it."""

    handle = 0

    def __init__(self, device: HostDevice) -> None:
        self.device, self.queued, self.ran = device, 0, 0
        self.work: deque[Callable[[], None]] = deque()
        self.captured: list[tuple[Callable[[], None], Callable[[], None]]] = []

    def upload(self, target: DeviceArray, source: NDArray[Any]) -> None:
        self._copy("upload", seen_by_host(target), source, lambda: (self._device(target), self._host(source, "source")))

    def download(self, target: NDArray[Any], source: DeviceArray) -> None:
        self._copy(
            "download", target, seen_by_host(source), lambda: (self._device(source), self._host(target, "target"))
        )

    def copy(self, target: DeviceArray, source: DeviceArray) -> None:
        def check() -> None:
            self._device(target)
            self._device(source)
            apart = target.address + target.nbytes <= source.address or source.address + source.nbytes <= target.address
            assert apart, "a copy onto itself"

        self._copy("copy", seen_by_host(target), seen_by_host(source), check)

    def zero(self, array: DeviceArray) -> None:
        memory = seen_by_host(array)
        self.queue(lambda: self._device(array), lambda: memory.fill(0))

    def launch(
        self,
        kernel: str,
        grid: tuple[int, int, int],
        block: tuple[int, int, int],
        args: Sequence[DeviceArray | np.generic],
        *,
        shared_bytes: int = 0,
    ) -> None:
        if kernel not in KERNELS:
            raise ValueError(f"there is no kernel {kernel!r}")
        assert min(*grid, *block) > 0, f"{kernel} launched as {grid} blocks of {block} threads"
        values = [arg.address if isinstance(arg, DeviceArray) else arg for arg in args]
        assert all(isinstance(value, (int, np.generic)) for value in values), "arguments are arrays or NumPy scalars"

        def check() -> None:
            for arg in args:
                if isinstance(arg, DeviceArray):
                    self._device(arg)

        def run() -> None:
            self.device.launches[kernel] += 1
            host_kernels.launch(kernel, grid, block, values, shared_bytes=shared_bytes)

        self.queue(check, run)

    def call(self, work: Callable[[], None], *arrays: DeviceArray) -> None:
        """Queue work of the host on arrays of this device: how a test's stage computes in this stream."""
        self.queue(lambda: [self._device(array) for array in arrays], work)

    def record(self) -> HostEvent:
        self.device.check_not_capturing("an event")
        event = HostEvent(self)
        self.queue(lambda: None, event.happen)
        return event

    def wait(self, event: HostEvent) -> None:
        self.device.check_not_capturing("waiting for another stream")
        self.queue(lambda: None, lambda: event.stream.run_to(event.place))

    def capture(self, work: Callable[[], bool]) -> HostGraph | None:
        self.device.check_open()
        with self.device.lock:
            self.device.check_not_capturing("a capture")
            self.device.capture, self.captured = (threading.get_ident(), self), []
            try:
                done = work()
            finally:
                self.device.capture = None
            return HostGraph(self.device, self.captured) if done else None

    def synchronize(self) -> None:
        self.device.check_open()
        self.device.check_not_capturing("waiting")
        self.run_to(self.queued)
        for kind, address in list(self.device.memory.given):
            raw = self.device.memory.blocks[kind, address]
            self.device.memory.check_guard(kind, address, raw.nbytes - _GUARD - _ALIGNMENT)

    def queue(self, check: Callable[[], Any], run: Callable[[], None]) -> None:
        """Take ``run`` for later, once ``check`` is content with its arrays."""
        self.device.check_open()
        with self.device.lock:
            check()
            if self.device.capture == (threading.get_ident(), self):
                self.captured.append((check, run))
                return
            self.work.append(run)
            self.queued += 1
        if not self.device.deferred:
            self.run_to(self.queued)

    def run_to(self, place: int) -> None:
        """Run what was queued up to there."""
        with self.device.lock:
            while self.ran < place and self.work:
                self.ran += 1
                self.work.popleft()()

    def _copy(self, direction: str, target: NDArray[Any], source: NDArray[Any], check: Callable[[], Any]) -> None:
        if target.nbytes != source.nbytes:
            raise ValueError(f"{source.nbytes} bytes into {target.nbytes}")
        if not (target.flags.c_contiguous and source.flags.c_contiguous):
            raise ValueError("an array to copy is not C-contiguous")
        into, out_of = target.reshape(-1).view(np.uint8), source.reshape(-1).view(np.uint8)

        def run() -> None:
            self.device.copied[direction] += into.nbytes
            into[:] = out_of

        self.queue(check, run)

    def _device(self, array: DeviceArray) -> None:
        self.device.memory.check(("device", "mapped"), array.address, array.nbytes, f"{array}")

    def _host(self, array: NDArray[Any], what: str) -> None:
        self.device.memory.check(("pinned", "mapped"), array.ctypes.data, array.nbytes, f"the {what} on the host")


def seen_by_host(array: DeviceArray) -> NDArray[Any]:
    """A device array as NumPy sees it, for :meth:`HostStream.call`."""
    if not array.nbytes:
        return np.empty(array.shape, array.dtype)
    buffer = (ctypes.c_char * array.nbytes).from_address(array.address)
    return np.frombuffer(buffer, array.dtype).reshape(array.shape)
