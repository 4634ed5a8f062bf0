"""What the statistics of an evaluation cost at the study's size, and HD95 beside MONAI's.

Tables: 53,828 slices of 2,312 patients at four sites, scores drawn at random. For each site and for the three internal
ones together, at the level of slices, patients and sides: counts and rates, the ROC curve, DeLong's interval (of
patients), Brier score, calibration curve and fit, and 2,000 bootstrap rounds over patients of seven figures; then two
runs compared over all slices and patients. A process of its own each time: wall time of the work without imports and of
the whole process, and the operating system's peak memory.

The command: the same cases as two CSV files, through `onfh evaluate`: reading, joining, the tables of slices and of
patients with 2,000 rounds, the document, the Markdown and the page, written.

Distances: both take the same masks of 512 x 512 in turn, block by block, so whatever else the machine does meets both
alike: ratios are of the same block, medians are quoted with their spread. Both run on one thread and take one pair at a
time, MONAI as tensors that are there already: on a busy machine it is slower with two threads or with whole batches.

Not measured: result folders instead of a CSV, volumes, a GPU.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# numpy and torch are imported where they are used: a child's peak memory starts at what its parent holds.

SLICES, PATIENTS, SITES, ROUNDS = 53_828, 2_312, 4, 2_000
SPACING_MM = (0.7, 0.7)
BLOCK = 100


def spread(values: list[float]) -> dict[str, float]:
    """Minimum, median and maximum."""
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


def tables(slices: int = SLICES, patients: int = PATIENTS, rounds: int = ROUNDS) -> dict[str, float]:
    """Compute every table once; the child's work."""
    import numpy as np

    from onfh_runtime import evaluation

    rng = np.random.default_rng(0)
    patient = np.sort(np.concatenate([np.arange(patients), rng.integers(patients, size=slices - patients)]))
    ill = rng.random(patients) < 0.5
    labels = ill[patient] & (rng.random(slices) < 0.7)

    def scores(truth: NDArray[np.bool_], who: NDArray[np.int64]) -> NDArray[np.float32]:
        mood = rng.normal(size=patients)[who]
        value: NDArray[np.float32] = (1 / (1 + np.exp(2 - 5 * truth - mood - rng.normal(size=len(who))))).astype("f4")
        return value

    everyone, both_sides = np.arange(patients), np.repeat(np.arange(patients), 2)
    side_labels = ill[both_sides] & (rng.random(2 * patients) < 0.7)
    levels = {
        "slice": (scores(labels, patient), labels, patient),
        "patient": (scores(ill, everyone), ill, everyone),
        "side": (scores(side_labels, both_sides), side_labels, both_sides),
    }
    site = everyone % SITES
    groups = [site == k for k in range(SITES)] + [site != SITES - 1]

    count = 0
    start = time.perf_counter()
    for name, (values, truth, who) in levels.items():
        for group in groups:
            here = group[who]
            p, y = values[here], truth[here]
            cluster, clusters = evaluation.cluster_index(who[here])
            evaluation.rates_of(evaluation.confusion(p, y, 0.5))
            evaluation.roc_curve(p, y)
            evaluation.reliability_curve(p, y)
            evaluation.calibration_fit(p, y)
            if name == "patient":
                evaluation.delong_interval(p, y)
            figures = evaluation.classification_statistics(p, y, 0.5, cluster, clusters)
            count += len(evaluation.bootstrap_intervals(figures, clusters, rounds=rounds))
    first, second = levels["slice"][0], scores(labels, patient)
    one, other = (evaluation.area_statistic(run, labels, patient, patients) for run in (first, second))
    evaluation.bootstrap_intervals({"difference": lambda w: one(w) - other(w)}, patients, rounds=rounds)
    first, second = levels["patient"][0], scores(ill, everyone)
    evaluation.delong_test(first, second, ill)
    pair = evaluation.paired_counts(first[ill] >= 0.5, second[ill] >= 0.5)
    evaluation.mcnemar_test(pair)
    evaluation.paired_difference(pair)
    return {"work_s": time.perf_counter() - start, "tables": len(levels) * len(groups), "bootstrapped_figures": count}


