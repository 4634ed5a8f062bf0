"""The ``onfh`` command: finds its subcommands through entry points and imports only the one that runs."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import warnings
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import TextIO

from onfh_runtime import __version__
from onfh_runtime.errors import OnfhError
from onfh_runtime.private_log import hush_quoting_packages

__all__ = ["main"]

GROUP = "onfh.commands"
INTERRUPTED = 130
CLOSED_PIPE = 141
"""What a shell reports of a command that writes into a closed pipe."""
SUMMARIES = {
    "demo": "make a phantom study and analyse it with the demo bundle",
    "infer": "analyse every CT series below some folders",
    "inspect": "say what is in a bundle and whether it is whole",
    "doctor": "say what this machine has and what is missing",
    "export": "turn two trained stages into a bundle",
    "train": "train both stages from a folder of labelled series",
    "evaluate": "hold predictions against labelled cases: tables with confidence intervals, and a page",
    "listen": "receive CT series as a DICOM node, analyse them and send the answers on",
    "bench": "measure latency, throughput and cold start of a bundle on this machine",
    "profile": "write a timeline of a study and say what bounds it",
    "calibrate": "freeze a threshold on validation cases, into a new version of a bundle",
}
"""One line for each command of this distribution, so that ``onfh --help`` imports none of them."""


def main(argv: list[str] | None = None) -> int:
    """Run ``onfh``; returns the exit code of design: 0, 1, 2, 3 or 130."""
    arguments = sys.argv[1:] if argv is None else argv
    commands = {entry.name: entry for entry in entry_points(group=GROUP)}
    parser = argparse.ArgumentParser(
        prog="onfh",
        description="Analyses hip CT for osteonecrosis of the femoral head. Research use only, not for diagnosis.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="commands:\n"
        + "\n".join(f"  {name:10} {SUMMARIES.get(name, '')}" for name in sorted(commands, key=_order))
        + "\n\n`onfh COMMAND --help` says more.",
    )
    parser.add_argument("--version", action="version", version=f"onfh-edge {__version__}")
    parser.add_argument("command", metavar="COMMAND", choices=sorted(commands), help="one of the commands below")
    options = parser.parse_args(arguments[:1] or ["--help"])
    return _run(commands[options.command], arguments[1:])


def _run(entry: EntryPoint, arguments: list[str]) -> int:
    try:
        command = import_module(entry.value)
        parser = argparse.ArgumentParser(prog=f"onfh {entry.name}", description=command.HELP)
        parser.add_argument("--verbose", action="store_true", help="print what happens inside, for bug reports")
        command.add_arguments(parser)
        options = parser.parse_args(arguments)
        logging.basicConfig(
            stream=sys.stderr,
            level=logging.INFO if options.verbose else logging.CRITICAL,
            format="%(levelname)s %(name)s: %(message)s",
        )
        hush_quoting_packages()
        with warnings.catch_warnings():
            warnings.showwarning = _place_of_warning
            if not options.verbose:
                warnings.simplefilter("ignore")
            return int(command.run(options))
    except OnfhError as error:
        print(f"onfh {entry.name}: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        # The reader of our output left, as `head` does; what is still in the buffer goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CLOSED_PIPE
    except KeyboardInterrupt:
        print(f"onfh {entry.name}: interrupted; what was finished is whole.", file=sys.stderr)
        return INTERRUPTED


def _place_of_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Print kind and place of a warning, not its text: pydicom and highdicom quote the values of a header."""
    print(f"{category.__name__} {filename}:{lineno}", file=sys.stderr)


def _order(name: str) -> int:
    known = list(SUMMARIES)
    return known.index(name) if name in known else len(known)


if __name__ == "__main__":
    sys.exit(main())
