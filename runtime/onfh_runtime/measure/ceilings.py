"""What this machine can do at best, measured in the run whose figures are held against it.

Two ceilings bound every step: bytes that memory moves, and operations that arithmetic does (Williams, Waterman and
Patterson, Roofline, CACM 52(4), 2009). Each is the best of a few goes: noise only ever takes away.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from onfh_runtime.cpu import cores

if TYPE_CHECKING:
    from onfh_runtime.device import Device

__all__ = ["COPY_BYTES", "Ceilings", "device_ceilings", "host_ceilings"]

COPY_BYTES = 1 << 28
"""Of each side of a copy: several times what the caches of today's processors hold."""

_PRODUCT_SIDE = 2048
_DEVICE_SIDE = 8192
_GOES = 5


@dataclass(frozen=True)
class Ceilings:
    """Best rates of one processor.

    Attributes:
        of: ``host`` or the GPU's name.
        copy_gb_s: memory read plus memory written, 10^9 bytes a second, all cores at once.
        product_gflop_s: multiplications plus additions of a matrix product, 10^9 a second; None where none ran.
        precision: of that product.
        upload_gb_s, download_gb_s: between page-locked memory and the GPU; None on a host.
        absent: why a figure is None.
    """

    of: str
    copy_gb_s: float
    product_gflop_s: float | None
    precision: str
    upload_gb_s: float | None = None
    download_gb_s: float | None = None
    absent: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def host_ceilings(*, copy_bytes: int = COPY_BYTES, side: int = _PRODUCT_SIDE, goes: int = _GOES) -> Ceilings:
    """Copy between two arrays on every core, and NumPy's own float32 product of square matrices.

    Args:
        copy_bytes: of each array.
        side: of the matrices.
        goes: the best of so many.
    """
    workers = cores()
    source = np.ones((workers, max(1, copy_bytes // workers)), np.uint8)
    target = np.empty_like(source)
    target[:] = 0  # so that its pages are there
    with ThreadPoolExecutor(workers) as pool:

        def copy() -> None:
            list(pool.map(np.copyto, target, source))

        copy_s = _best(copy, goes)
    left, right = (np.full((side, side), value, np.float32) for value in (0.5, 0.25))
    product = np.empty_like(left)
    product_s = _best(lambda: np.matmul(left, right, out=product), goes)
    return Ceilings("host", 2 * source.nbytes / copy_s / 1e9, 2 * side**3 / product_s / 1e9, "float32")


def device_ceilings(
    device: Device,
    *,
    half: bool = True,
    copy_bytes: int = COPY_BYTES,
    side: int = _DEVICE_SIDE,
    goes: int = _GOES,
) -> Ceilings:
    """Copies on a GPU and to and from it by one stream, timed by its events, and cuBLAS's product where CuPy finds it.

    Args:
        device: from :func:`onfh_runtime.device.open_device`.
        half: FP16, which BF16 equals in speed; False multiplies in FP32, without TF32.
        copy_bytes: of each buffer.
        side: of the matrices.
        goes: the best of so many.
    """
    stream, workspace = device.stream(), device.workspace()
    try:
        source = workspace.device("source", (copy_bytes,), np.uint8)
        target = workspace.device("target", (copy_bytes,), np.uint8)
        host = workspace.pinned("host", (copy_bytes,), np.uint8)
        host[:] = 1
        ways: tuple[tuple[Callable[[], None], int], ...] = (
            (lambda: stream.upload(source, host), copy_bytes),
            (lambda: stream.copy(target, source), 2 * copy_bytes),
            (lambda: stream.download(host, target), copy_bytes),
        )
        rates = []
        for queue, moved in ways:
            times = []
            for _ in range(goes + 1):
                begun = stream.record()
                queue()
                ended = stream.record()
                ended.synchronize()
                times.append(ended.elapsed_ms(begun) / 1e3)
            rates.append(moved / min(times[1:]) / 1e9)
    finally:
        stream.synchronize()
        workspace.close()
    upload, copied, download = rates
    precision = "float16" if half else "float32"
    product, why = _device_product(device, side, precision, goes)
    return Ceilings(device.name, copied, product, precision, upload, download, why)


def _device_product(device: Device, side: int, precision: str, goes: int) -> tuple[float | None, str | None]:
    """GFLOP/s of CuPy's matrix product, or why there is none: cuBLAS is no part of what this runtime needs."""
    try:
        from onfh_runtime.cuda_driver import driver_version, import_cupy

        cupy: Any = import_cupy(driver_version())
        with device.current():
            left, right = (cupy.full((side, side), value, precision) for value in (0.5, 0.25))
            product = cupy.empty_like(left)
            done = cupy.cuda.get_current_stream().synchronize

            def multiply() -> None:
                cupy.matmul(left, right, out=product)
                done()

            seconds = _best(multiply, goes)
    except Exception as error:  # whatever CuPy or cuBLAS lacks, the other ceilings stand
        return None, f"No matrix product could be run on the GPU ({type(error).__name__})."
    return 2 * side**3 / seconds / 1e9, None


def _best(work: Callable[[], object], goes: int) -> float:
    """Least seconds of some goes, after one that does not count."""
    work()
    times = []
    for _ in range(goes):
        begun = time.perf_counter()
        work()
        times.append(time.perf_counter() - begun)
    return min(times)
