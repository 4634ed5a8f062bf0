"""The live page in a real browser, against a real server and journal."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from listen_journal import SR, answer, receive, work

from onfh_runtime.listen.http import HttpServer
from onfh_runtime.listen.journal import Journal
from onfh_runtime.listen.metrics import Metrics
from onfh_runtime.listen.records import NewDelivery

TOKEN = "0123456789abcdef0123456789abcdef"
ROOT = "1.2.826.0.1.3680043.8.498.1"
OTHER_STUDY = "1.2.826.0.1.3680043.8.498.200"
SCRIPTED = (
    "<!DOCTYPE html><html><head><title>report</title></head><body><h1 id=h>report</h1><script>"
    "document.title = 'ran'; try { document.title += document.cookie + 'cookie'; } catch (e) { }"
    "fetch('/api/series').then(() => { document.title = 'read'; }).catch(() => { document.title += ' alone'; });"
    "</script></body></html>"
)


class Node:
    """What the page looks at."""

    def __init__(self, folder: Path, token: str | None) -> None:
        self.journal = Journal(folder / "journal.sqlite")
        self.problems: list[str] = []
        self.server = HttpServer(
            "127.0.0.1",
            0,
            token=token,
            journal=self.journal,
            results=folder / "results",
            metrics=Metrics(self.journal, folder),
            problems=lambda: self.problems,
        )
        self.server.start()
        self.url = f"http://127.0.0.1:{self.server.port}"

    def fill(self) -> None:
        sr = NewDelivery("pacs", self.journal.root / "results" / "sr.dcm", "1.2.3", SR)
        answer(self.journal, f"{ROOT}.1", ago_s=400, deliveries=[sr, sr], deadline_in_s=30)
        for row in self.journal.due(time.time() + 1)[:1]:
            self.journal.sent(row.id)
        answer(self.journal, f"{ROOT}.2", ago_s=300, outcome="not_analysed", missed=True, deliveries=[sr])
        self.journal.dead(self.journal.deliveries_of(f"{ROOT}.2")[0].id, "down")
        answer(self.journal, f"{ROOT}.3", ago_s=200)
        receive(self.journal, f"{ROOT}.3", ago_s=100, objects=1)
        receive(self.journal, f"{ROOT}.4", ago_s=60, study_uid=OTHER_STUDY, objects=40)
        self.journal.set_aside(f"{ROOT}.4", work(self.journal, f"{ROOT}.4"), "stage_failed", "A stage failed.")
        receive(self.journal, f"{ROOT}.5", ago_s=30, study_uid=OTHER_STUDY, objects=25)
        work(self.journal, f"{ROOT}.5", deadline_in_s=-5)
        receive(self.journal, f"{ROOT}.6", ago_s=1, study_uid=OTHER_STUDY, objects=12)

    def close(self) -> None:
        self.server.close()
        self.journal.close()


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    node = Node(tmp_path, None)
    yield node
    node.close()


@pytest.fixture
def locked_node(tmp_path: Path) -> Iterator[Node]:
    node = Node(tmp_path, TOKEN)
    yield node
    node.close()


def visit(browser: Any, url: str, *, width: int = 1280, scheme: str = "light") -> None:
    browser.cdp("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
    browser.cdp("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    browser.call("POST", "/url", {"url": url})


def wait_for_rows(browser: Any, count: int) -> None:
    browser.wait_for(lambda: browser.js("return document.querySelectorAll('tr.series').length") == count)


def cell(browser: Any, series: str, name: str) -> str:
    return str(browser.js(f"return document.querySelector('tr[data-uid=\"{series}\"] [data-name={name}]').innerText"))


def count(browser: Any, name: str) -> int:
    return int(browser.js(f"return document.querySelector('[data-count={name}] b').innerText"))


def test_every_state_reads_as_what_it_is(browser: Any, node: Node) -> None:
    node.fill()
    visit(browser, node.url)
    wait_for_rows(browser, 6)
    assert cell(browser, f"{ROOT}.1", "state") == "answered"
    assert cell(browser, f"{ROOT}.1", "deadline") == "kept"
    assert cell(browser, f"{ROOT}.1", "sent") == "1 of 2"
    assert cell(browser, f"{ROOT}.1", "latency").split() == ["1.2", "s", "(0.3", "s)"]
    assert "not analysed" in cell(browser, f"{ROOT}.2", "result")
    assert cell(browser, f"{ROOT}.2", "deadline") == "missed"
    assert "1 given up" in cell(browser, f"{ROOT}.2", "sent")
    assert cell(browser, f"{ROOT}.3", "state") == "receiving"
    assert "before more images came" in cell(browser, f"{ROOT}.3", "result")
    assert cell(browser, f"{ROOT}.4", "state") == "set aside"
    assert "A stage failed. [stage_failed]" in cell(browser, f"{ROOT}.4", "result")
    assert cell(browser, f"{ROOT}.5", "state") == "analysing"
    assert cell(browser, f"{ROOT}.5", "deadline").startswith("overdue by")
    assert cell(browser, f"{ROOT}.6", "images") == "12"
    assert count(browser, "answered") == 2
    assert count(browser, "deliveries_dead") == 1
    assert browser.js("return document.querySelectorAll('tr.study').length") == 2
    assert browser.errors() == []


def test_changes_show_by_themselves_and_keep_the_focus(browser: Any, node: Node) -> None:
    answer(node.journal, f"{ROOT}.1", ago_s=100)
    receive(node.journal, f"{ROOT}.2", ago_s=5)
    visit(browser, node.url)
    wait_for_rows(browser, 2)
    browser.js("document.querySelector('a.report').focus()")
    work(node.journal, f"{ROOT}.2")
    receive(node.journal, f"{ROOT}.3", ago_s=1)
    wait_for_rows(browser, 3)
    assert cell(browser, f"{ROOT}.2", "state") == "analysing"
    assert browser.js("return document.activeElement.className") == "report"
    assert browser.errors() == []


def test_updates_can_be_paused(browser: Any, node: Node) -> None:
    visit(browser, node.url)
    browser.wait_for(lambda: "No series has come yet." in browser.js("return document.body.innerText"))
    browser.click("pause")
    assert browser.text("updated").startswith("Paused.")
    receive(node.journal, f"{ROOT}.1")
    time.sleep(2.5)
    assert browser.js("return document.querySelectorAll('tr.series').length") == 0
    browser.click("pause")
    wait_for_rows(browser, 1)


def test_a_node_that_is_not_ready_or_gone_is_told(browser: Any, node: Node) -> None:
    node.problems = ["disk_full"]
    visit(browser, node.url)
    browser.wait_for(lambda: browser.text("problem") == "The node is not ready: disk full.")
    node.problems = []
    browser.wait_for(lambda: browser.js("return document.getElementById('problem').hidden"))
    node.server.close()
    browser.wait_for(lambda: "does not answer" in browser.text("problem"))


def test_a_report_opens_and_is_cut_off_from_the_node(browser: Any, node: Node) -> None:
    answer(node.journal, f"{ROOT}.1", report=SCRIPTED)
    visit(browser, node.url)
    wait_for_rows(browser, 1)
    browser.js("document.querySelector('a.report').click()")
    browser.wait_for(lambda: browser.js("return document.title") == "ran alone")
    assert browser.text("h") == "report"
    browser.errors()  # what the report was refused


def test_login_and_logout(browser: Any, locked_node: Node) -> None:
    receive(locked_node.journal, f"{ROOT}.1")
    visit(browser, locked_node.url)
    assert browser.js("return location.pathname") == "/login"
    fill = "document.getElementById('token').value = '{}'; document.querySelector('form').requestSubmit()"
    browser.js(fill.format("x" * 32))
    browser.wait_for(lambda: browser.js("return location.search") == "?wrong" and browser.text("wrong") != "")
    assert browser.js("return !document.getElementById('wrong').hidden")
    browser.js(fill.format(TOKEN))
    wait_for_rows(browser, 1)
    assert browser.js("return document.cookie") == ""
    browser.js("document.querySelector('#logout button').click()")
    browser.wait_for(lambda: browser.js("return location.pathname") == "/login")
    visit(browser, locked_node.url)
    assert browser.js("return location.pathname") == "/login"
    assert [entry for entry in browser.errors() if entry["level"] == "SEVERE"] == []


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 1280), ("light", 420), ("dark", 700)])
def test_both_schemes_and_narrow_screens(browser: Any, node: Node, scheme: str, width: int) -> None:
    node.fill()
    visit(browser, node.url, scheme=scheme, width=width)
    wait_for_rows(browser, 6)
    back, front = browser.js(
        "const s = getComputedStyle(document.body); return [s.backgroundColor, s.color].map((c) =>"
        "c.match(/\\d+/g).reduce((a, b) => a + Number(b), 0))"
    )
    assert (back < front) == (scheme == "dark")
    assert browser.js("return document.documentElement.scrollWidth") <= width


def test_every_control_is_reached_by_tab_and_shows_its_focus(browser: Any, node: Node) -> None:
    node.fill()
    visit(browser, node.url)
    wait_for_rows(browser, 6)
    reached = {}
    for _ in range(6):
        browser.press("Tab")
        name, width = browser.js(
            "const e = document.activeElement; return [e.id || e.className || e.tagName,"
            "getComputedStyle(e).outlineWidth]"
        )
        reached[name] = width
    assert {"pause", "report"} <= set(reached)
    assert reached["pause"] == reached["report"] == "3px"


def test_text_of_the_journal_stays_text(browser: Any, node: Node) -> None:
    evil = "<img src=x onerror=\"document.title='owned'\">"
    receive(node.journal, f"{ROOT}.1", route="scanner")
    node.journal.set_aside(f"{ROOT}.1", 1, "stage_failed", evil)
    visit(browser, node.url)
    wait_for_rows(browser, 1)
    assert evil in cell(browser, f"{ROOT}.1", "result")
    assert browser.js("return document.images.length") == 0
    assert browser.js("return document.title") == "ONFH node"
