"""Which backend runs here, and why the better ones do not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from onfh_runtime.errors import MissingExtraError, OnfhError, UsageError

__all__ = ["BACKENDS", "DEVICE_BACKENDS", "Choice", "Refusal", "choose_backend", "next_best", "refusal_of"]

DEVICE_BACKENDS = ("tensorrt", "tensorrt-rtx", "onnxruntime-cuda")
"""Those that run on a GPU, the fastest first."""

BACKENDS = ("auto", "onnxruntime", "onnxruntime-cuda", "tensorrt", "tensorrt-rtx", "triton:URL")
"""What ``--backend`` takes; ``auto`` is the best that runs here and never one that leaves the machine."""


@dataclass(frozen=True)
class Refusal:
    """A backend that does not run here, and the error that asking for it by name raises."""

    backend: str
    error: OnfhError


@dataclass(frozen=True)
class Choice:
    """What runs. ``refused`` are the better ones that do not, the best first; ``has_gpu`` says there is a GPU."""

    backend: str
    refused: tuple[Refusal, ...] = ()
    has_gpu: bool = False

    @property
    def on_device(self) -> bool:
        """Whether it runs on a GPU."""
        return self.backend in DEVICE_BACKENDS

    @property
    def warnings(self) -> tuple[tuple[str, str], ...]:
        """For the results: that a GPU is here and TensorRT does not use it, and why."""
        if not self.has_gpu or not self.refused or self.backend in DEVICE_BACKENDS[:2]:
            return ()
        reasons = " ".join(f"{refusal.backend}: {refusal.error.text}" for refusal in self.refused)
        return (("backend_fallback", f"This ran on {self.backend}, which is slower than this GPU allows. {reasons}"),)


def choose_backend(backend: str, ordinal: int = 0) -> Choice:
    """What a name of ``BACKENDS`` means on this machine.

    Args:
        backend: ``auto`` is TensorRT, else TensorRT-RTX where it knows the GPU, else ONNX Runtime with its CUDA
            provider, else ONNX Runtime on the CPU; any other name is that backend or an error.
        ordinal: the GPU, in the driver's order.

    Raises:
        UsageError: ``unknown_backend``.
        MissingExtraError, BackendError: why a GPU backend that was named does not run here.
    """
    if backend not in BACKENDS and not backend.startswith("triton:"):
        raise UsageError(
            "unknown_backend", f"There is no backend {backend!r}.", f"Choose one of {', '.join(BACKENDS)}."
        )
    if backend in DEVICE_BACKENDS:
        error = refusal_of(backend, ordinal)
        if error is not None:
            raise error
        return Choice(backend, has_gpu=True)
    return _best_of(DEVICE_BACKENDS, (), ordinal) if backend == "auto" else Choice(backend)


def next_best(choice: Choice, error: OnfhError, ordinal: int = 0) -> Choice:
    """What ``auto`` goes on with when a GPU backend that should run here could not be opened after all."""
    behind = DEVICE_BACKENDS[DEVICE_BACKENDS.index(choice.backend) + 1 :]
    return _best_of(behind, (*choice.refused, Refusal(choice.backend, error)), ordinal)


def refusal_of(backend: str, ordinal: int = 0) -> OnfhError | None:
    """Why a backend of ``DEVICE_BACKENDS`` does not run on a GPU of this machine, or None when it does."""
    parts = {
        "tensorrt": lambda: _need_flavour(backend, ordinal),
        "tensorrt-rtx": lambda: _need_flavour(backend, ordinal),
        "onnxruntime-cuda": _need_cuda_provider,
    }

    def need_all() -> None:
        _need_gpu(ordinal)
        parts[backend]()
        _need_packages()

    return _error_of(need_all)


def _best_of(names: tuple[str, ...], refused: tuple[Refusal, ...], ordinal: int) -> Choice:
    for name in names:
        error = refusal_of(name, ordinal)
        if error is None:
            return Choice(name, refused, has_gpu=True)
        refused = (*refused, Refusal(name, error))
    return Choice("onnxruntime", refused, has_gpu=_error_of(lambda: _need_gpu(ordinal)) is None)


def _error_of(need: Callable[[], object]) -> OnfhError | None:
    try:
        need()
    except OnfhError as error:
        return error
    return None


def _need_gpu(ordinal: int) -> None:
    from onfh_runtime.cuda_driver import check_gpu, driver_version

    driver_version()
    check_gpu(ordinal)


def _need_packages() -> None:
    from onfh_runtime.cuda_driver import driver_version, import_cupy, import_pycuda

    import_cupy(driver_version())
    import_pycuda()


def _need_flavour(name: str, ordinal: int) -> None:
    from onfh_runtime.engines import find_gpus, flavour, known_targets

    found = flavour(name)
    gpu = find_gpus()[ordinal]
    # TensorRT-RTX names the GPUs it knows; TensorRT takes the one it runs on.
    if hasattr(found.module, "ComputeCapability") and gpu.target not in known_targets(found):
        raise UsageError(
            "gpu_unsupported",
            f"{name} {found.version} knows {', '.join(known_targets(found))}, and this GPU ({gpu.name}) is "
            f"{gpu.target}.",
            "Use tensorrt or onnxruntime-cuda on this GPU.",
        )


def _need_cuda_provider() -> None:
    import onnxruntime as ort

    if "CUDAExecutionProvider" not in ort.get_available_providers():
        raise MissingExtraError(
            "missing_extra",
            f"The ONNX Runtime installed here ({ort.__version__}) has no CUDA provider.",
            "Run: pip uninstall onnxruntime; pip install onnxruntime-gpu",
        )
