"""What every test may lean on."""

from __future__ import annotations

import os
import shutil
from importlib.util import find_spec

import pytest

TOOLS = ("g++", "dciodvfy", "openssl", "storescp", "storescu", "Orthanc", "chromium", "chromedriver")
"""Debian tools that some tests drive; those tests skip with a reason where a tool is absent."""

PACKAGES = ("dcmqi", "nvtx", "viztracer")
"""Python packages of programs, the same; only some platforms have them."""


def pytest_sessionstart(session: pytest.Session) -> None:
    """In CI no test may skip for want of a tool."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    missing += [package for package in PACKAGES if find_spec(package) is None]
    if missing and os.environ.get("ONFH_REQUIRE_TOOLS"):
        raise pytest.UsageError(f"ONFH_REQUIRE_TOOLS is set and these are absent: {', '.join(missing)}")
