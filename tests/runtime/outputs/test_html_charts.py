from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest

from onfh_runtime.outputs.html_charts import CHART_LEFT, CHART_WIDTH, chart_from_slices, timing_table
from onfh_runtime.result import SliceResult, Timing


def slices_from(probabilities: list[float], threshold: float = 0.4) -> list[SliceResult]:
    return [
        SliceResult(index=i, position_mm=3.0 * i, sop_instance_uid=None, probability=p, positive=p >= threshold)
        for i, p in enumerate(probabilities)
    ]


def test_chart_draws_every_slice_once_and_positive_ones_in_another_shape() -> None:
    chart = ET.fromstring(
        chart_from_slices(slices_from([0.1, 0.5, 0.9, 0.2]), 0.4, [{}, {1: 5.0}, {1: 2.0, 2: 1.0}, {}])
    )
    assert len(chart.findall("path[@class='point positive']")) == 2
    assert len(chart.findall("circle[@class='point']")) == 2
    assert len(chart.findall("rect[@class='right']")) == 2
    assert len(chart.findall("rect[@class='left']")) == 1
    assert chart.findall("rect[@class='unknown']") == []


def test_chart_places_slices_and_threshold_to_scale() -> None:
    chart = ET.fromstring(chart_from_slices(slices_from([0.0, 1.0]), 0.5, []))
    (x0, y0), (x1, y1) = (map(float, p.split(",")) for p in chart.find("polyline").get("points").split())  # type: ignore[union-attr]
    assert (x0, x1) == pytest.approx((CHART_LEFT + CHART_WIDTH / 4, CHART_LEFT + 3 * CHART_WIDTH / 4))
    threshold = chart.find("line[@class='threshold']")
    assert threshold is not None
    assert float(threshold.get("y1", "nan")) == pytest.approx((y0 + y1) / 2)


def test_chart_says_in_words_what_it_shows() -> None:
    label = ET.fromstring(chart_from_slices(slices_from([0.1, 0.5, 0.9]), 0.4, [])).get("aria-label", "")
    assert "2 of 3 slices are positive" in label
    assert "0.900 in slice 3" in label


def test_chart_of_one_slice() -> None:
    assert len(ET.fromstring(chart_from_slices(slices_from([0.7]), 0.4, [])).findall("path")) == 1


def test_timing_bars_are_proportional() -> None:
    table = timing_table(Timing(read=50, classify=200, write=4.25, total=1254.25))
    widths = [float(w) for w in re.findall(r'<rect width="([\d.]+)"', table)]
    assert widths == pytest.approx([50, 200, 4.2], abs=0.1)
    assert "preprocess" not in table
    assert "1.3 s" in table
    assert "4.2 ms" in table


def test_nothing_timed() -> None:
    assert "svg" not in timing_table(Timing())
