"""What an analysis costs beyond its backend calls: one study alone, and many in a row.

Three ways, each writing every output as ``onfh infer`` does: a whole process (imports, search, opening, one study); one
study through the lanes of an open pipeline; many studies in a row through them. Wall time is set against two sums of
backend calls:

* ``calls``, those of the same run, as the stages log them. In a row they share the cores with the lanes that read and
  write, which lengthens them: work hidden behind a call is partly paid for inside it, and this ratio does not see it.
* ``calls_alone``, those of the same study analysed step by step in one thread, before and after each run: nothing works
  beside them. This ratio sees all that is not the backend's.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Mapping
from itertools import repeat
from pathlib import Path
from typing import Any

from records import command_line
from spine import Run, infer_once
from suite_cases import FULL, TINY, axial_series, backend_calls, candidate_of, one_alone, open_demo, open_large

from onfh_runtime.bundle import LoadedBundle
from onfh_runtime.dicom import Candidate
from onfh_runtime.measure import paired_ratio, spread
from onfh_runtime.measure.record import record
from onfh_runtime.measure.runs import Write, written_below
from onfh_runtime.pipeline import Pipeline

DOES_NOT_MEASURE = (
    "A cold page cache: the first run of each kind warms it and does not count.",
    "Different studies: the same series is analysed again and again, so its files stay in the page cache.",
    "A GPU.",
    "What the large stages say: their weights are random, which changes no work; ten slices go on to stage 2.",
)


def in_lanes(pipeline: Pipeline, candidate: Candidate, count: int, write: Write) -> tuple[float, float, list[float]]:
    """``count`` studies through the lanes: seconds of wall time, seconds of backend calls, when each was answered."""
    answered = []
    start = time.perf_counter()
    with backend_calls() as calls:
        for analysis in pipeline.run(repeat(candidate, count), write):
            assert analysis.result.status == "succeeded", analysis.result.reason
            answered.append(time.perf_counter() - start)
    return answered[-1], calls.seconds, answered


def lanes(bundle: LoadedBundle, candidate: Candidate, count: int, turns: int, out: Path) -> dict[str, Any]:
    """``turns`` runs of ``count`` studies, between studies analysed step by step."""
    write = written_below(out, bundle)
    wall, calls, alone, steady = [], [], [], []
    with Pipeline(bundle, backend="onnxruntime") as pipeline:
        in_lanes(pipeline, candidate, 1, write)
        before, rows = one_alone(pipeline, candidate)
        for _ in range(turns):
            wall_s, calls_s, answered = in_lanes(pipeline, candidate, count, write)
            after, _ = one_alone(pipeline, candidate)
            wall.append(wall_s)
            calls.append(calls_s)
            alone.append(count * (before + after) / 2)
            if count > 2:  # the first study has nobody to hide behind, and nobody follows the last
                steady.append((answered[-2] - answered[0]) / (count - 2) - (before + after) / 2)
            before = after
    figures = {
        "studies": count,
        "rows_per_study": rows,
        "wall_s": spread(wall),
        "calls_s": spread(calls),
        "calls_alone_s": spread(alone),
        "wall_over_calls": paired_ratio(wall, calls),
        "wall_over_calls_alone": paired_ratio(wall, alone),
        "outside_calls_alone_s_per_study": spread([(w - a) / count for w, a in zip(wall, alone, strict=True)]),
    }
    return figures | ({"steady_outside_calls_alone_s_per_study": spread(steady)} if steady else {})


def whole(bundle: LoadedBundle, study: Path, turns: int, out: Path) -> dict[str, Any]:
    """Whole `onfh infer` processes, one study each."""
    runs: list[Run] = [infer_once(study, bundle.root, out) for _ in range(turns + 1)][1:]
    return {
        "rows": runs[0].rows,
        "wall_s": spread([run.wall_s for run in runs]),
        "calls_s": spread([run.calls_s for run in runs]),
        "wall_over_calls": paired_ratio([run.wall_s for run in runs], [run.calls_s for run in runs]),
        "outside_calls_s": spread([run.wall_s - run.calls_s for run in runs]),
    }


def case(bundle: LoadedBundle, study: Path, row: int, turns: Mapping[str, int], folder: Path) -> dict[str, Any]:
    """Every way of one bundle."""
    candidate, out = candidate_of(study), folder / "out"
    return {
        "whole_process": whole(bundle, study, turns["whole"], out),
        "one_study": lanes(bundle, candidate, 1, turns["one"], out),
        "row": lanes(bundle, candidate, row, turns["row"], out),
    }


def show(figures: Mapping[str, Any]) -> None:
    """Print the figures, a spread on one line."""
    for way, values in figures.items():
        for name, value in values.items():
            if isinstance(value, dict) and "median" in value:
                said = f"{value['median']:9.3f}  ({value['min']:.3f} to {value['max']:.3f}, {value['count']} runs)"
                print(f"  {way:14} {name:40} {said}")


def main() -> int:
    """Measure and print everything; write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--row", type=int, default=20, help="studies in a row (default: %(default)s)")
    parser.add_argument("--turns", type=int, default=7, help="counted runs, demo bundle (default: %(default)s)")
    parser.add_argument("--large-turns", type=int, default=3, help="of one study (default: %(default)s)")
    parser.add_argument("--large-row-turns", type=int, default=1, help="of many studies (default: %(default)s)")
    parser.add_argument("--no-large", action="store_true", help="leave out ViT-B/16 + UperNet-Swin-T (needs torch)")
    parser.add_argument("--smoke", action="store_true", help="a small study, the demo bundle: does it still work?")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    sizes = TINY if options.smoke else FULL
    row = 3 if options.smoke else options.row
    demo_turns = dict.fromkeys(("whole", "one", "row"), 1 if options.smoke else options.turns)
    large_turns = {"whole": options.large_turns, "one": options.large_turns, "row": options.large_row_turns}
    settings = {"slices": sizes.axial, "matrix": sizes.matrix, "row": row, "demo": demo_turns, "large": large_turns}
    results = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        study = axial_series(folder / "study", sizes.axial, sizes.matrix)
        for bundle in ("demo",) if options.smoke or options.no_large else ("demo", "large"):
            opened, turns = (
                (open_demo(), demo_turns) if bundle == "demo" else (open_large(folder / bundle), large_turns)
            )
            results[bundle] = case(opened, study, row, turns, folder)
            print(bundle)
            show(results[bundle])
            if options.json:
                command = command_line(__file__, parser, options)
                made = record(
                    "overhead", command, settings=settings, results=results, does_not_measure=DOES_NOT_MEASURE
                )
                options.json.parent.mkdir(parents=True, exist_ok=True)
                options.json.write_text(json.dumps(made, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
