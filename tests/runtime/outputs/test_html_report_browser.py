"""The report in a real browser: what a reader's hand and eye would notice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onfh_runtime.bundle import Bundle
from onfh_runtime.outputs.html_report import html_from_result
from onfh_runtime.result import Result
from onfh_runtime.volume import CoronalStack

PROBABILITIES = (0.02, 0.5, 0.1, 0.97, 0.2, 0.6)
MOST_PROBABLE = 4
ROWS, COLUMNS, ROW_MM, COLUMN_MM = 40, 60, 1.5, 0.8


def wait_for_slice(browser: Any, number: int) -> None:
    browser.wait_for(lambda: browser.js("return document.getElementById('canvas').dataset.shown") == str(number))
    assert browser.text("now-slice") == f"Slice {number} of {len(PROBABILITIES)}"


def pixels(browser: Any) -> list[int]:
    """Sum of each colour channel over the canvas."""
    return list(
        browser.js(
            "const c = document.getElementById('canvas');"
            "const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
            "const sum = [0, 0, 0]; d.forEach((v, i) => { if (i % 4 < 3) sum[i % 4] += v; }); return sum;"
        )
    )


def pixel(browser: Any, row: float, column: float) -> list[int]:
    """RGB at a place of the stack's grid."""
    return list(
        browser.js(
            "const c = document.getElementById('canvas');"
            "return [...c.getContext('2d').getImageData("
            f"Math.floor(c.width * {column / COLUMNS}), Math.floor(c.height * {row / ROWS}), 1, 1"
            ").data].slice(0, 3)"
        )
    )


def result_and_bundle(**changes: Any) -> tuple[Result, Bundle]:
    stage = {
        "architecture": "vit",
        "models": {"fp32": "model.onnx"},
        "input_name": "x",
        "output_name": "y",
        "input": {"size": (224, 224), "windows": [{"center": 500, "width": 2000}], "mean": [0.5], "std": [0.5]},
    }
    bundle = {
        "name": "demo",
        "version": "1",
        "slice_spacing_mm": 3.0,
        "coverage": {"margin_mm": 5},
        "classifier": stage,
        "segmenter": stage,
        "gate": {"threshold": 0.3},
        "slice_threshold": 0.42,
        "patient_rule": {"threshold": 0.4},
        "minimum_volume_mm3": 10,
        "files": {},
        "schema": "onfh-bundle/1",
    }
    result: dict[str, Any] = {
        "created": "2026-11-23T09:30:00Z",
        "status": "succeeded",
        "study_instance_uid": "1.2.3",
        "series_instance_uid": "1.2.3.4",
        "patient": {"state": "positive", "probability": 0.97, "threshold": 0.4},
        "sides": {"right": {"state": "positive"}, "left": {"state": "negative"}},
        "slices": [
            {"index": i, "position_mm": 3.0 * i - 6, "sop_instance_uid": None, "probability": p, "positive": p >= 0.42}
            for i, p in enumerate(PROBABILITIES)
        ],
        "bundle": {"name": "demo", "version": "1", "sha256": "0" * 64},
        "engine": {"backend": "onnxruntime", "precision": "fp32", "device": "CPU"},
        "software": {"name": "onfh-edge", "version": "0.1.0"},
    }
    return Result.model_validate(result | changes), Bundle.model_validate(bundle)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six slices, each of its own grey; slice 4 has a lesion on the patient's right and a smaller one on the left."""
    hu = np.empty((len(PROBABILITIES), ROWS, COLUMNS), np.float32)
    hu[:] = np.linspace(-300, 200, len(PROBABILITIES))[:, None, None]
    mask = np.zeros(hu.shape, np.uint8)
    mask[3, 10:20, 8:20], mask[3, 12:18, 42:50] = 1, 2
    affine = np.array([[0, 0, COLUMN_MM, 0], [3.0, 0, 0, 0], [0, -ROW_MM, 0, 0], [0, 0, 0, 1]])
    result, bundle = result_and_bundle()
    path = tmp_path_factory.mktemp("page") / "report.html"
    html = html_from_result(result, stack=CoronalStack(hu, affine), mask=mask, bundle=bundle)
    path.write_text(html, encoding="utf-8")
    return path


