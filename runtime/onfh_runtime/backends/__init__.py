"""Backends: one small protocol, one file per backend."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from onfh_runtime.backends.protocol import StageBackend, TensorSpec
from onfh_runtime.errors import UsageError

if TYPE_CHECKING:
    from onfh_runtime.bundle import LoadedBundle

__all__ = ["BACKENDS", "StageBackend", "TensorSpec", "open_stage"]

BACKENDS = ("auto", "onnxruntime", "triton:URL")
"""What ``--backend`` takes; ``auto`` is the best that runs here and never one that leaves the machine."""


def open_stage(
    bundle: LoadedBundle, stage: Literal["classifier", "segmenter"], backend: str = "auto", *, threads: int = 0
) -> StageBackend:
    """Open a stage of a bundle on the named backend.

    Raises:
        UsageError: ``unknown_backend`` or ``triton_url_invalid``.
        MissingExtraError: the backend's library is not installed.
        BundleError: ``precision_missing``.
        BackendError: the stage cannot be loaded.
    """
    if backend.startswith("triton:"):
        from onfh_runtime.backends.triton_backend import TritonBackend

        return TritonBackend(backend.removeprefix("triton:"), stage, bundle=bundle)
    if backend not in BACKENDS:
        raise UsageError(
            "unknown_backend", f"There is no backend {backend!r}.", f"Choose one of {', '.join(BACKENDS)}."
        )
    from onfh_runtime.backends.ort_backend import OrtBackend

    return OrtBackend(bundle.model_path(stage, "fp32"), precision="fp32", threads=threads)
