"""Run suites (bench_*.py), each in a process of its own, and write a record of each: bench-SUITE-MACHINE.json.

``run.py`` runs all of them, ``run.py read outputs`` two. ``--large`` adds the stages that people deploy, ViT-B/16 at
224 and UperNet-Swin-T at 512, to the suites of backends and of the pipeline, about half an hour on two cores.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
RESULTS = HERE / "results"
USUAL = ("--benchmark-min-rounds=9", "--benchmark-max-time=1", "--benchmark-warmup=on")
"""So many rounds at least give the median an interval; a second of rounds at least."""
BRIEF = ("--benchmark-min-rounds=3", "--benchmark-max-time=0.3", "--benchmark-warmup=on")
"""For one of several paired runs, of which only the median counts."""


def suites() -> list[str]:
    """Names of all suites."""
    return sorted(path.stem.removeprefix("bench_") for path in HERE.glob("bench_*.py"))


def run_suite(suite: str, words: Sequence[str], *, root: Path = ROOT) -> dict[str, Any]:
    """Run one suite of the checkout at ``root`` on the runtime of that checkout.

    Args:
        suite: of :func:`suites`.
        words: more options for pytest.
        root: a checkout whose ``benchmarks`` folder has the suite.

    Returns:
        Figures of each benchmark by its name.

    Raises:
        SystemExit: a benchmark failed, or another runtime than that of ``root`` was measured.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "benchmark.json"
        command = [sys.executable, "-m", "pytest", f"benchmarks/bench_{suite}.py", "-q", "-p", "no:cacheprovider"]
        command += ["-c", str(root / "pyproject.toml"), f"--benchmark-json={path}", "--benchmark-quiet", *words]
        paths = os.pathsep.join(str(root / part) for part in ("export", "runtime"))
        done = subprocess.run(
            command, cwd=root, env={**os.environ, "PYTHONPATH": paths}, stdout=subprocess.PIPE, text=True, check=False
        )
        if done.returncode or not path.exists():
            raise SystemExit(f"{done.stdout}\nThe suite {suite} ended with {done.returncode}.")
        said = json.loads(path.read_text())
    if Path(said["onfh_runtime"]) != root / "runtime" / "onfh_runtime":
        raise SystemExit(f"The runtime at {said['onfh_runtime']} was measured, not that of {root}.")
    return {entry["name"].removeprefix("test_"): figures(entry) for entry in said["benchmarks"]}


def figures(entry: Mapping[str, Any]) -> dict[str, Any]:
    """What is kept of one benchmark of pytest-benchmark: the median with its spread and interval, and its notes."""
    from onfh_runtime.measure import median_interval, spread

    times = entry["stats"]["data"]
    low, high = median_interval(times) or (None, None)
    return {"seconds": {**spread(times), "low": low, "high": high}, **entry["extra_info"]}


def suite_record(suite: str, *, smoke: bool, large: bool) -> dict[str, Any]:
    """Run a suite and describe what was found."""
    from onfh_runtime.measure.record import record

    words = [*USUAL, *(["--smoke"] if smoke else []), *(["--large"] if large else [])]
    found = run_suite(suite, words)
    left_out = importlib.import_module(f"bench_{suite}").DOES_NOT_MEASURE
    settings = {"smoke": smoke, "large": large, "pytest_benchmark": list(USUAL)}
    return record(f"bench-{suite}", command(suite, large), settings=settings, results=found, does_not_measure=left_out)


def command(suite: str, large: bool) -> str:
    """How to take a record again."""
    return f"python benchmarks/run.py {suite}{' --large' if large else ''}"


def machine_name(machine: Mapping[str, Any]) -> str:
    """A machine in a file's name: its GPU, or else how many cores may be used."""
    if machine["gpus"]:
        return re.sub(r"[^a-z0-9]+", "-", str(machine["gpus"][0]["name"]).lower()).strip("-")
    return f"{machine['cpu']['cores_usable']}-core-cpu"


def main(words: Sequence[str] | None = None) -> int:
    """Run what is named and write the records."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("suite", nargs="*", help=f"of {', '.join(suites())}; all when none is named")
    parser.add_argument("--large", action="store_true", help="also the stages people deploy (needs torch)")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes: the figures mean nothing")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the records (default: %(default)s)")
    parser.add_argument("--machine", help="what files call this machine (default: its GPU or its cores)")
    parser.add_argument("--say-machine", action="store_true", help="print what files call this machine, and end")
    options = parser.parse_args(words)
    unknown = set(options.suite) - set(suites())
    if unknown:
        parser.error(f"there is no suite {', '.join(sorted(unknown))}; choose of {', '.join(suites())}")
    if options.smoke and options.out == RESULTS:
        parser.error("--smoke needs --out: its figures are no results")
    sys.path[:0] = [str(HERE), str(ROOT / "runtime"), str(ROOT / "export")]
    if options.say_machine:
        from onfh_runtime.measure.fingerprint import machine_fingerprint

        print(machine_name(machine_fingerprint()))
        return 0
    for suite in options.suite or suites():
        made = suite_record(suite, smoke=options.smoke, large=options.large)
        path = options.out / f"bench-{suite}-{options.machine or machine_name(made['machine'])}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(made, indent=1) + "\n")
        print(f"{path.name}: {len(made['results'])} benchmarks", flush=True)
        for name, each in made["results"].items():
            seconds = each["seconds"]
            print(
                f"  {name:40} {seconds['median'] * 1e3:10.3f} ms  ({seconds['min'] * 1e3:.3f} to "
                f"{seconds['max'] * 1e3:.3f}, {seconds['count']} rounds)"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
