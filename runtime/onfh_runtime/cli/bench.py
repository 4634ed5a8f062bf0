"""``onfh bench``: how fast a bundle answers here."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from onfh_runtime.cli.infer import demo_bundle
from onfh_runtime.cli.progress import Progress

if TYPE_CHECKING:
    from onfh_runtime.measure.runs import How
    from onfh_runtime.measure.workload import Workload

__all__ = [
    "HELP",
    "Told",
    "add_arguments",
    "add_common_arguments",
    "command_line",
    "how",
    "measured_study",
    "run",
    "whole",
]

HELP = (
    "Measure latency (single stream) and throughput (offline) on one series of STUDY, or on a phantom. Nothing is kept "
    "but what is printed."
)


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what ``onfh bench`` and ``onfh profile`` share."""
    parser.add_argument("study", metavar="STUDY", nargs="?", type=Path, help="DICOM files (default: a phantom)")
    parser.add_argument(
        "--bundle", metavar="DIR", type=Path, default=demo_bundle(), help="what to run (default: the demo bundle)"
    )
    parser.add_argument("--backend", default="auto", help="as for onfh infer (default: %(default)s)")
    parser.add_argument("--gpu", type=whole(0), default=0, metavar="N", help="which GPU, from 0 (default: %(default)s)")
    parser.add_argument("--threads", type=whole(0), default=0, metavar="N", help="threads to use (default: every core)")
    parser.add_argument(
        "--no-graphs", action="store_true", help="TensorRT: queue every layer instead of one CUDA graph for each batch"
    )
    parser.add_argument(
        "--positive-fraction",
        type=_share,
        metavar="F",
        help="override the gate: the most probable share F of the slices goes on to stage 2, whatever they score; puts "
        "a phantom or an untrained bundle under a stated load (default: the bundle's gate)",
    )
    parser.add_argument(
        "--slices", type=whole(20), default=120, metavar="N", help="of the phantom (default: %(default)s)"
    )
    parser.add_argument(
        "--matrix", type=whole(64), default=512, metavar="N", help="rows of the phantom (default: %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print the record as JSON to stdout and nothing else")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``onfh bench``."""
    add_common_arguments(parser)
    parser.add_argument(
        "--duration", type=_seconds, default=10.0, metavar="S", help="seconds of each scenario (default: %(default)s)"
    )
    parser.add_argument(
        "--warm-up", type=_seconds, default=2.0, metavar="S", help="seconds before each (default: %(default)s)"
    )
    parser.add_argument(
        "--iterations",
        type=whole(1),
        default=10,
        metavar="N",
        help="series at least in each scenario; a 99th percentile needs 100 (default: %(default)s)",
    )
    parser.add_argument(
        "--in-flight",
        type=whole(1),
        metavar="N",
        help="offline: hand over N series at once, and N more when all are answered (default: without end, of which "
        "the pipeline takes as many as it has room for)",
    )
    parser.add_argument(
        "--cold-starts", type=whole(0), default=3, metavar="N", help="fresh processes to time (default: %(default)s)"
    )
    parser.add_argument("--no-write", action="store_true", help="leave the answers in memory: write no outputs")


def run(options: argparse.Namespace) -> int:
    """Run ``onfh bench``."""
    from onfh_runtime.measure.bench import bench
    from onfh_runtime.measure.scenarios import Load
    from onfh_runtime.measure.words import bench_table

    told = Told()
    with tempfile.TemporaryDirectory() as name:
        study, workload = measured_study(options, Path(name), told)
        found = bench(
            workload,
            how(options),
            Load(options.warm_up, options.duration, options.iterations, options.in_flight),
            command=command_line("bench", options),
            study=study,
            positive_fraction=options.positive_fraction,
            cold_starts=options.cold_starts,
            out=None if options.no_write else Path(name) / "out",
            told=told,
        )
    told.close()
    if options.json:
        json.dump(found, sys.stdout, indent=1, allow_nan=False)
        print()
    else:
        print(bench_table(found))
    return 0


class Told:
    """Shows what is measured, and how far it is."""

    def __init__(self) -> None:
        self._progress, self._now = Progress(""), ""

    def __call__(self, what: str, done: float) -> None:
        """Show that ``what`` is done to this share, 0 to 1."""
        if what != self._now:
            self._now = what
            self._progress.begin(what)
        self._progress.at(int(100 * done), 100)

    def close(self) -> None:
        """Take the bar away."""
        self._progress.close()


def measured_study(options: argparse.Namespace, folder: Path, told: Told) -> tuple[Path, Workload]:
    """The study to measure, made now where none was named, and its series with the bundle's own gate.

    Raises:
        UsageError: there is nothing to measure.
        BundleError: the bundle is unusable.
    """
    from onfh_runtime.bundle import load_bundle
    from onfh_runtime.measure.workload import workload_from_study, write_phantom

    bundle, study = load_bundle(options.bundle), options.study
    if study is None:
        told("making a phantom", 0.0)
        study = write_phantom(folder / "phantom", slices=options.slices, matrix=options.matrix)
    return study, workload_from_study(study, bundle)


def how(options: argparse.Namespace) -> How:
    """How the stages are to be opened."""
    from onfh_runtime.measure.runs import How

    return How(options.backend, options.threads, options.gpu, not options.no_graphs)


def command_line(name: str, options: argparse.Namespace) -> str:
    """The command for the record: paths are left out, they may name a patient."""
    words = ["onfh", name]
    for key, value in sorted(vars(options).items()):
        if value is None or value is False or key in ("json", "verbose"):
            continue
        if isinstance(value, Path):
            words += ["STUDY"] if key == "study" else [f"--{key}", key.upper()]
        else:
            words.append(f"--{key.replace('_', '-')}" + ("" if value is True else f" {value}"))
    return " ".join(words)


def whole(least: int) -> Callable[[str], int]:
    """Reads a whole number of ``least`` or more."""

    def read(text: str) -> int:
        with suppress(ValueError):
            if int(text) >= least:
                return int(text)
        raise argparse.ArgumentTypeError(f"{text} is no whole number of {least} or more")

    return read


def _number(least: float, most: float, what: str) -> Callable[[str], float]:
    def read(text: str) -> float:
        with suppress(ValueError):
            if least <= float(text) <= most:
                return float(text)
        raise argparse.ArgumentTypeError(f"{text} is no {what}")

    return read


_seconds = _number(0.0, sys.float_info.max, "number of seconds")
_share = _number(0.0, 1.0, "number between 0 and 1")
