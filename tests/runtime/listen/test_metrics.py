"""The metrics, read by Prometheus' own parser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from listen_journal import SR, answer, receive, work
from prometheus_client.parser import text_string_to_metric_families

from onfh_runtime import __version__
from onfh_runtime.listen.journal import Journal
from onfh_runtime.listen.metrics import CONTENT_TYPE, Metrics
from onfh_runtime.listen.records import NewDelivery

ROOT = "1.2.826.0.1.3680043.8.498.1"


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal(tmp_path / "journal.sqlite")
    yield journal
    journal.close()


def parsed(metrics: Metrics) -> dict[tuple[str, ...], float]:
    """Samples by (name, label values sorted by label name)."""
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(metrics.text().decode())
        for sample in family.samples
    }


def test_counters_count(journal: Journal, tmp_path: Path) -> None:
    metrics = Metrics(journal, tmp_path, routes=["ct"], destinations=["pacs"], bundle="demo 1", backend="onnxruntime")
    metrics.object_received(1000)
    metrics.object_received(500)
    metrics.rejected("unknown_peer")
    metrics.rejected("unknown_peer")
    metrics.associations_from(lambda: 3)
    metrics.answered("ct", "succeeded", latency_s=0.9, outside_s=0.1, deadline_missed=False)
    metrics.answered("ct", "failed", latency_s=7.0, outside_s=None, deadline_missed=True)
    metrics.answered("ct", "succeeded", latency_s=None, outside_s=None, deadline_missed=False)
    metrics.set_aside("stage_failed")
    metrics.delivery("pacs", "failed")
    metrics.delivery("pacs", "sent")
    metrics.webhook("dropped")
    got = parsed(metrics)
    assert got["onfh_objects_received_total",] == 2
    assert got["onfh_received_bytes_total",] == 1500
    assert got["onfh_rejected_total", "unknown_peer"] == 2
    assert got["onfh_associations",] == 3
    assert got["onfh_series_answered_total", "succeeded", "ct"] == 2
    assert got["onfh_series_answered_total", "failed", "ct"] == 1
    assert got["onfh_series_set_aside_total", "stage_failed"] == 1
    assert got["onfh_deadlines_missed_total", "ct"] == 1
    assert got["onfh_latency_seconds_count", "ct"] == 2
    assert got["onfh_latency_seconds_sum", "ct"] == pytest.approx(7.9)
    assert got["onfh_latency_seconds_bucket", "1.0", "ct"] == 1
    assert got["onfh_latency_seconds_bucket", "8.0", "ct"] == 2
    assert got["onfh_latency_seconds_bucket", "+Inf", "ct"] == 2
    assert got["onfh_outside_engine_seconds_count", "ct"] == 1
    assert got["onfh_delivery_tries_total", "pacs", "failed"] == 1
    assert got["onfh_delivery_tries_total", "pacs", "dead"] == 0
    assert got["onfh_webhook_calls_total", "dropped"] == 1
    assert got["onfh_build_info", "onnxruntime", "demo 1", __version__] == 1
    assert got["process_resident_memory_bytes",] > 1e6


def test_gauges_say_what_the_journal_says(journal: Journal, tmp_path: Path) -> None:
    metrics = Metrics(journal, tmp_path)
    before = parsed(metrics)
    assert before["onfh_series", "answered"] == before["onfh_deliveries", "pending"] == 0
    delivery = NewDelivery("pacs", journal.root / "results" / "sr.dcm", "1.2.3", SR)
    answer(journal, f"{ROOT}.1", deliveries=[delivery, delivery])
    receive(journal, f"{ROOT}.2", objects=5)
    receive(journal, f"{ROOT}.3")
    journal.set_aside(f"{ROOT}.3", work(journal, f"{ROOT}.3"), "stage_failed", "A stage failed.")
    receive(journal, f"{ROOT}.4")
    journal.mark_ready(f"{ROOT}.4", 1, None)
    got = parsed(metrics)
    assert {
        state: got["onfh_series", state] for state in ("receiving", "ready", "working", "answered", "set_aside")
    } == {
        "receiving": 1,
        "ready": 1,
        "working": 0,
        "answered": 1,
        "set_aside": 1,
    }
    assert got["onfh_queue_depth",] == 1
    assert got["onfh_deliveries", "pending"] == 2
    assert got["onfh_spool_objects",] == 14
    assert got["onfh_spool_bytes",] == 1400
    assert got["onfh_disk_free_bytes",] > 0


def test_every_alarm_can_rest_on_a_counter_that_is_there_from_the_start(journal: Journal, tmp_path: Path) -> None:
    got = parsed(Metrics(journal, tmp_path, routes=["ct"], destinations=["pacs"]))
    assert got["onfh_deadlines_missed_total", "ct"] == 0
    assert got["onfh_latency_seconds_count", "ct"] == 0
    assert {got["onfh_delivery_tries_total", "pacs", outcome] for outcome in ("sent", "failed", "dead")} == {0}


def test_labels_are_escaped_and_every_family_has_help_and_type(journal: Journal, tmp_path: Path) -> None:
    metrics = Metrics(journal, tmp_path, bundle='a "quoted\\ \n bundle')
    assert ("onfh_build_info", "", 'a "quoted\\ \n bundle', __version__) in parsed(metrics)
    for family in text_string_to_metric_families(metrics.text().decode()):
        assert family.type in ("counter", "gauge", "histogram")
        assert family.documentation or family.name.endswith("_created")
    assert "version=0.0.4" in CONTENT_TYPE


def test_two_nodes_in_one_process_count_apart(journal: Journal, tmp_path: Path) -> None:
    one, other = Metrics(journal, tmp_path), Metrics(journal, tmp_path)
    one.object_received(10)
    assert parsed(one)["onfh_objects_received_total",] == 1
    assert parsed(other)["onfh_objects_received_total",] == 0
