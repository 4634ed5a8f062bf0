"""Backends: two small protocols, one for the host and one for a GPU, and one file per backend."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from onfh_runtime.backends.choice import BACKENDS, DEVICE_BACKENDS, Choice, Refusal, choose_backend, refusal_of
from onfh_runtime.backends.protocol import DeviceBackend, StageBackend, TensorSpec
from onfh_runtime.errors import UsageError

if TYPE_CHECKING:
    from onfh_runtime.bundle import LoadedBundle

__all__ = [
    "BACKENDS",
    "DEVICE_BACKENDS",
    "Choice",
    "DeviceBackend",
    "Refusal",
    "StageBackend",
    "TensorSpec",
    "choose_backend",
    "open_stage",
    "refusal_of",
]


def open_stage(
    bundle: LoadedBundle, stage: Literal["classifier", "segmenter"], backend: str = "auto", *, threads: int = 0
) -> StageBackend:
    """Open a stage of a bundle on a backend whose arrays are the host's.

    Those of a GPU are opened by :func:`onfh_runtime.backends.on_device.open_device_stage`.

    Args:
        bundle: what to run.
        stage: which of its networks.
        backend: ``onnxruntime``, which ``auto`` means here, or ``triton:URL``.
        threads: for ONNX Runtime; 0 lets it take every core.

    Raises:
        UsageError: ``unknown_backend`` or ``triton_url_invalid``.
        MissingExtraError: the backend's library is not installed.
        BundleError: ``precision_missing``.
        BackendError: the stage cannot be loaded.
    """
    if backend.startswith("triton:"):
        from onfh_runtime.backends.triton_backend import TritonBackend

        return TritonBackend(backend.removeprefix("triton:"), stage, bundle=bundle)
    if backend not in ("auto", "onnxruntime"):
        raise UsageError(
            "unknown_backend", f"There is no backend {backend!r} on the host.", f"Choose one of {', '.join(BACKENDS)}."
        )
    from onfh_runtime.backends.ort_backend import OrtBackend

    precision = bundle.cpu_precision(stage)
    return OrtBackend(bundle.model_path(stage, precision), precision=precision, threads=threads)
