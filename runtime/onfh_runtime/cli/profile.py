"""``onfh profile``: where the time of a study goes, and what bounds it."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from onfh_runtime.cli.bench import Told, add_common_arguments, command_line, how, measured_study, whole

__all__ = ["HELP", "add_arguments", "run"]

HELP = (
    "Analyse one series of STUDY (or a phantom) several times, write a timeline that Perfetto opens, and hold every "
    "step against what this machine can do."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``onfh profile``."""
    add_common_arguments(parser)
    parser.add_argument("--runs", type=whole(1), default=5, metavar="N", help="studies in a row (default: %(default)s)")
    parser.add_argument(
        "--out", metavar="FILE", type=Path, default=Path("trace.json"), help="the timeline (default: %(default)s)"
    )


def run(options: argparse.Namespace) -> int:
    """Run ``onfh profile``.

    Raises:
        OutputError: the timeline cannot be written.
    """
    from onfh_runtime.errors import OutputError
    from onfh_runtime.measure.profile import profile
    from onfh_runtime.measure.words import profile_table
    from onfh_runtime.outputs.files import ensure_writable, write_atomically

    told = Told()
    if options.out.is_dir():
        raise OutputError("output_unwritable", f"{options.out} is a folder.", "Name the file: --out trace.json")
    ensure_writable(options.out.resolve().parent)
    with tempfile.TemporaryDirectory() as name:
        _, workload = measured_study(options, Path(name), told)
        found, trace = profile(
            workload,
            how(options),
            Path(name) / "out",
            command=command_line("profile", options),
            runs=options.runs,
            positive_fraction=options.positive_fraction,
            told=told,
        )
    told.close()
    write_atomically(options.out, json.dumps(trace, allow_nan=False).encode())
    if options.json:
        json.dump(found, sys.stdout, indent=1, allow_nan=False)
        print()
    else:
        print(profile_table(found))
        print(f"\ntimeline: {options.out} (open it in Perfetto or chrome://tracing)")
    return 0
