"""Is it slower than it was? Ratios of medians, each with its spread, and what of them is more than noise.

``compare.py OLD NEW`` compares two records; ``compare.py OLD NEW --run`` takes NEW first, on this machine, as OLD was
taken. ``compare.py --against REVISION [SUITE ...]`` needs no record: it runs the suites of this checkout on the runtime
of this checkout and on that of the revision in turns, so both meet the same noise.

The rule: slower (or faster) is what differs by more than 5% in the median and whose whole interval lies on that side of
1. For two records the interval is the widest that both medians' 95% intervals allow (of fewer than six rounds: their
smallest and largest times). In turns, it is the 95% interval of the median of the ratios of neighbours, which takes six
pairs at least. 5%, because that is what the same code differs by from one process to the next on a quiet shared
machine. A record compares with another only when both come from one machine; what differs is printed.

Exits with 1 when something is slower.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path[:0] = [str(HERE), str(ROOT / "runtime"), str(ROOT / "export")]

from run import BRIEF, run_suite, suite_record, suites  # noqa: E402

from onfh_runtime.measure import paired_ratio  # noqa: E402
from onfh_runtime.measure.record import SCHEMA  # noqa: E402

NOISE = 0.05
LEAST_PAIRS = 6
MACHINE = ("cpu.name", "cpu.cores_usable", "cpu.governor", "gpus", "jetson_power_mode", "python", "packages")


@dataclass(frozen=True)
class Ratio:
    """New over old time of one benchmark, between ``low`` and ``high``."""

    name: str
    value: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """Either "slower" or "faster", or nothing when it may be noise."""
        if self.value > 1 + NOISE and self.low > 1:
            return "slower"
        return "faster" if self.value < 1 / (1 + NOISE) and self.high < 1 else ""


def ratios_of_records(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Ratio]:
    """Ratios of the benchmarks that two records share."""
    found = []
    for name, before in old["results"].items():
        if name in new["results"]:
            one, other = new["results"][name]["seconds"], before["seconds"]
            (low, high), (other_low, other_high) = _reach(one), _reach(other)
            found.append(Ratio(name, one["median"] / other["median"], low / other_high, high / other_low))
    return found


def ratios_in_turns(
    old: Sequence[Mapping[str, float]], new: Sequence[Mapping[str, float]], *, prefix: str = ""
) -> list[Ratio]:
    """Ratios of benchmarks from pairs of runs: medians in seconds by name, the first of old with the first of new."""
    found = []
    for name in old[0]:
        if all(name in run for run in (*old, *new)):
            ratio = paired_ratio([run[name] for run in new], [run[name] for run in old])
            value, low, high = ratio["median"], ratio["low"], ratio["high"]
            assert value is not None
            assert low is not None, "too few pairs"
            assert high is not None
            found.append(Ratio(prefix + name, value, low, high))
    return found


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What of the machine and the way of taking differs between two records, in words."""
    found = []
    for key in MACHINE:
        before, after = _at(old["machine"], key), _at(new["machine"], key)
        if isinstance(before, dict) and isinstance(after, dict):
            changed = sorted(k for k in {*before, *after} if before.get(k) != after.get(k))
            found += [f"{k}: {before.get(k)}, now {after.get(k)}" for k in changed]
        elif before != after:
            found.append(f"{key}: {before}, now {after}")
    for name in sorted({*old["results"]} ^ {*new["results"]}):
        found.append(f"{name}: only in {'OLD' if name in old['results'] else 'NEW'}")
    for key in ("name", "settings"):
        if old[key] != new[key]:
            found.append(f"{key}: {old[key]}, now {new[key]}")
    return found


def read_record(path: Path) -> dict[str, Any]:
    """A record of run.py. Raises SystemExit when it is none."""
    document: dict[str, Any] = json.loads(path.read_text())
    name = str(document.get("name"))
    if document.get("schema") != SCHEMA or name.removeprefix("bench-") not in suites():
        raise SystemExit(f"{path.name} is no record of a suite of run.py.")
    return document


