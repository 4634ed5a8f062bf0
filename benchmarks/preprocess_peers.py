"""Preprocessing beside MONAI and SimpleITK: an axial volume in memory to a coronal stack of 60 slices as stage inputs.

The same volume, two cores for each, in turns within one run; answers are compared before times are. The peers run in
their own environment (`make bench-peers` makes it), each in a process that stays.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from peers import PEERS, PEERS_PYTHON, show
from peers import _versions as peer_versions
from processes import Kept
from records import command_line
from suite_cases import FULL, TINY, Sizes, axial_volume

from onfh_runtime.measure.record import record
from onfh_runtime.measure.statistics import paired_ratio, spread

THREADS = 2
WINDOW = (-500.0, 1500.0)
WAYS = {
    "monai_spacing_resize": ("monai", "spacing"),
    "monai_area_resize": ("monai", "area"),
    "simpleitk_averaged": ("simpleitk", "averaged"),
    "simpleitk_points": ("simpleitk", "points"),
}
LIMITS = {"monai_spacing_resize": 0.02, "monai_area_resize": 0.01, "simpleitk_averaged": 0.01, "simpleitk_points": 0.02}
"""Largest mean of the absolute differences, of a window of 2000 HU as 0..1: points keep the noise of single voxels."""
TARGETS = {"monai_spacing_resize": 6.0, "simpleitk_averaged": 1.0}
NOT_MEASURED = (
    "Reading, which preprocessing hides behind when series follow each other.",
    "What MONAI's reader costs to give float32, and its turn to coronal: both are done before the peer's time begins.",
    "More threads than two, other volumes, a GPU.",
    "Quality: slices that SimpleITK and MONAI sample at points leave out most of the volume, and keep its noise.",
)


def write_case(folder: Path, sizes: Sizes) -> Path:
    """The volume, HU int16, and what is wanted of it."""
    volume = axial_volume(sizes.thin, sizes.matrix)
    np.save(folder / "volume.npy", (volume.voxels - 1024).astype(np.int16))
    case = {
        "volume": str(folder / "volume.npy"),
        "affine_lps": volume.affine.tolist(),
        "slice_spacing_mm": volume.voxels.shape[1] * volume.spacing_mm[1] / sizes.stack,
        "sides": sizes.inputs,
        "window": WINDOW,
        "threads": THREADS,
    }
    path = folder / "case.json"
    path.write_text(json.dumps(case))
    return path


def difference(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> float:
    """Mean of the absolute differences; infinite when a shape or a number is wrong."""
    if ours.shape != theirs.shape or not np.isfinite(theirs).all():
        return float("inf")
    return float(np.abs(ours - theirs).mean())


def measure(folder: Path, sizes: Sizes, rounds: int) -> dict[str, Any]:
    """Every way and every side in turns; ratios only where the answers agree."""
    case = write_case(folder, sizes)
    with ExitStack() as opened:
        kept = {}
        for name in ("onfh", "monai", "simpleitk"):
            python = sys.executable if name == "onfh" else PEERS_PYTHON
            command = [python, PEERS / f"{name}_preprocess.py", case, "--out", folder / f"{name}.npz"]
            kept[name] = opened.enter_context(Kept(command, folder / f"{name}.log"))
        times: dict[tuple[str, str], list[float]] = {
            (n, task): [] for n, process in kept.items() for task in process.tasks
        }
        for turn in range(rounds + 1):
            for (name, task), taken in times.items():
                seconds = kept[name].seconds(task)
                if turn:
                    taken.append(seconds)
        peaks = {name: process.finish() for name, process in kept.items()}
    answers = {name: np.load(folder / f"{name}.npz") for name in kept}
    results: dict[str, Any] = {}
    for side in sizes.inputs:
        ours = times["onfh", f"input_{side}"]
        found: dict[str, Any] = {"onfh": {"seconds": spread(ours)}}
        for way, (name, task) in WAYS.items():
            theirs = times[name, f"{task}_{side}"]
            differs = difference(answers["onfh"][f"input_{side}"], answers[name][f"{task}_{side}"])
            agrees = differs <= LIMITS[way]
            found[way] = {"mean_difference": differs, "limit": LIMITS[way], "seconds": spread(theirs)}
            found[way] |= {"over_onfh": paired_ratio(theirs, ours)} if agrees else {"ratio": "refused: other answers"}
            if way in TARGETS:
                found[way]["target"] = TARGETS[way]
        results[f"input_{side}"] = found
    return {**results, "peak_mb": peaks}


def main() -> int:
    """Measure and print; write a record where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=9, help="after one that is not counted (default: %(default)s)")
    parser.add_argument("--smoke", action="store_true", help="a small volume: does it still work?")
    parser.add_argument("--json", type=Path, help="write the record here")
    options = parser.parse_args()
    if not PEERS_PYTHON.exists():
        raise SystemExit("The peers' environment is missing: run `make bench-peers`.")
    sizes = TINY if options.smoke else FULL
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:THREADS])
    with tempfile.TemporaryDirectory() as name:
        results = measure(Path(name), sizes, options.rounds)
    show(results)
    if options.json:
        settings = {"rounds": options.rounds, "threads": THREADS, "window_hu": WINDOW, "smoke": options.smoke}
        settings |= {"volume": [sizes.thin, sizes.matrix, sizes.matrix], "slices": sizes.stack}
        made = record(
            "preprocess-peers",
            command_line(__file__, parser, options),
            settings=settings,
            results=results,
            does_not_measure=NOT_MEASURED,
        )
        made["peers"] = peer_versions()
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(made, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
