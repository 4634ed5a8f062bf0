"""What the node counts, in the text format of Prometheus.

The format is written by prometheus-client, the format's own pure Python package: its escaping, its histograms and its
figures of the process (memory, open files) need no second author here. Nothing is registered with its global registry.
What the journal knows (series and deliveries by state) is read from it when someone asks, so a restart changes nothing;
counters start at zero with the process, which is what Prometheus expects.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from onfh_runtime import __version__
from onfh_runtime.listen.journal_view import JournalView
from onfh_runtime.listen.records import SeriesState

__all__ = ["CONTENT_TYPE", "Metrics"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_LATENCY_S = (0.25, 0.5, 0.75, 1, 1.5, 2, 3, 4, 6, 8, 12, 20, 30, 60, 120, 300, 600)
"""Upper bounds of the latency buckets: the steps are fine where deadlines of a scanner lie."""


class Metrics:
    """The counters of one node. Every method may be called from any thread and only counts."""

    def __init__(
        self,
        journal: JournalView,
        state_dir: Path,
        *,
        routes: Sequence[str] = (),
        destinations: Sequence[str] = (),
        bundle: str = "",
        backend: str = "",
    ) -> None:
        """Start at zero.

        Args:
            journal: asked for series, deliveries and the spool at each :meth:`text`.
            state_dir: the folder whose disk is watched.
            routes: names of the configured routes, each of which has its counters from the start.
            destinations: the same for destinations.
            bundle: name and version of the bundle.
            backend: what runs it.
        """
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._registry.register(_State(journal, state_dir))
        self._objects = self._counter("onfh_objects_received", "Objects kept and acknowledged.")
        self._bytes = self._counter("onfh_received_bytes", "Bytes of the objects kept and acknowledged.")
        self._rejected = self._counter("onfh_rejected", "Associations and objects refused.", "reason")
        self._associations = Gauge("onfh_associations", "Associations open now.", registry=self._registry)
        self._answered = self._counter("onfh_series_answered", "Answers given.", "route", "outcome")
        self._set_aside = self._counter("onfh_series_set_aside", "Series given up.", "code")
        self._missed = self._counter("onfh_deadlines_missed", "Answers that came after their deadline.", "route")
        self._latency = self._histogram("onfh_latency_seconds", "From the last image of a series to its result.")
        self._outside = self._histogram(
            "onfh_outside_engine_seconds", "The part of the latency in which no stage was running."
        )
        self._deliveries = self._counter(
            "onfh_delivery_tries", "Objects offered to a destination.", "destination", "outcome"
        )
        self._webhooks = self._counter("onfh_webhook_calls", "Calls of the webhook.", "outcome")
        build = Gauge("onfh_build_info", "What is running.", ["version", "bundle", "backend"], registry=self._registry)
        build.labels(__version__, bundle, backend).set(1)
        for route in routes:
            self._missed.labels(route)
            self._latency.labels(route)
            self._outside.labels(route)
        for name in destinations:
            for outcome in ("sent", "failed", "dead"):
                self._deliveries.labels(name, outcome)

    def object_received(self, nbytes: int) -> None:
        """Count an object that was kept and acknowledged; one that was known byte by byte is not counted again."""
        self._objects.inc()
        self._bytes.inc(nbytes)

    def rejected(self, reason: str) -> None:
        """Count an association or an object that was refused; ``reason`` is a code."""
        self._rejected.labels(reason).inc()

    def associations_from(self, count: Callable[[], int]) -> None:
        """Ask this for the number of open associations at each :meth:`text`."""
        self._associations.set_function(count)

    def answered(
        self, route: str, outcome: str, *, latency_s: float | None, outside_s: float | None, deadline_missed: bool
    ) -> None:
        """Count an answer; a latency that is not known (the node was restarted) is left out."""
        self._answered.labels(route, outcome).inc()
        if latency_s is not None:
            self._latency.labels(route).observe(latency_s)
        if outside_s is not None:
            self._outside.labels(route).observe(outside_s)
        if deadline_missed:
            self._missed.labels(route).inc()

    def set_aside(self, code: str) -> None:
        """Count a series that was given up."""
        self._set_aside.labels(code).inc()

    def delivery(self, destination: str, outcome: str) -> None:
        """Count a try to deliver: ``sent``, ``failed`` (to be tried again) or ``dead``."""
        self._deliveries.labels(destination, outcome).inc()

    def webhook(self, outcome: str) -> None:
        """Count a call of the webhook: ``sent``, ``failed`` (given up) or ``dropped`` (too many waited)."""
        self._webhooks.labels(outcome).inc()

    def text(self) -> bytes:
        """Everything counted, in the text format 0.0.4.

        Raises:
            StorageError: the journal cannot be read.
        """
        return generate_latest(self._registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, registry=self._registry)

    def _histogram(self, name: str, text: str) -> Histogram:
        return Histogram(name, text, ["route"], buckets=_LATENCY_S, registry=self._registry)


class _State(Collector):
    """Gauges of what is on the disk."""

    def __init__(self, journal: JournalView, state_dir: Path) -> None:
        self._journal, self._state_dir = journal, state_dir

    def describe(self) -> Iterable[Metric]:
        """Nothing: registering must not read the journal."""
        return ()

    def collect(self) -> Iterator[Metric]:
        counts = self._journal.counts()
        series = GaugeMetricFamily("onfh_series", "Series the journal knows, by state.", labels=["state"])
        for state in SeriesState:
            series.add_metric([state.value], counts[state.value])
        yield series
        yield GaugeMetricFamily("onfh_queue_depth", "Complete series that wait for their turn.", counts["ready"])
        deliveries = GaugeMetricFamily("onfh_deliveries", "Deliveries the journal knows, by state.", labels=["state"])
        for name in ("pending", "sent", "dead"):
            deliveries.add_metric([name], counts[f"deliveries_{name}"])
        yield deliveries
        yield GaugeMetricFamily("onfh_spool_objects", "Received objects on the disk.", counts["objects"])
        yield GaugeMetricFamily("onfh_spool_bytes", "Bytes of the received objects.", counts["object_bytes"])
        free = shutil.disk_usage(self._state_dir).free
        yield GaugeMetricFamily("onfh_disk_free_bytes", "Bytes free on the disk of the node.", free)
