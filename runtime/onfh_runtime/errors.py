"""Everything that can go wrong, as one tree.

::

    OnfhError                code, text, fix
    ├── UsageError           wrong arguments                        exit 2
    ├── BundleError          the bundle is unusable                 exit 2
    ├── OutputError          the output folder cannot be written    exit 2
    ├── MissingExtraError    an optional part is not installed      exit 2
    ├── SeriesError          this series must not be analysed       exit 1, result.json says why
    └── BackendError         a stage could not be loaded or run     exit 1, result.json says why
        ├── EngineError      a plan could not be built (engines)    exit 1, with TensorRT's last lines
        └── DeviceMemoryError  a GPU has no room (device_memory)    exit 1, when no smaller batch fits either

``code`` is stable and machine readable, ``text`` is one sentence that says what happened and where, ``fix`` (may be
empty) says what to do about it. No text ever holds a patient's name or identifier.
"""

from __future__ import annotations

__all__ = [
    "BackendError",
    "BundleError",
    "MissingExtraError",
    "OnfhError",
    "OutputError",
    "SeriesError",
    "UsageError",
]


class OnfhError(Exception):
    """Base of every error this package raises on purpose."""

    exit_code = 1

    def __init__(self, code: str, text: str, fix: str = "") -> None:
        super().__init__(code, text, fix)
        self.code = code
        self.text = text
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.text} {self.fix}".strip() + f" [{self.code}]"


class UsageError(OnfhError):
    """The command line, or an argument of a public function, is wrong."""

    exit_code = 2


class BundleError(OnfhError):
    """The bundle is missing, damaged, or describes something this runtime cannot do."""

    exit_code = 2


class OutputError(OnfhError):
    """The output folder cannot be written."""

    exit_code = 2


class MissingExtraError(OnfhError):
    """An optional part of the package is needed and not installed."""

    exit_code = 2


class SeriesError(OnfhError):
    """A series is refused: analysing it could be silently wrong."""


class BackendError(OnfhError):
    """A stage could not be loaded or run."""
