from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from importlib.resources import files
from typing import Any

import numpy as np
import pytest

from onfh_runtime.bundle import Bundle
from onfh_runtime.outputs.html_report import html_from_result
from onfh_runtime.result import Result
from onfh_runtime.volume import CoronalStack

EARLY = "A negative CT does not exclude early osteonecrosis"
EVIL = "</script></style><script>alert(1)</script><img src=x onerror=alert(1)>\"'><!--${csp}&lt;"


def bundle_with(**changes: Any) -> Bundle:
    stage = {
        "architecture": "vit",
        "models": {"fp32": "model.onnx"},
        "input_name": "x",
        "output_name": "y",
        "input": {"size": (224, 224), "windows": [{"center": 500, "width": 2000}], "mean": [0.5], "std": [0.5]},
    }
    content: dict[str, Any] = {
        "schema": "onfh-bundle/1",
        "name": "demo",
        "version": "1.2",
        "description": "Two small stages.",
        "notices": ["Trained on phantoms only."],
        "slice_spacing_mm": 3.0,
        "coverage": {"margin_mm": 5},
        "classifier": stage,
        "segmenter": stage,
        "gate": {"threshold": 0.3},
        "slice_threshold": 0.42,
        "patient_rule": {"threshold": 0.4},
        "minimum_volume_mm3": 10,
        "files": {},
    }
    return Bundle.model_validate(content | changes)


def result_with(**changes: Any) -> Result:
    probabilities = (0.02, 0.5, 0.97, 0.2)
    content: dict[str, Any] = {
        "created": "2026-11-23T09:30:00Z",
        "status": "succeeded",
        "study_instance_uid": "1.2.3.4",
        "series_instance_uid": "1.2.3.4.5",
        "patient": {"state": "positive", "probability": 0.97, "threshold": 0.4},
        "sides": {
            "right": {"state": "positive", "volume_mm3": 1234.5, "slices": 2, "centroid_mm": (-90.25, 1.0, 800.0)},
            "left": {"state": "not_analysed", "reason": {"code": "head_cut", "text": "This femoral head is cut."}},
        },
        "slices": [
            {"index": i, "position_mm": 3.0 * i - 6, "sop_instance_uid": None, "probability": p, "positive": p >= 0.42}
            for i, p in enumerate(probabilities)
        ],
        "geometry": {"acquired": "axial", "spacing_mm": (1.0, 0.7, 0.7), "coronal_slices": 4},
        "bundle": {"name": "demo", "version": "1.2", "sha256": "0123456789abcdef" * 4},
        "engine": {"backend": "onnxruntime", "precision": "fp32", "device": "CPU"},
        "timing_ms": {"read": 20, "classify": 30, "total": 50},
        "warnings": [{"code": "thick_slices", "text": "The slices are thick."}],
        "software": {"name": "onfh-edge", "version": "0.1.0"},
    }
    return Result.model_validate(content | changes)


def refused(status: str = "not_analysed") -> Result:
    reason = {"code": "gantry_tilt", "text": "The gantry was tilted."}
    return result_with(status=status, reason=reason, patient=None, sides=None, slices=[], geometry=None)


def stack_of(slices: int = 4, rows: int = 20, columns: int = 30) -> CoronalStack:
    hu = np.random.default_rng(0).normal(100, 40, (slices, rows, columns)).astype(np.float32)
    affine = np.array([[0, 0, 0.7, 0], [3.0, 0, 0, 0], [0, -1.0, 0, 0], [0, 0, 0, 1]])
    return CoronalStack(hu, affine)


def mask_of(label: int = 1) -> Any:
    mask = np.zeros((4, 20, 30), np.uint8)
    mask[1:3, 5:10, 4:14] = label
    return mask


def page(result: Result | None = None, label: int = 1, **changes: Any) -> str:
    options: dict[str, Any] = {"stack": stack_of(), "mask": mask_of(label), "bundle": bundle_with()}
    return html_from_result(result or result_with(), **(options | changes))


