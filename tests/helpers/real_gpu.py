"""A real GPU for tests that are marked ``gpu``; where there is none they skip by name."""

from __future__ import annotations

import os

import pytest

from onfh_runtime.device import Device, open_device
from onfh_runtime.errors import BackendError, MissingExtraError

__all__ = ["opened_gpu"]

_ABSENT = {"driver_too_old", "missing_extra", "no_driver", "no_such_gpu"}


def opened_gpu(*, memory_limit: int | None = None) -> Device:
    """The first GPU; under ONFH_REQUIRE_GPU its absence is a failure."""
    try:
        return open_device(memory_limit=memory_limit)
    except (BackendError, MissingExtraError) as error:
        if error.code not in _ABSENT or os.environ.get("ONFH_REQUIRE_GPU"):
            raise
        pytest.skip(f"no GPU that can be used: {error.text}")
