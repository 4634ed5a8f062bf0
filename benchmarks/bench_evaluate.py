"""The statistics of an evaluation, at a size that can be repeated; evaluate.py has the study's."""

from __future__ import annotations

from typing import Any

import numpy as np
from evaluate import SPACING_MM, mask_pair, tables
from suite_cases import Sizes

from onfh_runtime.evaluation import hd95_mm

DOES_NOT_MEASURE = (
    "the whole command, 53,828 slices and MONAI beside it: evaluate.py",
    "volumes: masks here are single slices",
)
PAIRS = 20


def test_tables(benchmark: Any, sizes: Sizes) -> None:
    """Rates, ROC, calibration and bootstrap intervals at three levels and five groups, and two runs compared."""
    patients, slices, rounds = sizes.patients
    found = benchmark(tables, slices, patients, rounds)
    benchmark.extra_info |= {"patients": patients, "slices": slices, "rounds": rounds, "tables": found["tables"]}


def test_hd95(benchmark: Any) -> None:
    """HD95 of twenty pairs of masks of 512 x 512."""
    rng = np.random.default_rng(0)
    pairs = [mask_pair(rng) for _ in range(PAIRS)]
    distances = benchmark(lambda: [hd95_mm(one, other, SPACING_MM) for one, other in pairs])
    assert min(distances) >= 0
    benchmark.extra_info["pairs"] = PAIRS
