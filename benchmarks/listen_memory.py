"""Memory, threads and open files of a node over many studies."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from listen_faults import site

MORE = 4
"""Threads, and open files, that may come and go."""


def memory(root: Path, *, studies: int, over_s: float, most_growth_percent: float) -> dict[str, Any]:
    """Send studies one after the other, evenly over a time, and watch what the node holds.

    The first tenth warms up. Growth is the median resident memory of the last tenth over that of the second tenth.
    """
    samples: list[dict[str, int]] = []
    with site(root) as at:
        at.node.start()
        sent, start = [], time.monotonic()
        for number in range(studies):
            time.sleep(max(0.0, start + number * over_s / studies - time.monotonic()))
            series = at.scanner.series(number)
            at.scanner.send(at.node.port, series.paths, series)
            sent.append(series)
            at.node.rest(number + 1)
            samples.append(at.node.resources())
        took_s = time.monotonic() - start
        figures = at.audited(sent, took_s=took_s)
        at.node.stop()
    held, faults = growth(samples, most_growth_percent)
    return figures | held | {"faults": figures["faults"] + faults}


def growth(samples: Sequence[dict[str, int]], most_growth_percent: float) -> tuple[dict[str, Any], list[str]]:
    """What a node held, of a sample after each study; and a sentence for each thing that grew too much."""
    tenth = max(1, len(samples) // 10)
    warm, last = samples[tenth : 2 * tenth], samples[-tenth:]
    held: dict[str, Any] = {}
    for name in ("rss_kb", "threads", "open_files"):
        values = [sample[name] for sample in samples]
        early, late = (statistics.median(sample[name] for sample in part) for part in (warm, last))
        held[name] = {"first": values[0], "warm": early, "last": late, "most": max(values)}
    tenths = [samples[k : k + tenth] for k in range(0, len(samples), tenth)]
    held["rss_kb"]["by_tenth"] = [statistics.median(sample["rss_kb"] for sample in part) for part in tenths]
    percent = held["rss_growth_percent"] = 100 * (held["rss_kb"]["last"] / held["rss_kb"]["warm"] - 1)
    faults = [f"resident memory grew by {percent:.1f} %"] if percent > most_growth_percent else []
    for name in ("threads", "open_files"):
        early, late = held[name]["warm"], held[name]["last"]
        faults += [f"{name} grew from {early:g} to {late:g}"] if late > early + MORE else []
    return held, faults