def command(folder: Path) -> dict[str, float]:
    """Run `onfh evaluate` once on the two files of :func:`write_files`; the child's work."""
    from argparse import ArgumentParser

    from onfh_runtime.cli import evaluate

    parser = ArgumentParser()
    evaluate.add_arguments(parser)
    thresholds = ["--slice-threshold", "0.5", "--patient-threshold", "0.5", "--top-k", "3"]
    sources = [str(folder / name) for name in ("predictions.csv", "truth.csv")]
    options = parser.parse_args([*sources, "--out", str(folder / "out"), "--rounds", str(ROUNDS), *thresholds])
    start = time.perf_counter()
    with contextlib.redirect_stdout(sys.stderr):
        evaluate.run(options)
    document = json.loads((folder / "out" / "evaluation.json").read_text())
    tables = sum(len(level["groups"]) for level in document["levels"].values())
    return {"work_s": time.perf_counter() - start, "tables": tables, "slices": document["joined"]["slices"]}


def write_files(folder: Path) -> None:
    """A run and its truth as CSV: slices 3 mm apart, half of the patients ill, four sites, the last one external."""
    import numpy as np

    rng = np.random.default_rng(0)
    counts = np.bincount(rng.integers(PATIENTS, size=SLICES - PATIENTS), minlength=PATIENTS) + 1
    predictions, truth = ["series,position_mm,probability"], ["patient,series,position_mm,label,site"]
    for patient, count in enumerate(counts.tolist()):
        labels = (rng.random(count) < 0.7) & (patient // SITES % 2 == 0)
        values = 1 / (1 + np.exp(2 - 5 * labels - rng.normal() - rng.normal(size=count)))
        site = "external" if patient % SITES == SITES - 1 else f"site_{patient % SITES}"
        for number, (label, value) in enumerate(zip(labels.tolist(), values.tolist(), strict=True)):
            predictions.append(f"1.2.3.{patient},{3 * number},{value:.9f}")
            truth.append(f"P{patient},1.2.3.{patient},{3 * number},{int(label)},{site}")
    (folder / "predictions.csv").write_text("\n".join(predictions) + "\n")
    (folder / "truth.csv").write_text("\n".join(truth) + "\n")


def measured_command(runs: int) -> dict[str, object]:
    """Run :func:`command` in ``runs`` processes of their own."""
    with tempfile.TemporaryDirectory() as folder:
        write_files(Path(folder))
        return measured_child(runs, "--child-command", folder)


def measured_child(runs: int, *arguments: str) -> dict[str, object]:
    """What ``runs`` processes of this file with ``arguments`` took."""
    work, wall, peak, found = [], [], [], {}
    for _ in range(runs):
        start = time.perf_counter()
        with subprocess.Popen([sys.executable, __file__, *arguments], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            said = process.stdout.read()
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"the child ended with {process.returncode}")
        wall.append(time.perf_counter() - start)
        found = json.loads(said)
        work.append(found["work_s"])
        peak.append(usage.ru_maxrss / 1024)
    print(f"{arguments[0]}: {found['tables']} tables, {SLICES} slices of {PATIENTS} patients, {ROUNDS} rounds")
    for key, values in (("work_s", work), ("process_s", wall), ("peak_mb", peak)):
        print(f"  {key:12} {statistics.median(values):8.2f}  ({min(values):.2f} to {max(values):.2f})")
    counts = {key: value for key, value in found.items() if key != "work_s"}
    return {
        "slices": SLICES,
        "patients": PATIENTS,
        "rounds": ROUNDS,
        **counts,
        "work_s": spread(work),
        "process_s": spread(wall),
        "peak_mb": spread(peak),
    }


def mask_pair(rng: np.random.Generator) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """A wobbly outline of 5 to 60 pixels' radius, and the same drawn again with a little less care; neither empty."""
    import numpy as np

    row, column = rng.uniform(120, 392, 2)
    radius, phase = rng.uniform(5, 60), rng.uniform(0, 2 * np.pi, 2)
    reach = int(radius * 1.6) + 12
    top, left = int(row) - reach, int(column) - reach
    y, x = np.mgrid[top : top + 2 * reach, left : left + 2 * reach]
    masks = []
    for _ in range(2):
        down, right = y - row - rng.normal() * 2, x - column - rng.normal() * 2
        angle = np.arctan2(down, right)
        wobble = 1 + 0.2 * np.sin(3 * angle + phase[0]) + 0.1 * np.sin(7 * angle + phase[1] + rng.normal() / 2)
        mask = np.zeros((512, 512), bool)
        mask[top : top + 2 * reach, left : left + 2 * reach] = np.hypot(down, right) < radius * wobble
        masks.append(mask)
    return masks[0], masks[1]


def measured_distances(count: int) -> dict[str, object]:
    """HD95 of ``count`` pairs of masks, ours and MONAI's in turn, block by block."""
    import numpy as np
    import torch

    from onfh_runtime.evaluation import hd95_mm

    warnings.simplefilter("ignore")  # MONAI warns of its own deprecated arguments, at import and pair by pair
    from monai.metrics import compute_hausdorff_distance

    torch.set_num_threads(1)

    rng = np.random.default_rng(0)
    ours_ms, monai_ms, ratios, apart = [], [], [], 0.0
    for block in range(max(1, count // BLOCK) + 1):
        pairs = [mask_pair(rng) for _ in range(BLOCK)]
        tensors = [[torch.from_numpy(mask)[None, None] for mask in masks] for masks in pairs]
        taken, found = {}, {}
        for who in ("ours", "monai") if block % 2 else ("monai", "ours"):
            start = time.perf_counter()
            if who == "ours":
                found[who] = np.array([hd95_mm(one, other, SPACING_MM) for one, other in pairs])
            else:
                found[who] = np.array(
                    [
                        compute_hausdorff_distance(*each, include_background=True, percentile=95, spacing=SPACING_MM)
                        for each in tensors
                    ]
                ).reshape(-1)
            taken[who] = 1000 * (time.perf_counter() - start) / BLOCK
        apart = max(apart, float(np.abs(found["ours"] - found["monai"]).max()))
        if block:  # the first warms both up
            ours_ms.append(taken["ours"])
            monai_ms.append(taken["monai"])
            ratios.append(taken["monai"] / taken["ours"])
    masks = BLOCK * len(ratios)
    print(f"HD95 of {masks} masks of 512 x 512, largest difference {apart:.1e} mm")
    for key, values in (("ours, ms", ours_ms), ("MONAI, ms", monai_ms), ("ratio", ratios)):
        print(f"  {key:12} {statistics.median(values):8.3f}  ({min(values):.3f} to {max(values):.3f})")
    return {
        "masks": masks,
        "block": BLOCK,
        "ours_ms_a_mask": spread(ours_ms),
        "monai_ms_a_mask": spread(monai_ms),
        "monai_over_ours": spread(ratios),
        "ours_s": sum(ours_ms) * BLOCK / 1000,
        "monai_s": sum(monai_ms) * BLOCK / 1000,
        "largest_difference_mm": apart,
    }


def machine() -> dict[str, object]:
    """What the figures were taken on."""
    from onfh_runtime.cpu import cpu_name

    return {
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "system": platform.platform(),
        **{name: version(name) for name in ("numpy", "scipy", "torch", "monai")},
    }


def main() -> int:
    """Measure and print everything; write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=5, help="processes that compute the tables (default: %(default)s)")
    parser.add_argument("--masks", type=int, default=20_000, help="pairs of masks, 0 for none (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--child-command", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child or options.child_command:
        print(json.dumps(tables() if options.child else command(options.child_command)))
        return 0
    load = os.getloadavg()
    found = {
        "tables": measured_child(options.runs, "--child"),
        "command": measured_command(options.runs),
        "distances": measured_distances(options.masks) if options.masks else None,
    }
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps({"machine": machine(), "load_before": load, **found}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
