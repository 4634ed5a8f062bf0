"""onfh-edge runtime: a hip CT series in, an answer, a mask and a page out.

Names load on first use, so that importing the package (and ``onfh --help``) costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onfh_runtime.bundle import load_bundle
    from onfh_runtime.errors import OnfhError
    from onfh_runtime.infer import infer
    from onfh_runtime.pipeline import Pipeline
    from onfh_runtime.result import Result, Study

__all__ = ["OnfhError", "Pipeline", "Result", "Study", "__version__", "infer", "load_bundle"]

__version__ = "0.1.0"

_HOMES = {
    "OnfhError": "errors",
    "Pipeline": "pipeline",
    "Result": "result",
    "Study": "result",
    "infer": "infer",
    "load_bundle": "bundle",
}


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(f"onfh_runtime.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
