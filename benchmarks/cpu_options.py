"""What threads, options of ONNX Runtime, batches and INT8 weights bring on a CPU, against what the runtime does.

Each way takes turns with the runtime's own, on the same rows: the ratio is of two runs that followed each other. Two
parts: each stage for itself, and whole studies in a row, where the threads of ONNX Runtime meet the lanes that read and
write beside them. Below 1 a way is faster. "same again" is the runtime against itself: what noise alone does here.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from records import command_line
from suite_cases import FULL, TINY, analysed, axial_series, candidate_of, open_demo, open_large

from onfh_export.graph.int8 import int8_from_float, products
from onfh_runtime.analysis import Analysis
from onfh_runtime.backends import ort_backend
from onfh_runtime.backends.ort_backend import OrtBackend, session_options
from onfh_runtime.bundle import LoadedBundle, StageName
from onfh_runtime.dicom import Candidate
from onfh_runtime.measure import paired_ratio, spread
from onfh_runtime.measure.record import record
from onfh_runtime.pipeline import Pipeline

STAGES: tuple[StageName, StageName] = ("classifier", "segmenter")
Change = Callable[[Any], None]
Level = ort.GraphOptimizationLevel

DOES_NOT_MEASURE = (
    "Other processors: what a thread, a spin or an INT8 product costs depends on the processor.",
    "The large weights are random, so their differences are those of rounding, not of answers; a parity gate judges "
    "answers.",
    "Memory, but for what the record of the spine says of the default.",
)


def _entries(*entries: tuple[str, str]) -> Change:
    def change(options: Any) -> None:
        for key, value in entries:
            options.add_session_config_entry(key, value)

    return change


def _field(name: str, value: Any) -> Change:
    return lambda options: setattr(options, name, value)


WAYS: dict[str, Change] = {
    "same again": lambda options: None,
    "1 thread": _field("intra_op_num_threads", 1),
    "2 threads": _field("intra_op_num_threads", 2),
    "a thread per logical core": _field("intra_op_num_threads", os.cpu_count()),
    "no spinning": _entries(("session.intra_op.allow_spinning", "0")),
    "spinning ends with a run": _entries(("session.force_spinning_stop", "1")),
    "spinning for 1000 us": _entries(("session.intra_op.spin_duration_us", "1000")),
    "arena": _field("enable_cpu_mem_arena", True),
    "no memory pattern": _field("enable_mem_pattern", False),
    "parallel execution": _field("execution_mode", ort.ExecutionMode.ORT_PARALLEL),
    "graph left as it is": _field("graph_optimization_level", Level.ORT_DISABLE_ALL),
    "basic graph optimisation": _field("graph_optimization_level", Level.ORT_ENABLE_BASIC),
    "extended graph optimisation": _field("graph_optimization_level", Level.ORT_ENABLE_EXTENDED),
    "denormals as zero": _entries(("session.set_denormal_as_zero", "1")),
    "weights not packed": _entries(("session.disable_prepacking", "1")),
    "work in smaller blocks": _entries(("session.dynamic_block_base", "4")),
}
IN_A_ROW = ("same again", "1 thread", "no spinning", "spinning ends with a run", "spinning for 1000 us", "arena")
"""Ways that change what happens beside a call, and so more than the calls themselves."""
BATCHES = (2, 4, 8)
LEAST_S = 0.1
"""A timed run repeats its row until it takes about as long."""


def changed_options(change: Change, threads: int) -> Any:
    """The runtime's options for so many threads, changed."""
    options = session_options(threads)
    change(options)
    return options


def opened(path: Path, change: Change, precision: str = "fp32") -> OrtBackend:
    """A stage as the runtime opens it, but for the change."""
    with patch.object(ort_backend, "session_options", partial(changed_options, change)):
        return OrtBackend(path, precision=precision)


def answers(backend: OrtBackend, rows: NDArray[np.float32], batch: int = 1) -> NDArray[np.float32]:
    """What a stage says of rows, so many at a time."""
    (given,), (made,) = backend.inputs, backend.outputs
    out = np.empty((len(rows), *made.shape), np.float32)
    for start in range(0, len(rows), batch):
        part = slice(start, start + batch)
        backend.run({given.name: rows[part]}, {made.name: out[part]})
    return out


def in_turns(
    usual: Callable[[], NDArray[np.float32]], other: Callable[[], NDArray[np.float32]], pairs: int
) -> dict[str, Any]:
    """Both in turns: the ratio of the other's time to the usual one's, and how far their answers differ."""
    expected, given = usual(), other()
    seconds = _timed(usual, 1)
    times = max(1, round(LEAST_S / seconds))
    taken: tuple[list[float], list[float]] = ([], [])
    for pair in range(pairs):
        for which in (0, 1) if pair % 2 else (1, 0):
            taken[which].append(_timed((usual, other)[which], times))
    return {
        "over_usual": paired_ratio(taken[1], taken[0]),
        "usual_ms": spread([1e3 * each / times for each in taken[0]]),
        "same_bits": bool(np.array_equal(expected, given)),
        "largest_difference": float(np.abs(expected - given).max()),
        "largest_value": float(np.abs(expected).max()),
    }


def _timed(work: Callable[[], object], times: int) -> float:
    start = time.perf_counter()
    for _ in range(times):
        work()
    return time.perf_counter() - start


