"""Reading: from files on disk to headers, and to one int16 volume; uncompressed, warm page cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from suite_cases import candidate_of

from onfh_runtime.dicom import find_series, read_volume

DOES_NOT_MEASURE = (
    "a cold page cache or a network drive",
    "compressed transfer syntaxes: bench_decode.py",
    "other readers: read.py has them in the same run",
)


@pytest.fixture(params=["axial", "coronal"])
def series(request: pytest.FixtureRequest) -> Path:
    """A series on disk."""
    folder: Path = request.getfixturevalue(request.param)
    return folder


def test_find(benchmark: Any, series: Path) -> None:
    """Headers of every file, sorted into series."""
    candidates, _ = benchmark(find_series, [series])
    assert len(candidates) == 1
    benchmark.extra_info["slices"] = len(candidates[0].images)


def test_read(benchmark: Any, series: Path) -> None:
    """Checks and pixels of a series whose headers are known."""
    volume, _ = benchmark(read_volume, candidate_of(series))
    benchmark.extra_info |= {"slices": len(volume.voxels), "mb": volume.voxels.nbytes / 1e6}


def test_find_and_read(benchmark: Any, series: Path) -> None:
    """Both, as every analysis does."""
    volume, _ = benchmark(lambda: read_volume(candidate_of(series)))
    benchmark.extra_info |= {"slices": len(volume.voxels), "mb": volume.voxels.nbytes / 1e6}