def test_opens_on_the_most_probable_slice_in_its_true_shape(browser: Any, page: Path) -> None:
    browser.open(page)
    wait_for_slice(browser, MOST_PROBABLE)
    box = browser.js("const b = document.getElementById('canvas').getBoundingClientRect(); return [b.width, b.height]")
    assert box[0] / box[1] == pytest.approx(COLUMNS * COLUMN_MM / (ROWS * ROW_MM), rel=0.01)
    assert browser.text("now-position") == "Position 3.0 mm (front to back)"
    assert browser.text("now-probability") == "Probability 0.970, positive"
    assert browser.js("return document.getElementById('now').getAttribute('aria-live')") == "polite"
    assert browser.errors() == []


def test_grey_values_follow_the_window(browser: Any, page: Path) -> None:
    browser.open(page)
    wait_for_slice(browser, MOST_PROBABLE)
    assert pixel(browser, 25, 30) == pytest.approx([255 * 500 / 2000] * 3, abs=1)  # 0 HU between -500 and 1500
    browser.press("w")
    browser.wait_for(lambda: pixel(browser, 25, 30)[0] > 90)
    assert pixel(browser, 25, 30) == pytest.approx([255 * 160 / 400] * 3, abs=2)  # 0 HU between -160 and 240
    assert "soft tissue" in browser.text("window")


def test_slider_moves_text_pixels_and_marker(browser: Any, page: Path) -> None:
    browser.open(page)
    wait_for_slice(browser, MOST_PROBABLE)
    marker = "return document.getElementById('marker').getAttribute('transform')"
    before, place = pixels(browser), browser.js(marker)
    browser.js("const s = document.getElementById('slider'); s.value = 1; s.dispatchEvent(new Event('input'))")
    wait_for_slice(browser, 1)
    assert pixels(browser)[0] < before[0]
    assert browser.js(marker) != place
    assert browser.js("return document.getElementById('slider').getAttribute('aria-valuetext')").startswith(
        "Slice 1 of 6"
    )


def test_keys_work_from_the_slider_and_from_the_page(browser: Any, page: Path) -> None:
    browser.open(page)
    wait_for_slice(browser, MOST_PROBABLE)
    browser.press("Right")
    wait_for_slice(browser, 5)
    browser.js("document.getElementById('slider').focus()")
    for key, expected in (
        ("Home", 1),
        ("Right", 2),
        ("End", 6),
        ("Left", 5),
        ("n", 6),
        ("n", 2),
        ("n", 4),
        ("Home", 1),
    ):
        browser.press(key)
        wait_for_slice(browser, expected)
    browser.press("m")
    wait_for_slice(browser, MOST_PROBABLE)
    assert browser.errors() == []


def test_every_control_can_be_reached_by_tab_and_shows_its_focus(browser: Any, page: Path) -> None:
    browser.open(page)
    wait_for_slice(browser, MOST_PROBABLE)
    reached = {}
    for _ in range(10):
        browser.press("Tab")
        name, width = browser.js(
            "const e = document.activeElement; return [e.id || e.tagName, getComputedStyle(e).outlineWidth]"
        )
        reached[name] = width
    assert {"slider", "next", "best", "overlay", "window", "SUMMARY"} <= set(reached)
    assert set(reached.values()) - {"0px"} == {"3px"}


def test_overlay_toggles_in_two_colours_on_the_right_sides(browser: Any, page: Path) -> None:
    browser.open(page)
    wait_for_slice(browser, MOST_PROBABLE)
    with_overlay = pixels(browser)
    right, left = pixel(browser, 15, 14), pixel(browser, 15, 46)
    assert right[0] > right[2] + 20
    assert left[2] > left[0] + 20
    browser.press("o")
    browser.wait_for(lambda: pixels(browser) != with_overlay)
    assert len(set(pixel(browser, 15, 14))) == len(set(pixel(browser, 15, 46))) == 1
    assert browser.js("return document.getElementById('overlay').getAttribute('aria-pressed')") == "false"
    browser.click("overlay")
    browser.wait_for(lambda: pixels(browser) == with_overlay)
    assert browser.errors() == []