def stage_ways(bundle: LoadedBundle, stage: StageName, pairs: int, folder: Path) -> dict[str, Any]:
    """One stage for itself: every way; of the classifier batches and INT8 weights too."""
    path = bundle.model_path(stage, "fp32")
    spec = bundle.content.classifier if stage == "classifier" else bundle.content.segmenter
    noise = np.random.default_rng(0)
    rows = noise.standard_normal((max(BATCHES), len(spec.input.windows), *spec.input.size)).astype(np.float32)
    one = rows[:1]
    usual = opened(path, WAYS["same again"])
    found: dict[str, Any] = {}
    for name, change in WAYS.items():
        start = time.perf_counter()
        other = opened(path, change)
        opening = time.perf_counter() - start
        found[name] = in_turns(partial(answers, usual, one), partial(answers, other, one), pairs)
        found[name]["open_s"] = opening
        other.close()
        _say(stage, name, found[name])
    if stage == "classifier":
        for batch in BATCHES:
            name = f"{batch} rows at once"
            part = rows[:batch]
            found[name] = in_turns(partial(answers, usual, part), partial(answers, usual, part, batch), pairs)
            _say(stage, name, found[name])
        contracting = [name for name, contracts in products(onnx.load(path)).items() if contracts]
        for name, keep in (("INT8 weights", []), ("INT8 weights, half of MLPs", contracting)):
            eight = opened(_int8(path, folder, keep), WAYS["same again"], "int8")
            found[name] = in_turns(partial(answers, usual, one), partial(answers, eight, one), pairs)
            _say(stage, name, found[name])
            eight.close()
    usual.close()
    return found


def _int8(path: Path, folder: Path, keep: Collection[str]) -> Path:
    out = folder / "int8.onnx"
    int8_from_float(onnx.load(path), out, keep=keep)
    return out


def row_ways(bundle: LoadedBundle, candidate: Candidate, count: int, pairs: int) -> dict[str, Any]:
    """Studies in a row: each way in turns with the runtime's own, both pipelines open all the time."""
    found = {}
    with Pipeline(bundle, backend="onnxruntime") as usual:
        analysed(usual, candidate, 1)
        for name in IN_A_ROW:
            with (
                patch.object(ort_backend, "session_options", partial(changed_options, WAYS[name])),
                Pipeline(bundle, backend="onnxruntime") as other,
            ):
                analysed(other, candidate, 1)
                taken: tuple[list[float], list[float]] = ([], [])
                said: list[Analysis | None] = [None, None]
                for pair in range(pairs):
                    for which in (0, 1) if pair % 2 else (1, 0):
                        start = time.perf_counter()
                        said[which] = analysed((usual, other)[which], candidate, count)[-1]
                        taken[which].append(time.perf_counter() - start)
            found[name] = {
                "over_usual": paired_ratio(taken[1], taken[0]),
                "usual_ms": spread([1e3 * each / count for each in taken[0]]),
                "same_bits": _same(*said),
            }
            _say("in a row", name, found[name])
    return found


def _same(first: Analysis | None, second: Analysis | None) -> bool:
    assert first is not None
    assert second is not None
    assert first.images is not None
    assert second.images is not None
    return first.result.slices == second.result.slices and bool(np.array_equal(first.images.mask, second.images.mask))


def _say(part: str, name: str, found: Mapping[str, Any]) -> None:
    ratio, differs = found["over_usual"], found.get("largest_difference")
    bits = "same bits" if found["same_bits"] else "other bits" if differs is None else f"differs by {differs:.1e}"
    print(
        f"  {part:10} {name:28} {ratio['median']:.3f}  ({ratio['min']:.3f} to {ratio['max']:.3f})  {bits}", flush=True
    )


def main() -> int:
    """Measure and print everything; write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--pairs", type=int, default=11, help="of each way and stage, demo (default: %(default)s)")
    parser.add_argument("--large-pairs", type=int, default=7, help="large stages (default: %(default)s)")
    parser.add_argument("--row", type=int, default=10, help="demo studies in a row (default: %(default)s)")
    parser.add_argument("--large-row", type=int, default=2, help="large studies in a row (default: %(default)s)")
    parser.add_argument("--row-pairs", type=int, default=7, help="pairs of rows, demo (default: %(default)s)")
    parser.add_argument("--large-row-pairs", type=int, default=2, help="pairs of rows, large (default: %(default)s)")
    parser.add_argument("--no-large", action="store_true", help="leave out ViT-B/16 + UperNet-Swin-T (needs torch)")
    parser.add_argument("--smoke", action="store_true", help="the demo bundle, one pair: does it still work?")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    sizes = TINY if options.smoke else FULL
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        candidate = candidate_of(axial_series(folder / "study", sizes.axial, sizes.matrix))
        for bundle_name in ("demo",) if options.smoke or options.no_large else ("demo", "large"):
            large = bundle_name == "large"
            bundle = open_large(folder / "large") if large else open_demo()
            pairs = 1 if options.smoke else options.large_pairs if large else options.pairs
            count = 2 if options.smoke else options.large_row if large else options.row
            row_pairs = 1 if options.smoke else options.large_row_pairs if large else options.row_pairs
            print(bundle_name)
            found: dict[str, Any] = {stage: stage_ways(bundle, stage, pairs, folder) for stage in STAGES}
            found["row"] = row_ways(bundle, candidate, count, row_pairs)
            results[bundle_name] = found
    if options.json:
        names = ("pairs", "large_pairs", "row", "large_row", "row_pairs", "large_row_pairs", "smoke")
        made = record(
            "cpu-options",
            command_line(__file__, parser, options),
            settings={name: getattr(options, name) for name in names},
            results=results,
            does_not_measure=DOES_NOT_MEASURE,
        )
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(made, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
