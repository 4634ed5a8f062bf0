"""A clear word when the libraries this package needs are not installed."""

from __future__ import annotations

from importlib.util import find_spec

from onfh_runtime.errors import MissingExtraError

__all__ = ["require_export_extra"]

_NEEDED = ("matplotlib", "onnx", "onnx_ir", "onnxscript", "safetensors", "scipy", "torch", "transformers", "yaml")


def require_export_extra() -> None:
    """Raise MissingExtraError ``missing_extra`` unless everything that training and export import is there."""
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise MissingExtraError(
            "missing_extra", f"{', '.join(missing)} cannot be imported.", "Run: pip install 'onfh-edge[export]'"
        )