def test_wheel_and_chart_choose_slices(browser: Any, page: Path) -> None:
    browser.open(page)
    wait_for_slice(browser, MOST_PROBABLE)
    browser.js(
        "document.getElementById('canvas').dispatchEvent(new WheelEvent('wheel', {deltaY: 100, cancelable: true}))"
    )
    wait_for_slice(browser, 5)
    browser.js(
        "const p = document.querySelector('#chart .point.positive'), b = p.getBoundingClientRect();"
        "p.dispatchEvent(new MouseEvent('click', {bubbles: true, clientX: b.x + b.width / 2, clientY: b.y}))"
    )
    wait_for_slice(browser, 2)
    browser.click("next")
    wait_for_slice(browser, MOST_PROBABLE)


@pytest.mark.parametrize(("scheme", "dark"), [("light", False), ("dark", True)])
def test_both_colour_schemes_render(browser: Any, page: Path, scheme: str, dark: bool) -> None:
    browser.open(page, scheme=scheme)
    wait_for_slice(browser, MOST_PROBABLE)
    back, front = browser.js(
        "const s = getComputedStyle(document.body); return [s.backgroundColor, s.color].map((c) =>"
        "c.match(/\\d+/g).reduce((a, b) => a + Number(b), 0))"
    )
    assert (back < front) == dark
    assert browser.errors() == []


@pytest.mark.parametrize("width", [700, 420])
def test_narrow_screens_do_not_scroll_sideways(browser: Any, page: Path, width: int) -> None:
    browser.open(page, width=width)
    wait_for_slice(browser, MOST_PROBABLE)
    assert browser.js("return document.documentElement.scrollWidth") <= width
    assert float(browser.js("return getComputedStyle(document.body).fontSize")[:-2]) >= 18


def test_banner_stays_in_view(browser: Any, page: Path) -> None:
    browser.open(page)
    wait_for_slice(browser, MOST_PROBABLE)
    browser.js("window.scrollTo(0, document.body.scrollHeight)")
    assert browser.js("return document.querySelector('.banner').getBoundingClientRect().top") == 0


def test_a_refused_series_renders_without_pictures(browser: Any, tmp_path: Path) -> None:
    reason = {"code": "gantry_tilt", "text": "The gantry was tilted."}
    result, bundle = result_and_bundle(status="not_analysed", reason=reason, patient=None, sides=None, slices=[])
    path = tmp_path / "report.html"
    path.write_text(html_from_result(result, stack=None, mask=None, bundle=bundle), encoding="utf-8")
    browser.open(path)
    assert browser.js("return document.querySelector('h1').innerText") == "Osteonecrosis: NOT ANALYSED"
    assert "The gantry was tilted." in browser.js("return document.body.innerText")
    assert browser.js("return document.querySelectorAll('canvas, input, svg').length") == 0
    assert browser.errors() == []


def test_markup_in_a_description_stays_text(browser: Any, tmp_path: Path) -> None:
    evil = "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
    result, bundle = result_and_bundle(status="failed", patient=None, sides=None, slices=[])
    path = tmp_path / "report.html"
    html = html_from_result(result, stack=None, mask=None, bundle=bundle, description=evil)
    path.write_text(html, encoding="utf-8")
    browser.open(path)
    assert evil in browser.js("return document.body.innerText")
    assert browser.js("return document.images.length") == 0
    assert "owned" not in browser.js("return document.title")
    path.write_text(html.replace("</main>", evil[9:] + "</main>"), encoding="utf-8")
    browser.open(path)
    assert "owned" not in browser.js("return document.title")
    assert any("Content Security Policy" in entry["message"] for entry in browser.errors())
