"""A thin-slice axial series and the native 3 mm coronal slices made of it must get the same answer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from onfh_runtime.dicom import find_series
from onfh_runtime.phantom import SCANNERS, axial_grid, coronal_from, random_spec, render, write_series
from onfh_runtime.pipeline import Pipeline

SPACING_MM = 0.8, 0.8, 1.0


@pytest.mark.slow
def test_thin_axial_phantom_against_its_native_coronal(open_gate, tmp_path):
    scanner = replace(SCANNERS["site_a"], pixel_spacing_mm=SPACING_MM[0], slice_spacing_mm=SPACING_MM[2])
    spec = random_spec(21, scanner=scanner, lesions="both", implant="none")
    axial = render(spec, axial_grid(spec, slices=170, rows=512, columns=512))
    write_series(axial, tmp_path / "axial", series_number=1)
    write_series(coronal_from(axial, 3.0), tmp_path / "coronal", series_number=2)
    candidates = [find_series([tmp_path / plane])[0][0] for plane in ("axial", "coronal")]
    with Pipeline(open_gate()) as pipeline:
        a, c = list(pipeline.run(candidates, lambda analysis: analysis))
    assert a.result.geometry.spacing_mm == pytest.approx((SPACING_MM[2], SPACING_MM[0], SPACING_MM[1]))
    drift = np.abs([x.probability - y.probability for x, y in zip(a.result.slices, c.result.slices, strict=True)])
    first, second = a.images.mask > 0, c.images.mask > 0
    change = abs(a.result.patient.probability - c.result.patient.probability)
    dice = 2 * (first & second).sum() / (first.sum() + second.sum())
    print(f"thin axial: drift of the patient {change:.5f}, of a slice {drift.max():.5f} at most, Dice {dice:.4f}")
    assert change < 0.02
    assert drift.max() < 0.02
    assert dice >= 0.95
    assert first.any()
