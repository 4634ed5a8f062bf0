"""The figures of the spine: what `onfh infer` costs around its ONNX Runtime calls, in time and memory.

Every case runs `onfh infer` as a process of its own, imports included, on one axial study of 120 slices of 512 x 512.
Wall time and peak memory are the operating system's; the time inside ONNX Runtime calls is what the process logs of
each call. Ratios are within one run; the median of the runs is quoted, with the spread.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from processes import run_whole
from records import command_line

from onfh_runtime.cli.infer import demo_bundle
from onfh_runtime.measure.record import record
from onfh_runtime.phantom import write_demo_study

ROOT = Path(__file__).resolve().parents[1]
DOES_NOT_MEASURE = (
    "a cold page cache: the first, uncounted run warms it",
    "several studies in a row: bench_pipeline.py",
    "a GPU: make gpu-check",
)
CALL = re.compile(r"ran (\w+) on (\d+) rows in ([\d.]+) ms")


@dataclass(frozen=True)
class Run:
    """One process: seconds of wall time, seconds inside ONNX Runtime calls, peak resident MB."""

    wall_s: float
    calls_s: float
    peak_mb: float
    rows: dict[str, int]


def infer_once(study: Path, bundle: Path, out: Path) -> Run:
    """Run `onfh infer` on a study and read what it cost."""
    command = [sys.executable, "-m", "onfh_runtime.cli.main", "infer", "--verbose", str(study)]
    command += ["--bundle", str(bundle), "--out", str(out)]
    whole = run_whole([*command])
    calls, rows = 0.0, {"classifier": 0, "segmenter": 0}
    for stage, count, ms in CALL.findall(whole.said):
        calls += float(ms) / 1000
        rows[stage] += int(count)
    return Run(whole.wall_s, calls, whole.peak_mb, rows)


def spread(values: list[float]) -> dict[str, float]:
    """Minimum, median and maximum."""
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


def case(name: str, study: Path, bundle: Path, runs: int, folder: Path) -> dict[str, object]:
    """Measure one bundle: a warm-up and ``runs`` counted processes."""
    infer_once(study, bundle, folder / "out")
    measured = [infer_once(study, bundle, folder / "out") for _ in range(runs)]
    result = {
        "wall_s": spread([run.wall_s for run in measured]),
        "calls_s": spread([run.calls_s for run in measured]),
        "wall_over_calls": spread([run.wall_s / run.calls_s for run in measured]),
        "outside_s": spread([run.wall_s - run.calls_s for run in measured]),
        "peak_mb": spread([run.peak_mb for run in measured]),
        "rows": measured[0].rows,
    }
    print(f"{name}: {measured[0].rows['classifier']} slices classified, {measured[0].rows['segmenter']} segmented")
    for key in ("wall_s", "calls_s", "wall_over_calls", "outside_s", "peak_mb"):
        low, mid, high = (result[key][which] for which in ("min", "median", "max"))  # type: ignore[index]
        print(f"  {key:16} {mid:9.3f}  ({low:.3f} to {high:.3f})")
    return result


def help_ratio(runs: int) -> dict[str, float]:
    """Wall time of `onfh --help` over that of `python -c pass`, medians of paired runs."""
    pairs = []
    for _ in range(runs):
        seconds = []
        for command in (["-m", "onfh_runtime.cli.main", "--help"], ["-c", "pass"]):
            start = time.perf_counter()
            subprocess.run([sys.executable, *command], stdout=subprocess.DEVNULL, check=True)
            seconds.append(time.perf_counter() - start)
        pairs.append(seconds)
    ratio = spread([a / b for a, b in pairs])
    print(f"onfh --help over python -c pass: {ratio['median']:.1f} ({ratio['min']:.1f} to {ratio['max']:.1f})")
    return ratio


def install_size() -> dict[str, float]:
    """MB that `pip install .` brings to an empty environment, onfh-edge itself included, pip and setuptools not."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "site"
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        command += ["--constraint", str(ROOT / "constraints.txt"), "--target", str(target), str(ROOT)]
        subprocess.run(command, check=True)
        sizes = {
            entry.name: sum(file.stat().st_size for file in entry.rglob("*") if file.is_file()) / 1e6
            for entry in target.iterdir()
            if entry.is_dir()
        }
    total = sum(sizes.values())
    largest = dict(sorted(sizes.items(), key=lambda item: -item[1])[:6])
    print(f"pip install . brings {total:.0f} MB: " + ", ".join(f"{k} {v:.0f}" for k, v in largest.items()))
    return {"total_mb": total, **largest}


def main() -> int:
    """Measure and print everything; write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=5, help="counted runs with the demo bundle (default: %(default)s)")
    parser.add_argument("--large-runs", type=int, default=3, help="counted runs with the large stages")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--no-large", action="store_true", help="leave out ViT-B/16 + UperNet-Swin-T (needs torch)")
    parser.add_argument("--no-install", action="store_true", help="leave out the size of an installation")
    options = parser.parse_args()
    figures: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_demo_study(folder / "study")
        study = folder / "study" / "axial"
        figures["help_over_pass"] = help_ratio(11)
        figures["demo_bundle"] = case("demo bundle", study, demo_bundle(), options.runs, folder)
        if not options.no_large:
            bundle = folder / "large"
            subprocess.run(
                [sys.executable, str(ROOT / "benchmarks" / "large_stages.py"), str(bundle), "10"], check=True
            )
            figures["vit_b_upernet_swin_t"] = case(
                "ViT-B/16 at 224 + UperNet-Swin-T at 512, seeded weights", study, bundle, options.large_runs, folder
            )
    if not options.no_install:
        figures["install"] = install_size()
    if options.json:
        settings = {"runs": options.runs, "large_runs": options.large_runs, "slices": 120, "matrix": 512}
        made = record(
            "spine",
            command_line(__file__, parser, options),
            settings=settings,
            results=figures,
            does_not_measure=DOES_NOT_MEASURE,
        )
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(made, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
