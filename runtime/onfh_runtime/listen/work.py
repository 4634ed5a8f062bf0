"""Complete series, one after the other: analysed, written, and noted in the journal with what is to be sent."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from onfh_runtime.analysis import Analysis, without_answer
from onfh_runtime.bundle import LoadedBundle
from onfh_runtime.dicom import Candidate
from onfh_runtime.dicom.choice import by_preference, eligible
from onfh_runtime.errors import BackendError, OnfhError, OutputError, SeriesError
from onfh_runtime.listen.arrivals import Arrivals, Found
from onfh_runtime.listen.clock import Clock
from onfh_runtime.listen.complete import next_series
from onfh_runtime.listen.config import ListenConfig
from onfh_runtime.listen.journal import Journal
from onfh_runtime.listen.log import log_event
from onfh_runtime.listen.metrics import Metrics
from onfh_runtime.listen.records import SeriesRow, SeriesState, StorageError
from onfh_runtime.listen.results import Results, SeriesResults, deliveries_of
from onfh_runtime.listen.watch import Tell, Watch, route_named
from onfh_runtime.pipeline import as_onfh_error
from onfh_runtime.result import Note

__all__ = ["Analyse", "Worker"]

_log = logging.getLogger(__name__)

_LONGEST_S = 60.0

Analyse = Callable[[Candidate, Mapping[str, float]], Analysis]
"""Analyses a candidate, given what stage 1 said before of whole native slices, by SOP Instance UID. Never raises for
what is wrong with the series: its result says it."""


@dataclass
class _Work:
    """One generation of a series under way."""

    row: SeriesRow
    results: SeriesResults
    found: Found
    last_try: bool
    engine_ms: float = 0.0
    statuses: list[str] = field(default_factory=list)
    in_time: list[Analysis] = field(default_factory=list)
    failure: OnfhError | None = None


class Worker:
    """One turn works on one series. A failure is tried again later; a series never keeps another waiting for that.

    Args:
        config: of the node.
        bundle: what computes.
        journal: of the node.
        arrivals: what was done with the objects when they came.
        watch: knows which answers are late.
        analyse: see :data:`Analyse`.
        results: where results go.
        metrics: counts.
        tell: told of results and of series that are set aside.
        deliver: called when there is something to send.
        clock: of the node.
    """

    def __init__(
        self,
        config: ListenConfig,
        bundle: LoadedBundle,
        journal: Journal,
        arrivals: Arrivals,
        watch: Watch,
        analyse: Analyse,
        results: Results,
        *,
        metrics: Metrics,
        tell: Tell,
        deliver: Callable[[], None],
        clock: Clock,
    ) -> None:
        self._config, self._bundle, self._journal, self._arrivals = config, bundle, journal, arrivals
        self._watch, self._analyse, self._results = watch, analyse, results
        self._metrics, self._tell, self._deliver, self._clock = metrics, tell, deliver, clock
        self._storage_failures = 0
        """How often in a row an answer could not be kept."""
        self._began_s: float | None = None
        """When the work on the present series began, by the monotonic clock."""

    @property
    def busy(self) -> bool:
        """Whether a series is being worked on."""
        return self._began_s is not None

    def busy_s(self) -> float:
        """Seconds that the present series is being worked on; 0 when none is."""
        began_s = self._began_s
        return 0.0 if began_s is None else self._clock.monotonic() - began_s

    def turn(self) -> float:
        """Work on the series that comes next; returns the seconds nothing will be due."""
        # Only this thread works: what is left at this point was given up by an error of the journal.
        for left in self._journal.in_state(SeriesState.WORKING):
            self._put_off_for_storage(left, BackendError("storage_failed", "The journal could not be written."))
        ready = self._journal.in_state(SeriesState.READY)
        now_s = self._clock.wall()
        row = next_series(ready, now_s)
        if row is None:
            return min(
                (other.retry_at_s - now_s for other in ready if other.retry_at_s is not None), default=_LONGEST_S
            )
        self._began_s = self._clock.monotonic()
        try:
            self._work(row)
        finally:
            self._began_s = None
        return 0.0

    def _work(self, row: SeriesRow) -> None:
        if row.missing:
            text = f"{row.missing} of {row.objects} images are not kept any more, so the series is not complete."
            self._give_up(row, SeriesError("images_missing", text, "Send the whole series again."))
            return
        if row.tries >= self._config.tries.analysis and row.retry_at_s is None:
            text = f"The node ended {row.tries} times while it worked on this series."
            self._give_up(row, BackendError("crashed", text, "Look into the log of the system."))
            return
        if not self._journal.begin(row.series_uid, row.generation):
            return
        tries = row.tries + 1
        try:
            failure = self._answer(row, last_try=tries >= self._config.tries.analysis)
        except StorageError:
            raise
        except OutputError as error:
            self._put_off_for_storage(row, error)
            return
        except SeriesError as error:
            self._give_up(row, error)
            return
        except Exception as error:
            failure = as_onfh_error(error)
        if failure is not None and tries >= self._config.tries.analysis:
            self._give_up(row, failure)
        elif failure is not None:
            self._put_off(row, tries, failure)

    def _answer(self, row: SeriesRow, *, last_try: bool) -> OnfhError | None:
        """Answer a series; returns what kept it from an answer.

        Raises:
            OutputError: the results cannot be written.
            SeriesError: no try will ever answer this.
        """
        route = route_named(row.route, self._config)
        found = self._arrivals.found(self._journal.objects_of(row.series_uid))
        work = _Work(row, self._results.of(row, route), found, last_try)
        try:
            _check_study(row, found)
            rules = self._bundle.content.series
            chosen, left_out = eligible(found.candidates, rules)
            work.results.remember(chosen)
            for candidate in by_preference(chosen, rules):
                self._part(work, candidate)
                if work.failure is not None and not last_try:
                    return work.failure
                if self._is_out_of_date(row):
                    return None
            skipped = [*found.skipped, *left_out]
            work.results.finish(skipped)
            if work.failure is None:
                if self._watch.overdue(row) and len(work.in_time) == len(work.statuses) > 0:
                    for analysis in work.in_time:  # the deadline passed while they were written
                        work.results.write(self._called_late(row, analysis))
                    work.results.finish(skipped)
                self._answered(work)
            return work.failure
        finally:
            self._arrivals.release(found)

    def _part(self, work: _Work, candidate: Candidate) -> None:
        analysis = self._analyse(candidate, work.found.known.get(candidate.part, {}))
        result, timing = analysis.result, analysis.clock.timing
        work.engine_ms += timing.classify + timing.segment
        if result.status == "failed" and result.reason is not None:
            work.failure = BackendError(result.reason.code, result.reason.text)
        if self._is_out_of_date(work.row) or (work.failure is not None and not work.last_try):
            return
        if self._watch.overdue(work.row):
            analysis = self._called_late(work.row, analysis)
        elif work.row.deadline_at_s is not None:
            work.in_time.append(analysis)
        try:
            written = work.results.write(analysis)
        except OutputError:
            raise
        except Exception as error:  # it cannot be put into words
            work.failure = as_onfh_error(error)
            if not work.last_try:
                return
            failed = without_answer(
                candidate, work.failure, bundle=self._bundle, engine=result.engine, clock=analysis.clock
            )
            written = work.results.write(failed)
        work.statuses.append(written.result.status)

    def _answered(self, work: _Work) -> None:
        row, results = work.row, work.results
        heard_s = self._arrivals.heard_s(row.series_uid)
        latency_ms = outside_ms = None
        if heard_s is not None:
            latency_ms = (self._clock.monotonic() - heard_s) * 1000
            outside_ms = max(0.0, latency_ms - work.engine_ms)
        outcome = next((status for status in work.statuses if status != "succeeded"), "succeeded")
        outcome = outcome if work.statuses else "skipped"
        late = self._watch.overdue(row)
        if all(route.name != row.route for route in self._config.routes):
            log_event(_log, logging.WARNING, "route_unknown", series_uid=row.series_uid, route=row.route)
        destinations = [one for one in self._config.destinations if one.name in results.route.destinations]
        deliveries = deliveries_of(results, destinations)
        if not self._journal.answered(
            row.series_uid,
            row.generation,
            outcome=outcome,
            folder=results.folder,
            latency_ms=latency_ms,
            outside_engine_ms=outside_ms,
            deadline_missed=late,
            deliveries=deliveries,
        ):
            return  # an image came meanwhile
        self._storage_failures = 0
        if deliveries:
            self._deliver()
        self._metrics.answered(
            row.route,
            outcome,
            latency_s=None if latency_ms is None else latency_ms / 1000,
            outside_s=None if outside_ms is None else outside_ms / 1000,
            deadline_missed=late,
        )
        log_event(
            _log,
            logging.INFO,
            "series_answered",
            study_uid=row.study_uid,
            series_uid=row.series_uid,
            route=row.route,
            outcome=outcome,
            generation=row.generation,
            tries=row.tries + 1,
            objects=row.objects,
            latency_ms=latency_ms,
            outside_engine_ms=outside_ms,
            deadline_missed=late,
        )
        self._tell_of("result", row)

    def _is_out_of_date(self, row: SeriesRow) -> bool:
        now = self._journal.series(row.series_uid)
        return now is None or now.generation != row.generation

    def _called_late(self, row: SeriesRow, analysis: Analysis) -> Analysis:
        route = route_named(row.route, self._config)
        allowed = (row.deadline_at_s or 0.0) - row.last_s
        text = f"The answer came later than the {allowed:g} s that the route {route.name} allows after the last image."
        return analysis.replace(warnings=(*analysis.result.warnings, Note(code="deadline_missed", text=text)))

    def _put_off_for_storage(self, row: SeriesRow, failure: OnfhError) -> None:
        """The disk's fault, not the series': no try of the series, but waited for longer each time."""
        self._storage_failures += 1
        self._put_off(row, self._storage_failures, failure, counts=False)

    def _put_off(self, row: SeriesRow, tries: int, failure: OnfhError, *, counts: bool = True) -> None:
        waits = self._config.tries.backoff_s
        wait_s = waits[min(max(tries, 1), len(waits)) - 1]
        retry_at_s = self._clock.wall() + wait_s
        if self._journal.put_off(row.series_uid, row.generation, retry_at_s, failure.code, failure.text, counts=counts):
            fields = {"series_uid": row.series_uid, "code": failure.code, "tries": tries, "seconds": wait_s}
            log_event(_log, logging.WARNING, "series_put_off", **fields)

    def _give_up(self, row: SeriesRow, failure: OnfhError) -> None:
        text = f"{failure.text} {failure.fix}".strip()
        if self._journal.set_aside(row.series_uid, row.generation, failure.code, text):
            self._metrics.set_aside(failure.code)
            log_event(_log, logging.ERROR, "series_set_aside", series_uid=row.series_uid, code=failure.code)
            self._tell_of("set_aside", row)

    def _tell_of(self, event: Literal["result", "set_aside"], row: SeriesRow) -> None:
        now = self._journal.series(row.series_uid)
        if now is not None:
            self._tell(event, now)


def _check_study(row: SeriesRow, found: Found) -> None:
    """One study, and at least one object that can be read.

    Raises:
        SeriesError: ``mixed_study``, or the code of the first object that cannot be read.
    """
    studies = {one.study_instance_uid for one in found.candidates} | {one.study_instance_uid for one in found.skipped}
    if studies - {row.study_uid}:
        raise SeriesError("mixed_study", f"The objects of the series name {len(studies | {row.study_uid})} studies.")
    if not studies and found.unreadable:
        code, text = found.unreadable[0]
        raise SeriesError(code, text, "Send the series again.")
