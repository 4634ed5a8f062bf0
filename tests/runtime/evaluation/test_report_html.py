"""The page: whole, escaped, without a network; and in a real browser, where it is drawn, sorted and printed."""

import base64
import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from onfh_runtime.evaluation.report_html import page

EVIL = "</script></table><img src=x onerror=\"document.title='owned'\"><b>bold"


class _Balance(HTMLParser):
    """Every element that is opened is closed in order."""

    VOID = frozenset({"meta", "br", "img", "line", "rect", "circle", "path", "polyline"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag


def parsed(html):
    parser = _Balance()
    parser.feed(html)
    assert parser.open == []
    return parser.seen


def test_the_page_is_whole_and_needs_no_network(document):
    html = page(document)
    assert {"svg", "table", "figure", "dl"} <= set(parsed(html))
    assert not re.search(r"(?:src|href|url)\s*[=(]", html.replace("url(u)", ""))
    assert "http" not in re.sub(r'http-equiv="', "", html)
    assert "Research use only. Not for diagnosis." in html
    assert " style=" not in html  # the policy would not let it
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html).group(1)
    for element, rule in (("style", "style-src"), ("script", "script-src")):
        body = re.search(rf"<{element}>(.*?)</{element}>", html, flags=re.DOTALL).group(1)
        digest = base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()
        assert f"{rule} 'sha256-{digest}'" in policy
    for case in document["cases"]:
        assert case["series"] in html


def test_text_of_others_is_escaped(document):
    case = document["cases"][0] | {"patient": EVIL, "site": EVIL, "series": EVIL, "flags": [EVIL], "state": EVIL}
    reader = document["readers"]["levels"]["patient"][0] | {"reader": EVIL}
    group = document["levels"]["patient"]["groups"][0] | {"name": EVIL}
    html = page(
        dict(
            document,
            cases=[case | {"label": True, "positive": False}],
            bundle={"name": EVIL, "version": EVIL, "sha256": EVIL},
            thresholds=document["thresholds"] | {"source": EVIL},
            levels={"patient": {"groups": [group]}},
            readers=document["readers"] | {"levels": {"patient": [reader]}, "not_joined_counts": {EVIL: 1}},
            definitions={EVIL: EVIL},
            notes=[EVIL],
        )
    )
    assert "img" not in parsed(html)


def test_a_run_with_nothing_defined_is_drawn_too(document):
    empty = {"hits": 0, "of": 0, "value": None, "wilson": None, "bootstrap": None}
    group = {"name": "all", "kind": "all", "n": 0, "positives": 0, "unanswered": {"n": 2, "positives": 1}}
    group |= dict.fromkeys(
        ("prevalence", "sensitivity", "specificity", "ppv", "npv", "sensitivity_if_unanswered_missed"), empty
    )
    group |= dict.fromkeys(("auc", "brier", "calibration", "roc"))
    case = document["cases"][0] | dict.fromkeys(
        ("label", "probability", "positive", "volume_mm3", "true_volume_mm3", "dice", "hd95_mm")
    )
    bare = dict(document, levels={"patient": {"groups": [group]}}, cases=[case | {"site": ""}])
    html = page(bare | {"segmentation": None, "readers": None, "against": None, "bundle": None})
    assert "svg" not in parsed(html)
    assert "1 positive" in html


@pytest.fixture(scope="module")
def written(document: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "evaluation.html"
    path.write_text(page(document), encoding="utf-8")
    return path


def column(browser: Any, number: int) -> list[str]:
    return list(
        browser.js(f"return [...document.querySelectorAll('#cases tbody tr')].map(r => r.cells[{number}].innerText)")
    )


def test_a_head_sorts_the_cases_both_ways_and_keeps_what_is_undefined_last(browser: Any, written: Path) -> None:
    browser.open(written)
    click = "document.querySelectorAll('#cases thead th')[{}].querySelector('button').click()"
    before = column(browser, 0)
    browser.js(click.format(4))
    values = [float(value) for value in column(browser, 4)]
    assert values == sorted(values)
    assert column(browser, 0) != before
    browser.js(click.format(4))
    assert [float(value) for value in column(browser, 4)] == sorted(values, reverse=True)
    assert browser.js("return document.querySelectorAll('#cases th')[4].getAttribute('aria-sort')") == "descending"
    for _ in range(2):
        browser.js(click.format(7))
        dice = [value == "\u2013" for value in column(browser, 7)]
        assert dice == sorted(dice)
        assert any(dice)
    browser.js(click.format(0))
    assert column(browser, 0) == sorted(before)
    assert browser.errors() == []


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1280, "dark"), (420, "light")])
def test_it_fits_the_screen_and_nothing_is_drawn_outside_its_chart(
    browser: Any, written: Path, width: int, scheme: str
) -> None:
    browser.open(written, width=width, scheme=scheme)
    assert browser.js("return document.documentElement.scrollWidth") <= width
    outside = browser.js(
        "return [...document.querySelectorAll('.plot')].flatMap(p => { const b = p.getBoundingClientRect();"
        "return [...p.querySelectorAll('text, path, circle')].map(e => [e.getBoundingClientRect(), e])"
        ".filter(([r]) => r.left < b.left - 1 || r.right > b.right + 1 || r.top < b.top - 1 || r.bottom > b.bottom + 1)"
        ".map(([, e]) => e.textContent); })"
    )
    assert outside == []
    assert browser.errors() == []


def test_curves_of_a_chart_can_be_told_apart(browser: Any, written: Path) -> None:
    browser.open(written)
    styles = browser.js(
        "return [...document.querySelector('.plot').querySelectorAll('.curve')].map(c => {"
        "const s = getComputedStyle(c); return s.stroke + s.strokeDasharray; })"
    )
    assert len(set(styles)) == len(styles) == 3


def test_markup_in_a_name_stays_text(browser: Any, document: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "evaluation.html"
    path.write_text(page(dict(document, cases=[document["cases"][0] | {"patient": EVIL}])), encoding="utf-8")
    browser.open(path)
    assert column(browser, 0) == [EVIL]
    assert browser.js("return document.images.length") == 0
    path.write_text(page(document).replace("</main>", f"{EVIL}</main>"), encoding="utf-8")
    browser.open(path)
    assert "owned" not in browser.js("return document.title")
    assert any("Content Security Policy" in entry["message"] for entry in browser.errors())


def test_it_prints_with_its_notes(browser: Any, written: Path) -> None:
    browser.open(written)
    browser.cdp("Emulation.setEmulatedMedia", media="print")
    try:
        shown = "return [...document.querySelectorAll('.remark, .plot')].every(e => e.getClientRects().length > 0)"
        assert browser.js(shown)
        assert base64.b64decode(browser.cdp("Page.printToPDF")["data"]).startswith(b"%PDF")
    finally:
        browser.cdp("Emulation.setEmulatedMedia", media="")
