"""Benchmarks are scripts of one folder; their parts are tested as modules of it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from onfh_runtime.bundle import load_bundle
from onfh_runtime.cli.infer import demo_bundle

FOLDER = str(Path(__file__).resolve().parents[2] / "benchmarks")
if FOLDER not in sys.path:
    sys.path.insert(0, FOLDER)


@pytest.fixture(scope="session")
def bundle():
    """The demo bundle."""
    return load_bundle(demo_bundle())
