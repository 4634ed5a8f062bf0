"""Feed the reader damaged and hostile files and series, and count how it takes them.

    python tests/fuzz_dicom.py --files 20000 --series 2000 --seed 1

Each case is a small series of the phantom: one of its files with its bytes mutated (``files``), or its elements and
its folder mutated (``series``). Workers with limited memory find, check and read it. A case fails when the process
dies, when it takes more than two seconds, when anything but an error of this project comes out, or when its memory
grows by more than a bounded amount. Every case follows from the seed and its number, so that

    python tests/fuzz_dicom.py --seed 1 --case files:4711

repeats one. The exit code is 1 when a case failed.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import resource
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "helpers"))

from mutated_dicom import corpus, write_case

LIMIT_S = 2.0
DEAD_S = 20.0
"""A worker that is stuck outside Python cannot raise an alarm; it is ended after so long without a word."""
GROWTH_MB = 256
"""Resident memory that no case may add: the largest of them holds a kilobyte of pixels."""
ADDRESS_MB = 2048
"""Address space beyond what a worker has when it starts."""


class Hang(BaseException):
    """Raised by the alarm; no ``except Exception`` takes it for a damaged file."""


# --- one case


def run_case(folder: Path) -> list[str]:
    """Find, check and read what is in a folder; the codes it ended with."""
    from onfh_runtime.bundle import SeriesRules
    from onfh_runtime.dicom import find_series, read_volume
    from onfh_runtime.dicom.choice import by_preference, eligible
    from onfh_runtime.errors import OnfhError

    codes: list[str] = []
    candidates, skipped = find_series([folder], report=lambda path, code, text: codes.append(f"file: {code}"))

    kept, excluded = eligible(candidates, SeriesRules())
    codes += [f"skipped: {one.code}" for one in (*skipped, *excluded)]
    for candidate in by_preference(kept, SeriesRules()):
        try:
            volume, images = read_volume(candidate)
            assert len(volume.voxels) == len(images)
            codes += ["read", *(f"warning: {code}" for code, _ in volume.warnings)]
        except OnfhError as error:
            codes.append(f"refused: {error.code}")
    return codes or ["nothing"]


def limited(megabytes: int) -> None:
    """Allow so much address space beyond what is taken now."""
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limit = taken + megabytes * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def resident_mb(which: str) -> float:
    """Resident memory of this process: VmRSS now, VmHWM at its peak."""
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{which}:")[1].split()[0]) / 1024


def alarm(number: int, frame: object) -> None:
    """Two seconds are over."""
    raise Hang


def worker(seed: int) -> None:
    """Run the cases named on standard input; a line of JSON for each."""
    from onfh_runtime import dicom  # noqa: F401, imported before memory is limited
    from onfh_runtime.dicom import codecs

    warnings.simplefilter("ignore")
    files = corpus()
    for syntax in codecs.CODECS_EXTRA:
        codecs.can_decode(syntax)
    signal.signal(signal.SIGALRM, alarm)
    limited(ADDRESS_MB)
    print(json.dumps({"ready": sorted(files)}), flush=True)
    for line in sys.stdin:
        kind, _, number = line.strip().partition(":")
        folder = Path(tempfile.mkdtemp(prefix="fuzz"))
        said: dict[str, object] = {"case": line.strip(), "codes": []}
        try:
            said["what"] = write_case(kind, seed, int(number), files, folder)
            before = resident_mb("VmRSS")
            Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
            signal.setitimer(signal.ITIMER_REAL, LIMIT_S)
            start = time.perf_counter()
            try:
                said["codes"] = run_case(folder)
            except Hang:
                said["failure"] = "hang"
            except Exception:
                said["failure"] = traceback.format_exc(limit=-4)
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
            said["seconds"] = time.perf_counter() - start
            said["growth_mb"] = resident_mb("VmHWM") - before
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        print(json.dumps(said), flush=True)


# --- all cases


class Fleet:
    """The workers, what each is busy with, and what came of it."""

    def __init__(self, seed: int, workers: int) -> None:
        self.seed, self.workers = seed, workers
        self.failures: list[tuple[str, str]] = []
        self.codes: collections.Counter[str] = collections.Counter()
        self.kinds: collections.Counter[str] = collections.Counter()
        self.slowest, self.largest = 0.0, 0.0

    def run(self, cases: list[str]) -> None:
        """Run every case, in any order."""
        pending = cases[::-1]
        with selectors.DefaultSelector() as waiting:
            for _ in range(self.workers):
                self._start(waiting)
            while waiting.get_map():
                ready = waiting.select(timeout=1.0)
                for key, _ in ready:
                    self._heard(waiting, key, pending)
                for key in list(waiting.get_map().values()):
                    if key.data["case"] and time.monotonic() - key.data["since"] > DEAD_S:
                        key.data["process"].kill()

    def _start(self, waiting: selectors.BaseSelector) -> None:
        command = [sys.executable, __file__, "--seed", str(self.seed), "--worker"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
        )
        data = {"process": process, "case": None, "since": time.monotonic()}
        waiting.register(process.stdout, selectors.EVENT_READ, data)

    def _heard(self, waiting: selectors.BaseSelector, key: selectors.SelectorKey, pending: list[str]) -> None:
        data, process = key.data, key.data["process"]
        line = process.stdout.readline()
        if not line:  # it died
            waiting.unregister(key.fileobj)
            code = process.wait()
            if data["case"] is None:
                raise SystemExit(f"a worker could not start (exit code {code})")
            self.failures.append((data["case"], f"the process ended with {code}"))
            if pending:
                self._start(waiting)
            return
        said = json.loads(line)
        if "case" in said:
            self._count(said)
        if not pending:
            waiting.unregister(key.fileobj)
            process.stdin.close()
            process.wait()
            return
        data["case"], data["since"] = pending.pop(), time.monotonic()
        process.stdin.write(f"{data['case']}\n".encode())
        process.stdin.flush()

    def _count(self, said: dict[str, object]) -> None:
        self.codes.update(set(said["codes"]))
        self.kinds[str(said["what"])] += 1
        self.slowest = max(self.slowest, float(said["seconds"]))
        self.largest = max(self.largest, float(said["growth_mb"]))
        if "failure" in said:
            self.failures.append((str(said["case"]), str(said["failure"])))
        elif float(said["seconds"]) > LIMIT_S:
            self.failures.append((str(said["case"]), f"took {said['seconds']:.1f} s"))
        elif float(said["growth_mb"]) > GROWTH_MB:
            self.failures.append((str(said["case"]), f"memory grew by {said['growth_mb']:.0f} MB"))


def main() -> int:
    """Run the cases and print what came of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=2000, help="cases with a mutated file (default: %(default)s)")
    parser.add_argument("--series", type=int, default=200, help="cases with a mutated series (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--case", help="run this one only and print where it fails, such as files:4711")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(options.seed)
        return 0
    if options.case:
        kind, _, number = options.case.partition(":")
        folder = Path(tempfile.mkdtemp(prefix="fuzz"))
        print(write_case(kind, options.seed, int(number), corpus(), folder), folder)
        print(run_case(folder))
        return 0
    start = time.perf_counter()
    fleet = Fleet(options.seed, options.workers)
    cases = [f"files:{n}" for n in range(options.files)] + [f"series:{n}" for n in range(options.series)]
    fleet.run(cases)
    print(f"{len(cases)} cases in {time.perf_counter() - start:.0f} s: {dict(sorted(fleet.kinds.items()))}")
    for code, count in fleet.codes.most_common():
        print(f"  {count:6} {code}")
    print(f"slowest case {fleet.slowest:.2f} s, largest growth of memory {fleet.largest:.0f} MB")
    print(f"{len(fleet.failures)} failed")
    for case, what in fleet.failures[:20]:
        print(f"python tests/fuzz_dicom.py --seed {options.seed} --case {case}\n{what}")
    return 1 if fleet.failures else 0


if __name__ == "__main__":
    sys.exit(main())
