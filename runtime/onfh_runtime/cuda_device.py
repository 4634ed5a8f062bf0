"""A GPU by CUDA: PyCUDA owns its memory and streams, CuPy compiles the kernels."""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from onfh_runtime.cuda_context import CudaContext
from onfh_runtime.cuda_stream import CudaStream
from onfh_runtime.device_memory import Block, DeviceMemory, Kind, Workspace, out_of_memory
from onfh_runtime.errors import BackendError
from onfh_runtime.kernels import KERNELS, kernel_source

if TYPE_CHECKING:
    import cupy
    import pycuda.driver as cuda

__all__ = ["CudaDevice", "CudaMemory", "compiled_kernels"]


class CudaDevice:
    """One GPU, opened.

    Args:
        ordinal: which, in the driver's order.
        memory_limit: bytes that its workspaces may hold together; None for what the GPU has.

    Raises:
        MissingExtraError: ``missing_extra``.
        BackendError: ``no_driver``, ``driver_too_old``, ``no_such_gpu``, or ``gpu_failed``.
    """

    def __init__(self, ordinal: int = 0, *, memory_limit: int | None = None) -> None:
        self.ordinal = ordinal
        self._closing = ExitStack()
        with ExitStack() as opened:
            self._context = CudaContext(ordinal)
            opened.callback(self._context.close)
            with self._context.calling():
                device: cuda.Device = self._context.device
                self.name: str = device.name()
                self.target = "sm{}{}".format(*device.compute_capability())
                attributes: cuda.device_attribute = self._context.cuda.device_attribute
                self.integrated = bool(device.get_attribute(attributes.INTEGRATED))
                self.memory_bytes: int = device.total_memory()
            self.memory = CudaMemory(self._context, memory_limit, integrated=self.integrated)
            self._kernels = compiled_kernels(self._context)
            self._closing = opened.pop_all()

    def workspace(self) -> Workspace:
        """Empty named buffers."""
        workspace = Workspace(self.memory)
        self._closing.callback(workspace.close)
        return workspace

    def stream(self) -> CudaStream:
        """Another stream; it lives until the device is closed."""
        stream = CudaStream(self._context, self._kernels)
        self._closing.callback(stream.close)
        return stream

    def current(self) -> AbstractContextManager[None]:
        """Make this the calling thread's GPU for the time."""
        return self._context.launching()

    def free_bytes(self) -> int:
        """Bytes that can still be had."""
        return self.memory.free_bytes()

    def close(self) -> None:
        """Release everything that came from here, the last first, once all that is queued has run."""
        with self._closing.pop_all():
            self._kernels = {}
            with suppress(BackendError), self._context.settled():  # as in CudaMemory
                pass


class CudaMemory(DeviceMemory):
    """Memory of the GPU, and page-locked memory of the host, which every context may use."""

    def __init__(self, context: CudaContext, limit: int | None, *, integrated: bool) -> None:
        super().__init__(limit, integrated=integrated)
        self._context = context

    def _allocate(self, kind: Kind, nbytes: int) -> Block:
        with self._context.calling():
            try:
                if kind == "device":
                    there: cuda.DeviceAllocation = self._context.cuda.mem_alloc(nbytes)
                    return Block(kind, nbytes, int(there), None, there)
                flags: cuda.host_alloc_flags = self._context.cuda.host_alloc_flags
                wanted = flags.PORTABLE | flags.DEVICEMAP if kind == "mapped" else flags.PORTABLE
                host: NDArray[np.uint8] = self._context.cuda.pagelocked_empty(nbytes, np.uint8, mem_flags=wanted)
                owner: cuda.PagelockedHostAllocation | Any = host.base
                address = int(owner.get_device_pointer()) if kind == "mapped" else 0
                return Block(kind, nbytes, address, host, owner)
            except self._context.cuda.MemoryError as error:
                raise out_of_memory(nbytes, self.free_bytes()) from error

    def _release(self, block: Block) -> None:
        # A context that is dead has let go of its memory; why it died was raised where the work was waited for.
        with suppress(BackendError), self._context.settled():
            block.owner.free()

    def _free_bytes(self) -> int:
        with self._context.calling():
            free: int = self._context.cuda.mem_get_info()[0]
        return max(free, _available_bytes()) if self._integrated else free


def compiled_kernels(context: CudaContext) -> dict[str, cupy.RawKernel]:
    """Our kernels for the GPU at hand; CuPy keeps what it compiled in its cache folder.

    Raises:
        BackendError: ``gpu_failed``, with the compiler's first line.
    """
    with context.launching():
        try:
            module: cupy.RawModule = context.cupy.RawModule(code=kernel_source(), options=("--std=c++17",))
            return {name: module.get_function(name) for name in KERNELS}
        except Exception as error:  # no compiler, no cache folder, a source it refuses: they share no base
            said = str(error).strip().splitlines() or [type(error).__name__]
            raise BackendError(
                "gpu_failed",
                f"CuPy cannot compile the kernels: {said[0]}.",
                "It needs CUDA's runtime compiler (NVRTC) and a cache folder it may write to (CUPY_CACHE_DIR).",
            ) from error


def _available_bytes() -> int:
    """What the system could give. An integrated GPU's driver does not count what the system holds as a file cache."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), 0)
