"""Named buffers of a device: they only grow, and are used again for every study."""

from __future__ import annotations

import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import DTypeLike, NDArray

from onfh_runtime.errors import BackendError

__all__ = [
    "Block",
    "DeviceArray",
    "DeviceMemory",
    "DeviceMemoryError",
    "Kind",
    "Workspace",
    "out_of_memory",
    "rounded_up",
]

Kind = Literal["device", "mapped", "pinned"]
_ALIGNMENT = 256
"""Bytes; what CUDA aligns to, and enough for any load."""
_STEPS = 8
"""Sizes between a power of two and the next: a buffer is at most an eighth too large, and grows at most this often
before it is twice as large."""


class DeviceMemoryError(BackendError):
    """The device, or what may be used of it, has no room: less may still fit."""


@dataclass(frozen=True)
class DeviceArray:
    """A C-contiguous array on a device.

    It is borrowed from a :class:`Workspace`: valid until the workspace gives the same name anew, or is closed.
    """

    address: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def nbytes(self) -> int:
        """Bytes from the first element to the end of the last."""
        return math.prod(self.shape) * self.dtype.itemsize

    def rows(self, start: int, stop: int) -> DeviceArray:
        """Part of the array along its first axis, in the same memory."""
        if not 0 <= start <= stop <= self.shape[0]:
            raise ValueError(f"rows {start} to {stop} of {self.shape[0]}")
        row = math.prod(self.shape[1:]) * self.dtype.itemsize
        return replace(self, address=self.address + start * row, shape=(stop - start, *self.shape[1:]))


@dataclass(frozen=True)
class Block:
    """Memory of one piece; ``host`` is None where the host cannot see it, ``address`` 0 where the device cannot."""

    kind: Kind
    nbytes: int
    address: int
    host: NDArray[np.uint8] | None
    owner: Any
    """Whatever releases it."""


class DeviceMemory(ABC):
    """Where the workspaces of a device get their memory.

    Args:
        limit: bytes of device memory to hold at most; None for no limit. On an integrated GPU what is page-locked
            counts too: it is the same memory.
        integrated: the GPU has no memory of its own.
    """

    def __init__(self, limit: int | None, *, integrated: bool) -> None:
        self._limit, self._integrated, self._used, self._lock = limit, integrated, 0, threading.Lock()
        self.allocations = 0
        """Blocks taken so far. After warm-up this does not change."""

    def take(self, kind: Kind, nbytes: int) -> Block:
        """Allocate; raises DeviceMemoryError ``gpu_out_of_memory``."""
        if kind == "mapped" and not self._integrated:
            raise ValueError("memory is mapped only where the GPU shares it with the processor")
        counted = self._counted(kind, nbytes)
        with self._lock:
            if self._limit is not None and self._used + counted > self._limit:
                raise out_of_memory(nbytes, self._limit - self._used)
            self._used += counted
        try:
            block = self._allocate(kind, nbytes)
        except BaseException:
            self._uncount(counted)
            raise
        with self._lock:
            self.allocations += 1
        return block

    def give_back(self, block: Block) -> None:
        """Release, once nothing queued can still use it."""
        self._release(block)
        self._uncount(self._counted(block.kind, block.nbytes))

    def free_bytes(self) -> int:
        """Bytes that can still be had."""
        free = self._free_bytes()
        return free if self._limit is None else max(0, min(free, self._limit - self._used))

    def _counted(self, kind: Kind, nbytes: int) -> int:
        return nbytes if kind == "device" or self._integrated else 0

    def _uncount(self, nbytes: int) -> None:
        with self._lock:
            self._used -= nbytes

    @abstractmethod
    def _allocate(self, kind: Kind, nbytes: int) -> Block: ...

    @abstractmethod
    def _release(self, block: Block) -> None: ...

    @abstractmethod
    def _free_bytes(self) -> int: ...


class Workspace:
    """Buffers by name. What a name stands for keeps its address until more is asked for than it ever held.

    To give a name anew ends what was given under it before, also when there is no room (DeviceMemoryError
    ``gpu_out_of_memory``). Contents are undefined.
    """

    def __init__(self, memory: DeviceMemory) -> None:
        self._memory = memory
        self._blocks: dict[tuple[Kind, str], Block] = {}
        self._open = True

    @property
    def nbytes(self) -> int:
        """Bytes held, on the device and page-locked."""
        return sum(block.nbytes for block in self._blocks.values())

    def device(self, name: str, shape: Sequence[int], dtype: DTypeLike) -> DeviceArray:
        """An array on the device."""
        return self._on_device(self._block("device", name, shape, dtype), shape, dtype)

    def pinned(self, name: str, shape: Sequence[int], dtype: DTypeLike) -> NDArray[Any]:
        """A page-locked array of the host, between which and the device a stream copies."""
        return self._on_host(self._block("pinned", name, shape, dtype), shape, dtype)

    def mapped(self, name: str, shape: Sequence[int], dtype: DTypeLike) -> tuple[NDArray[Any], DeviceArray]:
        """One array as host and device see it; only where the device is integrated (ValueError elsewhere)."""
        block = self._block("mapped", name, shape, dtype)
        return self._on_host(block, shape, dtype), self._on_device(block, shape, dtype)

    def close(self) -> None:
        """Release every buffer, once nothing queued can still use it; may be called more than once."""
        self._open = False
        while self._blocks:
            self._memory.give_back(self._blocks.popitem()[1])

    def _block(self, kind: Kind, name: str, shape: Sequence[int], dtype: DTypeLike) -> Block:
        if not self._open:
            raise ValueError(f"the workspace was closed, {name!r} cannot be had")
        nbytes = math.prod(shape) * np.dtype(dtype).itemsize
        block = self._blocks.get((kind, name))
        if block is None or block.nbytes < nbytes:
            if block is not None:
                self._memory.give_back(self._blocks.pop((kind, name)))
            block = self._blocks[kind, name] = self._memory.take(kind, rounded_up(nbytes))
        return block

    @staticmethod
    def _on_device(block: Block, shape: Sequence[int], dtype: DTypeLike) -> DeviceArray:
        return DeviceArray(block.address, tuple(shape), np.dtype(dtype))

    @staticmethod
    def _on_host(block: Block, shape: Sequence[int], dtype: DTypeLike) -> NDArray[Any]:
        assert block.host is not None
        return np.ndarray(tuple(shape), np.dtype(dtype), block.host.data)


def rounded_up(nbytes: int) -> int:
    """The size of a block that is to hold so many bytes: a multiple of 256, and of an eighth of a power of two."""
    step = max(_ALIGNMENT, (1 << max(0, nbytes - 1).bit_length()) // (2 * _STEPS))
    return max(1, -(-nbytes // step)) * step


def out_of_memory(asked: int, free: int) -> DeviceMemoryError:
    """The error for an allocation that failed."""
    return DeviceMemoryError(
        "gpu_out_of_memory",
        f"The GPU has no room for {asked / 1e6:.1f} MB more: {free / 1e6:.1f} MB can still be had.",
        "Close other programs on this GPU, or use a smaller batch.",
    )
