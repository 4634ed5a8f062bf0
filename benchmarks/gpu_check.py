"""Everything that needs a GPU, in one command and under eight minutes, without a network.

The environment, every test that is marked ``gpu``, the GPU benchmarks; one table last, and one JSON file. It runs from
a source tree with any Python that has numpy, onnx and onnxruntime; for all figures CuPy and torch too. What else is
missing may lie in a folder as wheels (``--wheels``), and PyCUDA's source archive, which is built where CUDA's headers
and a compiler are present.

Each part is a process with a limit of its own; what it wrote before its end is kept. The exit code is 0 when the tests
passed and every part ran to its end, 1 when not, and 2 where there is no GPU that can be used; a missed target is told
in the table and is no failure.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from xml.etree import ElementTree

from gpu_figures import Figure, read_figures, table

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 470.0
LIMITS = {
    "install": 120,
    "environment": 40,
    "opening": 40,
    "tests": 150,
    "kernels": 50,
    "answers": 60,
    "graphs": 110,
    "case_a": 75,
    "case_b": 60,
    "peers_a": 90,
    "peers_b": 75,
}
"""Seconds of each part at most, in their order; the last ones get what is left."""
FIGURES = [part for part in LIMITS if part not in ("install", "environment", "opening", "tests")]
CLOSING_S = 5.0
SURVEY = """
import json
from onfh_runtime.measure.fingerprint import machine_fingerprint
from onfh_runtime.survey import survey
print(json.dumps({**survey(), "fingerprint": machine_fingerprint()}))
"""
OPENED = """
import sys
from onfh_runtime.device import open_device
from onfh_runtime.errors import OnfhError
try:
    open_device().close()
except OnfhError as error:
    sys.exit(str(error))
"""
GPU_MARK = re.compile(r"mark\.gpu\b")


@dataclass
class Ended:
    """How a part ended. ``problem`` is empty when it ran to its end."""

    part: str
    seconds: float
    problem: str = ""
    output: str = field(default="", repr=False)


@dataclass
class Check:
    """One run of all parts, and its clock."""

    work: Path
    json: Path | None
    site: Path
    seconds: float
    environment: dict[str, str]
    started: float = field(default_factory=time.monotonic)
    report: dict[str, object] = field(default_factory=dict)
    parts: list[Ended] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)

    def run(self, part: str, command: Sequence[str]) -> Ended:
        """Run a part's process; at its limit it is killed with all that it started."""
        limit = min(LIMITS[part], self.seconds - CLOSING_S - (time.monotonic() - self.started))
        if limit <= 1:
            return self._ended(Ended(part, 0.0, f"the {self.seconds:.0f} s of this check were used up before it"))
        print(f"-- {part} (up to {limit:.0f} s)", flush=True)
        begun, log = time.monotonic(), self.work / f"{part}.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                command, cwd=ROOT, env=self.environment, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
            )
            try:
                code = process.wait(limit)
                problem = "" if code == 0 else f"it ended with {code}"
            except subprocess.TimeoutExpired:
                problem = f"it was stopped after {limit:.0f} s"
            finally:
                _kill(process)
        said = log.read_text(errors="replace")
        return self._ended(Ended(part, time.monotonic() - begun, problem, said))

    def _ended(self, ended: Ended) -> Ended:
        self.parts.append(ended)
        if ended.problem:
            print(f"   {ended.problem}")
            print("".join(f"   | {line}\n" for line in ended.output.splitlines()[-15:]), end="", flush=True)
        return ended

    def write(self) -> None:
        """Write what is known so far."""
        if self.json is None:
            return
        document = {
            "schema": "onfh-gpu-check/1",
            "seconds": round(time.monotonic() - self.started, 1),
            **self.report,
            "parts": [{"part": each.part, "seconds": each.seconds, "problem": each.problem} for each in self.parts],
            "figures": [asdict(figure) | {"met": figure.met} for figure in self.figures],
        }
        self.json.parent.mkdir(parents=True, exist_ok=True)
        self.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def install(check: Check, wheels: Path) -> None:
    """Unpack the folder's packages; PyCUDA is built from its source where it has no wheel."""
    packages, sources = sorted(wheels.glob("*.whl")), sorted(wheels.glob("pycuda-*.tar.gz"))
    _unpack(check, packages)
    if sources and not any(path.name.startswith("pycuda-") for path in packages):
        build = [sys.executable, str(ROOT / "benchmarks" / "pycuda_wheel.py"), str(sources[-1]), str(check.work)]
        if not check.run("install", build).problem:
            _unpack(check, sorted(check.work.glob("pycuda-*.whl")))


def _unpack(check: Check, packages: Sequence[Path]) -> None:
    pip = [sys.executable, "-m", "pip", "install", "--no-index", "--no-deps", "--no-compile", "--quiet"]
    pip += ["--disable-pip-version-check", "--no-warn-script-location", "--target", str(check.site)]
    check.run("install", [*pip, *map(str, packages)])


def survey_of(check: Check) -> dict[str, object]:
    """What `onfh doctor --json` says, and the machine's clocks, power limit and commit."""
    ended = check.run("environment", [sys.executable, "-W", "ignore", "-c", SURVEY])
    lines = [line for line in ended.output.splitlines() if line.startswith('{"software"')]
    return dict(json.loads(lines[-1])) if lines else {"problem": ended.output.strip()[-2000:]}


