"""A fresh process up to its first answer: its start, bundle, search, engines, analysis.

Packages are imported where they are first needed: ONNX Runtime while the stages are opened, highdicom in the analysis.

Run as a module, this is that process; :func:`cold_start` starts it and watches.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onfh_runtime.measure.runs import How

__all__ = ["cold_start", "first_answer"]


def cold_start(
    study: Path, bundle: Path, *, how: How, share: tuple[float, int] | None, out: Path | None
) -> dict[str, float]:
    """Seconds from the start of a process to its first answer, and its parts.

    Args:
        study: where the series is.
        bundle: what analyses it.
        how: the stages are opened.
        share: positive fraction and number of slices of an overridden gate, or None.
        out: where outputs are written, or None.

    Raises:
        BackendError: ``no_first_answer``, the process ended without one.
    """
    asked: dict[str, Any] = {"study": str(study), "bundle": str(bundle), "how": asdict(how), "share": share}
    asked["out"] = str(out) if out else None
    command = [sys.executable, "-m", __spec__.name, json.dumps(asked)]
    begun = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        seconds = time.perf_counter() - begun
        _, complaint = process.communicate()
    if not line:
        from onfh_runtime.errors import BackendError

        last = complaint.strip().splitlines()[-1:] or [f"it ended with {process.returncode}"]
        raise BackendError("no_first_answer", f"A fresh process gave no answer: {last[0]}")
    parts: dict[str, float] = json.loads(line)
    return {"first_answer_s": seconds, "start_and_imports_s": seconds - sum(parts.values()), **parts}


def first_answer(asked: str) -> None:
    """In the fresh process: print the seconds of each part as JSON, before anything is closed."""
    from onfh_runtime.bundle import load_bundle
    from onfh_runtime.measure.runs import How, not_written, samples, written_below
    from onfh_runtime.measure.workload import workload_from_study

    options = json.loads(asked)
    marks = [time.perf_counter()]
    bundle = load_bundle(Path(options["bundle"]))
    marks.append(time.perf_counter())
    workload = workload_from_study(Path(options["study"]), bundle)
    if options["share"] is not None:
        workload = workload.with_positive_fraction(*options["share"])
    marks.append(time.perf_counter())
    write = written_below(Path(options["out"]), workload.bundle) if options["out"] else not_written
    with How(**options["how"]).pipeline(workload.bundle) as pipeline:
        pipeline.open()
        marks.append(time.perf_counter())
        list(samples(pipeline, [workload.candidate], write))
        marks.append(time.perf_counter())
        names = ("bundle_s", "search_s", "open_s", "answer_s")
        parts = {name: stop - start for name, start, stop in zip(names, marks, marks[1:], strict=False)}
        sys.stdout.write(json.dumps(parts) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    try:
        first_answer(sys.argv[1])
    except Exception as error:  # its text may quote a header, which as_onfh_error does not
        from onfh_runtime.pipeline import as_onfh_error

        sys.exit(str(as_onfh_error(error)))
