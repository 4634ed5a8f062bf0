"""The statistics of an evaluation: plain functions on arrays, without a word about files."""

from onfh_runtime.evaluation.bootstrap import (
    Bootstrapped,
    Statistic,
    area_statistic,
    bootstrap_intervals,
    bootstrap_rounds,
    bootstrap_summary,
    classification_statistics,
    ratio_statistic,
)
from onfh_runtime.evaluation.calibration import (
    CalibrationBin,
    CalibrationFit,
    Coefficient,
    brier_score,
    calibration_fit,
    reliability_curve,
)
from onfh_runtime.evaluation.delong import DelongArea, DelongTest, delong_interval, delong_test
from onfh_runtime.evaluation.interval import Interval, wilson_interval
from onfh_runtime.evaluation.mcnemar import (
    Mcnemar,
    PairedCounts,
    PairedDifference,
    mcnemar_test,
    paired_counts,
    paired_difference,
)
from onfh_runtime.evaluation.overlap import Overlap, dice, mask_overlap, slice_overlaps
from onfh_runtime.evaluation.rates import Confusion, Rate, Rates, confusion, confusion_of_calls, rate_of, rates_of
from onfh_runtime.evaluation.roc import RocCurve, area_under_curve, roc_curve
from onfh_runtime.evaluation.surface import SurfaceDistances, hd95_mm, surface_distances
from onfh_runtime.evaluation.units import cluster_index

__all__ = [
    "Bootstrapped",
    "CalibrationBin",
    "CalibrationFit",
    "Coefficient",
    "Confusion",
    "DelongArea",
    "DelongTest",
    "Interval",
    "Mcnemar",
    "Overlap",
    "PairedCounts",
    "PairedDifference",
    "Rate",
    "Rates",
    "RocCurve",
    "Statistic",
    "SurfaceDistances",
    "area_statistic",
    "area_under_curve",
    "bootstrap_intervals",
    "bootstrap_rounds",
    "bootstrap_summary",
    "brier_score",
    "calibration_fit",
    "classification_statistics",
    "cluster_index",
    "confusion",
    "confusion_of_calls",
    "delong_interval",
    "delong_test",
    "dice",
    "hd95_mm",
    "mask_overlap",
    "mcnemar_test",
    "paired_counts",
    "paired_difference",
    "rate_of",
    "rates_of",
    "ratio_statistic",
    "reliability_curve",
    "roc_curve",
    "slice_overlaps",
    "surface_distances",
    "wilson_interval",
]
