"""The primary context of a GPU, which PyCUDA retains and CuPy, TensorRT and ONNX Runtime share.

PyCUDA keeps a stack of contexts per thread, and destroys what it owns only where its context is on top of that stack;
so every call into CUDA, and every release, happens inside :meth:`CudaContext.calling`.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from onfh_runtime.cuda_driver import check_gpu, driver_version, import_cupy, import_pycuda, leave_context
from onfh_runtime.device_memory import DeviceMemoryError
from onfh_runtime.errors import BackendError

if TYPE_CHECKING:
    import pycuda.driver as cuda

__all__ = ["CudaContext"]


class CudaContext:
    """One GPU's primary context, held until it is closed.

    Args:
        ordinal: which GPU.

    Raises:
        MissingExtraError: ``missing_extra``.
        BackendError: ``no_driver``, ``driver_too_old``, ``no_such_gpu`` or ``gpu_failed``.
    """

    def __init__(self, ordinal: int) -> None:
        driver = driver_version()
        check_gpu(ordinal)
        self.ordinal = ordinal
        self.cupy = import_cupy(driver)
        self.cuda = import_pycuda()
        self._errors: tuple[type[Exception], ...] = (
            self.cuda.Error,
            self.cupy.cuda.driver.CUDADriverError,
            self.cupy.cuda.runtime.CUDARuntimeError,
        )
        self.spare_events: deque[cuda.Event] = deque()
        """Events nobody holds, to be used again."""
        self._alone, self._capturing = threading.RLock(), 0
        try:
            self.device: cuda.Device = self.cuda.Device(ordinal)
            self._primary: cuda.Context | None = self.device.retain_primary_context()
        except self._errors as error:
            raise BackendError("gpu_failed", f"GPU {ordinal} cannot be opened: {error}") from error

    @contextmanager
    def calling(self) -> Iterator[None]:
        """Make the GPU the calling thread's, and give what CUDA raises a name; nests.

        Raises:
            DeviceMemoryError: ``gpu_out_of_memory``.
            BackendError: ``gpu_failed``.
        """
        context: cuda.Context | None = self._primary
        if context is None:
            raise BackendError("gpu_failed", f"GPU {self.ordinal} was closed and cannot be used.", "Open it again.")
        try:
            context.push()
            try:
                yield
            finally:
                context.pop()
        except self._errors as error:
            raise self._named(error) from error

    @contextmanager
    def launching(self) -> Iterator[None]:
        """The same for calls through CuPy, which looks at the CUDA runtime's current device."""
        with self.calling(), self.cupy.cuda.Device(self.ordinal):
            yield

    @contextmanager
    def capturing(self) -> Iterator[None]:
        """The same for a capture: nobody may free memory or wait for the whole GPU meanwhile, it would spoil it."""
        with self._alone, self.launching():
            self._capturing = threading.get_ident()
            try:
                yield
            finally:
                self._capturing = 0

    @contextmanager
    def settled(self) -> Iterator[None]:
        """The same once all that is queued on the GPU has run: memory can be released."""
        with self._alone, self.calling():
            context: cuda.Context | None = self._primary
            if context is not None:
                context.synchronize()
            yield

    def close(self) -> None:
        """Let go of the context; may be called more than once. What lives in it must have been released before."""
        context: cuda.Context | None = self._primary
        if context is not None:
            self._primary = None
            context.push()
            self.spare_events.clear()
            context.detach()  # while it is on top: PyCUDA lets no other thread than its first detach it otherwise
            leave_context()

    def _named(self, error: Exception) -> BackendError:
        said = str(error).strip().splitlines() or [type(error).__name__]
        if isinstance(error, self.cuda.MemoryError):
            return DeviceMemoryError(
                "gpu_out_of_memory",
                f"GPU {self.ordinal} has no memory left: {said[0]}.",
                "Close other programs on this GPU, or use a smaller batch.",
            )
        fix = "Start the process again: CUDA lets this one do nothing more." if self._is_dead() else ""
        return BackendError("gpu_failed", f"GPU {self.ordinal} failed: {said[0]}.", fix)

    def _is_dead(self) -> bool:
        """Whether an error stays: after an illegal address, say, CUDA answers every call with it."""
        if self._capturing == threading.get_ident():
            return False
        context: cuda.Context | None = self._primary
        with self._alone:
            try:
                if context is not None:
                    context.push()
                    try:
                        context.synchronize()
                    finally:
                        context.pop()
            except self._errors:
                return True
        return False