def told(ratios: Sequence[Ratio]) -> str:
    """A line for each, and a last one with the counts."""
    width = max((len(ratio.name) for ratio in ratios), default=0)
    lines = [f"{r.name:{width}}  {r.value:6.3f}  ({r.low:.3f} to {r.high:.3f})  {r.verdict}".rstrip() for r in ratios]
    slower, faster = (sum(r.verdict == word for r in ratios) for word in ("slower", "faster"))
    return "\n".join([*lines, f"{len(ratios)} compared: {slower} slower, {faster} faster, the rest within noise"])


def against(revision: str, names: Sequence[str], *, pairs: int, words: Sequence[str]) -> list[Ratio]:
    """Run suites on this checkout and on a revision of it, in turns; who goes first changes with every pair."""
    with tempfile.TemporaryDirectory() as folder:
        there = Path(folder).resolve() / "there"
        _unpack(revision, there)
        found = []
        for suite in names:
            runs: dict[Path, list[dict[str, float]]] = {there: [], ROOT: []}
            for pair in range(pairs):
                for root in (there, ROOT) if pair % 2 else (ROOT, there):
                    measured = run_suite(suite, [*BRIEF, *words], root=root)
                    runs[root].append({name: each["seconds"]["median"] for name, each in measured.items()})
            found += ratios_in_turns(runs[there], runs[ROOT], prefix=f"{suite}: ")
    return found


def _unpack(revision: str, folder: Path) -> None:
    """The files of a revision, with the suites of this checkout in place of its own."""
    done = subprocess.run(["git", "-C", str(ROOT), "archive", revision], capture_output=True, check=False)
    if done.returncode:
        raise SystemExit(f"git knows no revision {revision}.")
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        archive.extractall(folder, filter="data")
    (folder / "benchmarks").mkdir(exist_ok=True)
    for path in HERE.glob("*.py"):
        shutil.copy(path, folder / "benchmarks")


def _reach(seconds: Mapping[str, float | None]) -> tuple[float, float]:
    low, high = seconds["low"], seconds["high"]
    if low is None or high is None:
        low, high = seconds["min"], seconds["max"]
    assert low is not None
    assert high is not None
    return low, high


def _at(document: Mapping[str, Any], key: str) -> Any:
    value: Any = document
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def main(words: Sequence[str] | None = None) -> int:
    """Compare, print, and tell a script by the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("what", nargs="*", help="OLD and NEW, two records; with --against the suites, or none for all")
    parser.add_argument("--run", action="store_true", help="take NEW first")
    parser.add_argument("--against", metavar="REVISION", help="compare with another revision, in turns")
    parser.add_argument("--pairs", type=int, default=7, help="with --against (default: %(default)s)")
    parser.add_argument("--smoke", action="store_true", help="with --against: tiny sizes")
    options = parser.parse_args(words)
    if options.against:
        unknown = set(options.what) - set(suites())
        if unknown or options.pairs < LEAST_PAIRS:
            parser.error(f"--against takes {LEAST_PAIRS} pairs or more, and suites of {', '.join(suites())}")
        more = ["--smoke"] if options.smoke else []
        ratios = against(options.against, options.what or suites(), pairs=options.pairs, words=more)
    else:
        if len(options.what) != 2:
            parser.error("name two records, OLD and NEW")
        old_path, new_path = map(Path, options.what)
        old = read_record(old_path)
        if options.run:
            suite, settings = old["name"].removeprefix("bench-"), old["settings"]
            made = suite_record(suite, smoke=settings["smoke"], large=settings["large"])
            new_path.write_text(json.dumps(made, indent=1) + "\n")
        new = read_record(new_path)
        for line in differences(old, new):
            print(f"not the same: {line}")
        ratios = ratios_of_records(old, new)
    print(told(ratios))
    return 1 if any(ratio.verdict == "slower" for ratio in ratios) else 0


if __name__ == "__main__":
    sys.exit(main())
