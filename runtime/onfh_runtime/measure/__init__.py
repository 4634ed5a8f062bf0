"""How fast it is here, on what, and what bounds it: behind ``onfh bench``, ``onfh profile`` and the benchmarks."""

from onfh_runtime.measure.fingerprint import machine_fingerprint
from onfh_runtime.measure.statistics import median_interval, paired_ratio, percentiles, spread

__all__ = ["machine_fingerprint", "median_interval", "paired_ratio", "percentiles", "spread"]
