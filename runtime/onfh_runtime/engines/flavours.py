"""The TensorRT flavours of this machine, told apart by what their modules have, never by version numbers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType

from onfh_runtime.engines.machine import find_gpus
from onfh_runtime.errors import MissingExtraError, UsageError

__all__ = ["FLAVOURS", "RTX", "TENSORRT", "Flavour", "check_target", "find_flavours", "flavour", "known_targets"]

TENSORRT, RTX = "tensorrt", "tensorrt-rtx"
FLAVOURS = (TENSORRT, RTX)
_MODULES = {TENSORRT: ("tensorrt",), RTX: ("tensorrt_rtx", "tensorrt_rtx_bindings")}
_FIXES = {
    TENSORRT: "JetPack brings it to a Jetson; elsewhere: pip install tensorrt",
    RTX: "pip install 'onfh-edge[rtx]'",
}


@dataclass(frozen=True)
class Flavour:
    """A TensorRT that is installed here: its name in bundles, its Python module and that module's version."""

    name: str
    module: ModuleType
    version: str


def find_flavours() -> tuple[Flavour, ...]:
    """Every flavour that is installed here and loads, in the order of ``FLAVOURS``."""
    found = (_load(name) for name in FLAVOURS)
    return tuple(item for item in found if isinstance(item, Flavour))


def flavour(name: str) -> Flavour:
    """The flavour of that name.

    Raises:
        UsageError: ``flavour_unknown``.
        MissingExtraError: ``flavour_missing`` when it is not installed, or does not load.
    """
    if name not in FLAVOURS:
        raise UsageError("flavour_unknown", f"There is no engine {name!r}.", f"Choose from {', '.join(FLAVOURS)}.")
    found = _load(name)
    if isinstance(found, Flavour):
        return found
    raise MissingExtraError("flavour_missing", f"{name} is not usable here: {found}.", _FIXES[name])


def known_targets(flavour: Flavour) -> tuple[str, ...]:
    """Compute capabilities the flavour builds for from here, such as ``("sm75", "sm86")``, smallest first.

    TensorRT-RTX names its own; TensorRT builds for the GPU it runs on and no other, so without one there is none.
    """
    module = flavour.module
    if not hasattr(module, "ComputeCapability"):
        return tuple(gpu.target for gpu in find_gpus()[:1])
    names = [name for name in dir(module.ComputeCapability) if name[:2] == "SM" and name[2:].isdigit()]
    return tuple(sorted((name.lower() for name in names), key=lambda name: int(name[2:])))


def check_target(flavour: Flavour, targets: Iterable[str]) -> None:
    """Refuse targets the flavour does not build for.

    Raises:
        UsageError: ``target_unknown``, with the targets it does know.
    """
    known = known_targets(flavour)
    unknown = [target for target in targets if target not in known]
    if not unknown:
        return
    text = f"{flavour.name} {flavour.version} cannot build for {', '.join(unknown)}"
    if hasattr(flavour.module, "ComputeCapability"):
        raise UsageError("target_unknown", f"{text}.", f"Choose from {', '.join(known)}.")
    here = f"here that is {known[0]}" if known else "none was found here"
    raise UsageError("target_unknown", f"{text}: it builds only for the GPU it runs on, and {here}.")


def _load(name: str) -> Flavour | str:
    """The flavour, or why there is none."""
    reason = "it is not installed"
    for candidate in _MODULES[name]:
        try:
            module = import_module(candidate)
        except ModuleNotFoundError as error:
            if error.name != candidate:
                reason = f"{candidate} does not load ({error})"
        except Exception as error:  # shared libraries that are missing, too old or for another CUDA
            reason = f"{candidate} does not load ({error})"
        else:
            # Packages of type stubs install an empty folder of the same name, which imports without complaint.
            if hasattr(module, "Builder"):
                return Flavour(name, module, str(module.__version__))
    return reason
