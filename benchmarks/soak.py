"""A node under faults, and over many studies: nothing lost, nothing double, memory flat.

Every part runs ``onfh listen`` with the demo bundle as a process of its own, between dcmtk's storescu and storescp, on
small phantoms. Held to account at the end of each: every acknowledged object is in the spool as it was sent, every
complete series has one answer of all its images, every answer is in the archive, and no two reports there are about
the same images.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from listen_faults import crowd, cut_off, destination_down, full_disk, killed, stalled
from listen_memory import memory

from onfh_runtime.measure.record import record

PARTS: dict[str, tuple[Callable[..., dict[str, Any]], dict[str, Any], dict[str, Any]]] = {
    "killed": (killed, {"kills": 200}, {"kills": 10}),
    "full_disk": (full_disk, {}, {}),
    "destination_down": (destination_down, {"series": 10, "down_s": 60.0}, {"series": 2, "down_s": 3.0}),
    "crowd": (crowd, {"series": 40}, {"series": 40}),
    "cut_off": (cut_off, {"series": 20, "cuts": 5}, {"series": 3, "cuts": 2}),
    "stalled": (stalled, {"peers": 8}, {"peers": 4}),
    "memory": (
        memory,
        {"studies": 500, "over_s": 3600.0, "most_growth_percent": 5.0},
        {"studies": 15, "over_s": 0.0, "most_growth_percent": 15.0},
    ),
}
"""Each part with its counts, long and short."""

DOES_NOT_MEASURE = (
    "Power loss: kill -9 leaves what the kernel has; that objects are flushed before they are acknowledged is a test of"
    " its own.",
    "Full-sized series, other bundles, a GPU, a real network.",
    "The growth of the short form says little: its studies do not warm a process up.",
)


BESIDE = "memory"
"""The part that runs beside the others, whose hour is mostly waiting."""


def run(name: str, *, short: bool) -> dict[str, Any]:
    """Run one part; what keeps it from its end is one of its ``faults``."""
    function, *counts = PARTS[name]
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        try:
            figures = function(Path(folder) / name, **counts[short])
        except Exception as error:
            figures = {"faults": [f"{type(error).__name__}: {error}"]}
    return figures | {"seconds": time.monotonic() - start}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print, and write JSON where asked, after each part; 1 when a promise was not kept."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--short", action="store_true", help="the form of five minutes")
    parser.add_argument(
        "--only", nargs="+", choices=PARTS, default=list(PARTS), help="these, in this order; memory beside"
    )
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args(arguments)
    command = "python benchmarks/soak.py" + (" --short" if options.short else "")
    settings: dict[str, object] = {"bundle": "onfh-demo", "images": "30 coronal slices of 3 mm, pixels of 4 mm"}
    results: dict[str, dict[str, Any]] = {}
    with ThreadPoolExecutor(1) as pool:
        beside = {BESIDE: pool.submit(run, BESIDE, short=options.short)} if BESIDE in options.only else {}
        for name in sorted(options.only, key=lambda name: name in beside):
            results[name] = beside[name].result() if name in beside else run(name, short=options.short)
            settings[name] = PARTS[name][2 if options.short else 1]
            print(f"{name}: " + ", ".join(f"{key} {value}" for key, value in results[name].items()), flush=True)
            if options.json:
                left_out = DOES_NOT_MEASURE
                made = record("listen-soak", command, settings=settings, results=results, does_not_measure=left_out)
                options.json.write_text(json.dumps(made, indent=1) + "\n")
    faults = [f"{name}: {fault}" for name, figures in results.items() for fault in figures["faults"]]
    print("\n".join(faults) or "Nothing lost, nothing double.")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