def gpu_test_files(folder: Path) -> list[str]:
    """Test files that hold a test for a GPU: the others may want packages that are not here."""
    return sorted(str(path) for path in folder.rglob("test_*.py") if GPU_MARK.search(path.read_text(encoding="utf-8")))


def run_tests(check: Check) -> dict[str, object]:
    """The tests marked ``gpu``, none of which may skip for want of a GPU; outcomes by test."""
    xml = check.work / "tests.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", f"--junitxml={xml}"]
    check.run("tests", [*command, "-o", "filterwarnings=default", *gpu_test_files(ROOT / "tests")])
    return outcomes(xml)


def outcomes(xml: Path) -> dict[str, object]:
    """How many tests of a JUnit file passed, and which did not, with the first line of why."""
    found: dict[str, object] = {"passed": 0, "failed": {}, "skipped": {}}
    try:
        cases = list(ElementTree.parse(xml).iter("testcase"))
    except (OSError, ElementTree.ParseError):
        return {**found, "failed": {"pytest": "it wrote no results"}}
    for case in cases:
        name = f"{case.get('classname')}::{case.get('name')}"
        for kind, tags in (("failed", ("failure", "error")), ("skipped", ("skipped",))):
            said = next((element for tag in tags for element in case.iter(tag)), None)
            if said is not None:
                lines = (said.get("message") or said.text or "").strip().splitlines() or [""]
                found[kind][name] = lines[0]  # type: ignore[index]
                break
        else:
            found["passed"] += 1  # type: ignore[operator]
    return found


def slug(name: str) -> str:
    """A GPU's name as part of a file's."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def main(argv: list[str] | None = None) -> int:
    """Run every part."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", type=Path, help="default: benchmarks/results/gpu-<name>.json")
    parser.add_argument("--wheels", type=Path, help="a folder of packages to run with")
    parser.add_argument("--gpu", type=int, help="which GPU, as the driver counts (default: the first that is visible)")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for everything (default: %(default)s)")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="onfh-gpu-") as name:
        work = Path(name)
        check = Check(work, options.json, work / "site", options.seconds, _environment(work, options.gpu))
        code = run_all(check, options.wheels)
        check.write()
        if check.figures:
            print(f"\n{table(check.figures)}")
        for ended in check.parts:
            if ended.problem:
                print(f"{ended.part}: {ended.problem}")
        if check.json is not None:
            print(f"written: {check.json}")
        print(str(check.report.get("verdict", "")))
    return code


def run_all(check: Check, wheels: Path | None) -> int:
    """Every part in its order; the exit code."""
    if wheels is not None:
        install(check, wheels)
    survey = survey_of(check)
    check.report["environment"] = survey
    opened = check.run("opening", [sys.executable, "-W", "ignore", "-c", OPENED])
    if opened.problem:
        check.report["verdict"] = f"No GPU can be used here: {(opened.output.splitlines() or ['nothing was said'])[-1]}"
        return 2
    if check.json is None:
        gpus = survey.get("gpus")
        first = gpus[0]["name"] if isinstance(gpus, list) and gpus else "unnamed"
        check.json = ROOT / "benchmarks" / "results" / f"gpu-{slug(first)}.json"
    check.report["tests"] = tests = run_tests(check)
    check.write()
    failed = dict(tests["failed"])  # type: ignore[call-overload]
    for part in FIGURES:
        file = check.work / f"{part}.jsonl"
        command = [sys.executable, "-W", "ignore", str(ROOT / "benchmarks" / "gpu.py"), part]
        ended = check.run(part, [*command, "--figures", str(file), "--work", str(check.work)])
        check.figures += read_figures(file, part.replace("_", " "), ended.problem or "the part did not come to it")
        if ended.problem:
            check.figures.append(Figure(part.replace("_", " "), "the rest", absent=ended.problem))
        check.write()
    skipped = len(tests["skipped"])  # type: ignore[arg-type]
    verdict = [f"tests: {tests['passed']} passed, {len(failed)} failed, {skipped} skipped"]
    verdict += [f"  FAILED {name}: {why}" for name, why in failed.items()]
    verdict += [f"  skipped {name}: {why}" for name, why in tests["skipped"].items()]  # type: ignore[attr-defined]
    missed = sum(figure.met is False for figure in check.figures)
    absent = sum(figure.value is None for figure in check.figures)
    verdict.append(f"figures: {len(check.figures) - absent} taken, {missed} missed their target, {absent} not taken")
    check.report["verdict"] = "\n".join(verdict)
    return 1 if failed or any(ended.problem for ended in check.parts) else 0


def _environment(work: Path, gpu: int | None) -> dict[str, str]:
    """The processes' environment: the source tree before what was unpacked, no writing outside the work folder."""
    folders = [ROOT / "runtime", ROOT / "export", ROOT / "benchmarks", work / "site"]
    paths = [*map(str, folders), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "PATH": os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/cuda/bin"]),
        "ONFH_CACHE_DIR": str(work / "cache"),
        "ONFH_REQUIRE_GPU": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "HF_HUB_OFFLINE": "1",
        **({"CUDA_VISIBLE_DEVICES": str(gpu)} if gpu is not None else {}),
    }


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End whatever is left of a part."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


if __name__ == "__main__":
    sys.exit(main())
