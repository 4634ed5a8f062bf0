"""Fixtures and options of the suites (bench_*.py)."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from suite_cases import (
    FULL,
    TINY,
    Sizes,
    axial_series,
    axial_volume,
    coronal_series,
    large_available,
    open_demo,
    open_large,
)

import onfh_runtime
from onfh_runtime.bundle import LoadedBundle
from onfh_runtime.volume import Volume


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of the suites."""
    parser.addoption("--smoke", action="store_true", help="tiny sizes: does every benchmark run?")
    parser.addoption("--large", action="store_true", help="also ViT-B/16 + UperNet-Swin-T (needs torch; minutes)")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Sizes are parameters: one benchmark for each, so each has a figure of its own."""
    sizes = TINY if metafunc.config.getoption("--smoke") else FULL
    given: dict[str, tuple[Any, ...]] = {
        "input_side": sizes.inputs,
        "batch": sizes.batches,
        "in_flight": sizes.in_flight,
        "volume_size": sizes.volumes,
        "margin_mm": sizes.margins_mm,
        "bundle_name": ("demo", "large") if metafunc.config.getoption("--large") else ("demo",),
    }
    for name, values in given.items():
        if name in metafunc.fixturenames:
            metafunc.parametrize(name, values, ids=[_named(value) for value in values])


def _named(value: Any) -> str:
    return "x".join(map(str, value)) if isinstance(value, tuple) else "whole" if value is None else f"{value}"


def pytest_benchmark_update_json(output_json: dict[str, Any]) -> None:
    """Say which runtime was measured, so that a comparison cannot take one for another."""
    output_json["onfh_runtime"] = str(Path(onfh_runtime.__file__).parent)


@pytest.fixture(scope="session")
def sizes(pytestconfig: pytest.Config) -> Sizes:
    """How much work."""
    return TINY if pytestconfig.getoption("--smoke") else FULL


@pytest.fixture(scope="session")
def axial_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int, int], Path]:
    """An axial series of (slices, matrix), written once."""
    return cache(lambda slices, matrix: axial_series(tmp_path_factory.mktemp("axial"), slices, matrix))


@pytest.fixture(scope="session")
def axial(axial_folder: Callable[[int, int], Path], sizes: Sizes) -> Path:
    """The usual axial series."""
    return axial_folder(sizes.axial, sizes.matrix)


@pytest.fixture(scope="session")
def coronal(tmp_path_factory: pytest.TempPathFactory, sizes: Sizes) -> Path:
    """A native coronal series."""
    return coronal_series(tmp_path_factory.mktemp("coronal"), sizes.coronal, sizes.matrix)


@pytest.fixture(scope="session")
def thin_volume(sizes: Sizes) -> Volume:
    """An axial volume of many slices, in memory."""
    return axial_volume(sizes.thin, sizes.matrix)


@pytest.fixture(scope="session")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], LoadedBundle]:
    """A bundle by its name, "demo" or "large", opened once."""

    @cache
    def open_named(name: str) -> LoadedBundle:
        if name == "demo":
            return open_demo()
        if not large_available():
            pytest.skip("torch and transformers make the large stages, and are not installed")
        return open_large(tmp_path_factory.mktemp("large") / "bundle")

    return open_named
