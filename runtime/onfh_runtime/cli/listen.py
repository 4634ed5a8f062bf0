"""``onfh listen``: the DICOM node."""

from __future__ import annotations

import argparse
import signal
import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from onfh_runtime.cli.infer import demo_bundle
from onfh_runtime.errors import MissingExtraError

if TYPE_CHECKING:
    from onfh_runtime.listen.config import ListenConfig
    from onfh_runtime.listen.records import SeriesRow

__all__ = ["HELP", "add_arguments", "run"]

HELP = "Receive CT series as a DICOM node, analyse each when it is complete, and send the answers on."

_EXTRA = ("prometheus_client", "pynetdicom", "yaml")
_LOOK_S = 0.2
"""How often the main thread looks whether it was told to stop."""

_SHOWN = 10
"""Series that --status lists."""

_FIGURES_OF = 1000
"""Answers that the latencies of --status are taken from."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``onfh listen``."""
    parser.add_argument("--config", metavar="FILE", type=Path, required=True, help="the YAML file that says all")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--check-config", action="store_true", help="say what is wrong with FILE, and start nothing")
    what.add_argument("--status", action="store_true", help="say how the node of FILE is doing; it may be running")


def run(options: argparse.Namespace) -> int:
    """Run ``onfh listen``.

    Raises:
        OnfhError: the configuration, the bundle or the folder cannot be used, or the extra ``listen`` is missing.
    """
    try:
        from onfh_runtime.listen.config_file import config_from_yaml

        config = config_from_yaml(options.config)
        if options.check_config:
            return _check(options.config, config)
        if options.status:
            return _status(config)
        return _serve(config)
    except ModuleNotFoundError as error:
        if error.name not in _EXTRA:
            raise
        text = f"onfh listen needs {error.name}, which is not installed."
        raise MissingExtraError("missing_extra", text, "pip install 'onfh-edge[listen]'") from error


def _serve(config: ListenConfig) -> int:
    from onfh_runtime.bundle import load_bundle
    from onfh_runtime.listen.log import configure_logging
    from onfh_runtime.listen.node import Node

    configure_logging(level=config.log.level, layout=config.log.format)
    told: list[int] = []

    def on_signal(number: int, frame: object) -> None:
        told.append(number)
        for one in (signal.SIGTERM, signal.SIGINT):
            signal.signal(one, signal.SIG_DFL)  # who asks twice does not want to wait

    node = Node(config, load_bundle(config.bundle or demo_bundle()))
    for one in (signal.SIGTERM, signal.SIGINT):
        signal.signal(one, on_signal)
    node.start()
    # The system may give the signal to any thread; Python answers it in this one, which a lock would not wake.
    while not told:
        time.sleep(_LOOK_S)
    node.stop()
    return 0


def _check(path: Path, config: ListenConfig) -> int:
    from onfh_runtime.bundle import load_bundle
    from onfh_runtime.listen.config_checks import warnings_here, warnings_of

    bundle = load_bundle(config.bundle or demo_bundle())
    for warning in warnings_of(config) + warnings_here(config):
        print(f"Note: {warning}")
    print(f"{path} is in order. Bundle: {bundle.content.name} {bundle.content.version}.")
    return 0


def _status(config: ListenConfig) -> int:
    """Read the journal beside the node; nothing is changed."""
    from onfh_runtime.listen.journal_view import JournalView
    from onfh_runtime.listen.latency import latencies_of
    from onfh_runtime.listen.lock import is_locked

    journal = JournalView(config.state_dir / "journal.sqlite")
    try:
        running = "running" if is_locked(config.state_dir) else "not running"
        counts, recent = journal.counts(), journal.recent(_FIGURES_OF)
    finally:
        journal.close()
    print(f"The node in {config.state_dir} is {running}.")
    states = ("receiving", "ready", "working", "answered", "set_aside")
    print("Series:     " + ", ".join(f"{counts[state]} {state.replace('_', ' ')}" for state in states))
    print(
        "Deliveries: " + ", ".join(f"{counts[f'deliveries_{state}']} {state}" for state in ("pending", "sent", "dead"))
    )
    print(f"Images:     {counts['objects']} kept, {counts['object_bytes'] / 1e6:.0f} MB")
    figures = latencies_of(recent)
    if figures is not None:
        print(f"Latency of the last {figures.answers} answers, p50, p90, p99:")
        print(f"  last image to result {_seconds(figures.latency_ms)}")
        print(f"  outside the engine   {_seconds(figures.outside_engine_ms)}")
        print(f"  deadlines missed     {figures.deadlines_missed}")
    for row in recent[:_SHOWN]:
        print(_line(row))
    return 0


def _seconds(ms: tuple[float, ...]) -> str:
    return ", ".join(f"{value / 1000:.2f} s" for value in ms)


def _line(row: SeriesRow) -> str:
    said = row.outcome if row.state.value == "answered" and row.outcome else row.state.value
    latency = f" in {row.latency_ms / 1000:.2f} s" if row.state.value == "answered" and row.latency_ms else ""
    code = f" [{row.code}]" if row.code else ""
    moment = datetime.fromtimestamp(row.last_s).strftime("%Y-%m-%d %H:%M:%S")
    return f"{moment}  {row.series_uid}  {row.objects} images  {said.replace('_', ' ')}{latency}{code}"