class Reader(HTMLParser):
    """Start tags with attributes, the visible text, and the content of style and script elements."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.raw: list[tuple[str, str]] = []
        self._inside = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag if tag in {"style", "script"} else ""

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.raw.append((self._inside, data))
        else:
            self.text += data

    @property
    def data(self) -> Any:
        return json.loads(next(body for tag, body in self.raw if tag == "script"))


def policy_of(reader: Reader) -> str:
    return next(str(attrs["content"]) for tag, attrs in reader.tags if tag == "meta" and "http-equiv" in attrs)


def test_page_is_self_contained_and_its_policy_allows_nothing_else() -> None:
    reader = Reader(page())
    policy = policy_of(reader)
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    style, script = reader.raw[0], reader.raw[2]
    assert (style[0], script[0]) == ("style", "script")
    for directive, body in (("style-src", style[1]), ("script-src", script[1])):
        digest = base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()
        assert f"{directive} 'sha256-{digest}'" in policy
    for tag, attrs in reader.tags:
        assert not {"src", "href", "style", "srcset", "action"} & set(attrs), tag
        assert not [name for name in attrs if name.startswith("on")], tag
    assert not re.search(r"https?://|url\(|@import|fetch\(|XMLHttpRequest", page())


@pytest.mark.parametrize("pictured", [True, False])
def test_foreign_text_never_becomes_markup(pictured: bool) -> None:
    def made(text: str) -> str:
        note = {"code": text, "text": text}
        common = {
            "study_instance_uid": text,
            "series_instance_uid": text,
            "created": text,
            "supersedes": text,
            "warnings": [note],
            "bundle": {"name": text, "version": text, "sha256": "0" * 64},
            "engine": {"backend": text, "precision": text, "device": text},
            "software": {"name": text, "version": text},
        }
        bundle = bundle_with(notices=[text], description=text)
        if not pictured:
            result = result_with(**common, status="failed", reason=note, patient=None, sides=None, slices=[])
            return html_from_result(result, stack=None, mask=None, bundle=bundle, description=text)
        side = {"state": "undetermined", "reason": note}
        result = result_with(
            **common,
            sides={"right": side, "left": side},
            geometry={"acquired": text, "spacing_mm": (1, 1, 1), "coronal_slices": 4},
        )
        return page(result, bundle=bundle, description=text)

    plain, evil = Reader(made("plain")), Reader(made(EVIL))
    assert evil.tags == plain.tags
    assert evil.raw == plain.raw
    assert evil.text.count(EVIL) == plain.text.count("plain") >= 12


def test_script_data_cannot_end_its_element() -> None:
    from onfh_runtime.outputs.html_report import _json_for_script

    text = _json_for_script({"a": EVIL})
    assert not set("<>&") & set(text)
    assert json.loads(text) == {"a": EVIL}


@pytest.mark.parametrize("state", ["positive", "negative", "undetermined"])
def test_answer_comes_first_with_its_numbers_and_limits(state: str) -> None:
    text = Reader(page(result_with(patient={"state": state, "probability": 0.97, "threshold": 0.4}))).text
    assert f"Osteonecrosis: {state}" in " ".join(text.split())
    assert "Probability 0.970, at or above the threshold of 0.400" in text
    assert "Research use only. Not for diagnosis." in text
    assert text.count(EARLY) == 1
    assert "Trained on phantoms only." in text
    assert "The slices are thick. [thick_slices]" in text
    if state != "negative":
        assert "found no signs" not in text


@pytest.mark.parametrize(
    ("probability", "said"),
    [(0.0, "0.000"), (0.0004, "<0.001"), (0.3999, "0.400, below"), (0.9999, ">0.999"), (1.0, "1.000")],
)
def test_probabilities_never_round_to_certainty(probability: float, said: str) -> None:
    patient = {"state": "undetermined", "probability": probability, "threshold": 0.4}
    assert f"Probability {said}" in Reader(page(result_with(patient=patient))).text


@pytest.mark.parametrize("status", ["not_analysed", "failed"])
def test_a_series_without_result_never_reads_as_negative(status: str) -> None:
    text = html_from_result(refused(status), stack=None, mask=None, bundle=bundle_with(), description="HIP 1.0")
    reader = Reader(text)
    assert "Osteonecrosis: NOT ANALYSED" in reader.text
    assert "This is not a negative result" in reader.text
    assert "The gantry was tilted. [gantry_tilt]" in reader.text
    assert "Series: HIP 1.0" in reader.text
    assert "Probability" not in reader.text
    assert EARLY in reader.text
    assert "negative" not in reader.text.replace("not a negative result", "").replace(EARLY, "")
    assert reader.data is None
    assert not {"canvas", "input", "button"} & {tag for tag, _ in reader.tags}


def test_a_failed_result_shows_no_pictures_even_when_there_are_some() -> None:
    assert "<canvas" not in page(refused("failed"), mask=None)


def test_a_result_without_stack_still_has_chart_and_sides() -> None:
    tags = [attrs.get("id") for _, attrs in Reader(page(stack=None, mask=None)).tags]
    assert "chart" in tags
    assert "canvas" not in tags


def test_sides_show_volume_and_reason_and_never_a_zero_for_what_was_not_analysed() -> None:
    html = page()
    right, left = re.findall(r'<tr><th scope="row">(?:Right|Left)</th>.*?</tr>', html)
    assert "1,234 mm\u00b3<br>1.23 mL" in right
    assert "\u221290.2, 1.0, 800.0" in right
    assert "not analysed" in left
    assert "This femoral head is cut." in left
    assert re.findall(r'<td class="number">(.*?)</td>', left) == ["\u2013"] * 3


def test_outlined_area_is_told_per_slice_and_an_unassigned_one_by_volume() -> None:
    told = [entry["outlined"] for entry in Reader(page()).data["slices"]]
    assert told[0] == "Outlined: nothing in this slice"
    assert told[1] == "Outlined: right 35\u00a0mm\u00b2"
    unassigned = page(label=3)
    assert "Side unknown" not in page()
    assert "210 mm\u00b3" in unassigned[unassigned.index("Side unknown") :]
    assert "Outlined, side undetermined" in unassigned


def test_page_says_what_was_run() -> None:
    text = Reader(page(result_with(part=2, supersedes="1.2.9"))).text
    for said in ("demo 1.2 (0123456789ab)", "onnxruntime, fp32, CPU", "onfh-edge 0.1.0", "2026-11-23T09:30:00Z"):
        assert said in text
    for said in ("1.2.3.4", "1.2.3.4.5 (part 2)", "1.2.9", "axial, 1.00 mm between slices, pixels 0.70 \u00d7 0.70 mm"):
        assert said in text


@pytest.mark.parametrize("change", [{"stack": stack_of(5)}, {"mask": np.zeros((4, 20, 31), np.uint8)}])
def test_parts_that_do_not_belong_together_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="do not match"):
        page(**change)


def test_thirty_noisy_slices_stay_below_six_megabytes() -> None:
    stack = stack_of(30, 400, 512)
    row, column = np.ogrid[-1:1:400j, -1:1:512j]
    stack.hu[:, row**2 + column**2 > 0.9] = -1000
    entry = result_with().slices[0]
    result = result_with().model_copy(update={"slices": (entry,) * 30})
    assert len(html_from_result(result, stack=stack, mask=None, bundle=bundle_with())) < 6_000_000


def luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_contrast_meets_wcag_aa(theme: int) -> None:
    css = files("onfh_runtime.outputs").joinpath("report.css").read_text("utf-8")
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", re.findall(r":root \{([^}]*)\}", css)[theme]))

    def contrast(front: str, back: str) -> float:
        high, low = sorted((luminance(colours[front]), luminance(colours[back])), reverse=True)
        return (high + 0.05) / (low + 0.05)

    for front, back in [(f, b) for f in ("text", "muted", "strong") for b in ("card", "page")] + [
        ("banner-text", "banner")
    ]:
        assert contrast(front, back) >= 4.5, (front, back)
    for front in ("control", "focus", "curve", "bar", "right", "left", "unknown"):
        assert contrast(front, "card") >= 3, front
