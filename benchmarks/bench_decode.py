"""Decoding: find and read one series in each transfer syntax, as read.py writes them; headers of 190 elements."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, JPEGLosslessSV1, JPEGLSLossless, RLELossless
from read import by_onfh, write_series
from suite_cases import Sizes, phantom

DOES_NOT_MEASURE = (
    "other decoders: read.py has them in the same run",
    "real noise, which compresses a little worse than a phantom's",
    "a cold page cache",
)
SYNTAXES = {
    "uncompressed": ExplicitVRLittleEndian,
    "rle": RLELossless,
    "jpeg-ls": JPEGLSLossless,
    "jpeg-lossless": JPEGLosslessSV1,
    "jpeg-2000": JPEG2000Lossless,
}


@pytest.fixture(scope="module")
def frames(sizes: Sizes) -> NDArray[np.int16]:
    """Slices of a phantom that the series repeat."""
    return np.clip(np.rint(phantom(24, sizes.matrix).hu[: sizes.encoded]) + 1024, 0, 32767).astype("<i2")


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_decode(benchmark: Any, syntax: str, frames: NDArray[np.int16], tmp_path: Path, sizes: Sizes) -> None:
    """Find and read."""
    if syntax not in ("uncompressed", "rle") and find_spec("imagecodecs") is None:
        pytest.skip("imagecodecs writes this syntax, and is not installed")
    folder = tmp_path / syntax
    write_series(folder, sizes.encoded, sizes.matrix, SYNTAXES[syntax], frames)
    voxels = benchmark(by_onfh, folder)
    assert np.array_equal(voxels[0], frames[0])
    assert len(voxels) == sizes.encoded
    stored = sum(path.stat().st_size for path in folder.iterdir())
    benchmark.extra_info |= {"slices": len(voxels), "mb": voxels.nbytes / 1e6, "stored_mb": stored / 1e6}
