"""This runtime's side of the kept peers: the same tasks, in the project's own environment.

``study`` finds, reads and analyses the series and writes every output; ``read`` and ``stack`` are what SimpleITK is
compared with; ``classifier`` and ``segmenter`` run the stages on rows made before.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from common import arguments, case_of, serve, write_answers
from numpy.typing import NDArray

from onfh_runtime.bundle import load_bundle
from onfh_runtime.dicom import find_series, read_volume
from onfh_runtime.measure.runs import samples, written_below
from onfh_runtime.pipeline import Pipeline
from onfh_runtime.preprocess import coronal_stack, plan_coronal
from onfh_runtime.stages import open_runner
from onfh_runtime.volume import Volume


def main() -> None:
    """Offer the tasks that are named, with a comma between them."""
    options = arguments(__doc__, "bundle", "tasks")
    case = case_of(options.case)
    bundle = load_bundle(Path(options.bundle))
    series = Path(case["series"])
    spacing = bundle.content.slice_spacing_mm
    tasks: dict[str, Callable[[], Any]] = {
        "read": lambda: read(series),
        "stack": lambda: stack(read(series), spacing),
    }
    wanted = options.tasks.split(",")
    if "study" in wanted:
        pipeline = Pipeline(bundle, backend="onnxruntime")
        write = written_below(options.out.with_suffix(""), bundle)
        tasks["study"] = lambda: list(samples(pipeline, find_series([series])[0], write))
    given = np.load(case["answers"])
    for name in ("classifier", "segmenter"):
        if name in wanted:
            runner = open_runner(bundle, name, "onnxruntime")
            values = given[f"{name}_input"]
            tasks[name] = lambda runner=runner, values=values: runner.probabilities(values)
    chosen = {name: tasks[name] for name in wanted}
    answers = {name: task() for name, task in chosen.items()}
    write_answers(options.out, {name: answer for name, answer in answers.items() if isinstance(answer, np.ndarray)})
    serve(chosen)


def read(series: Path) -> Volume:
    """Find and read."""
    (candidate,), _ = find_series([series])
    return read_volume(candidate)[0]


def stack(volume: Volume, spacing: float) -> NDArray[np.float32]:
    """The coronal stack."""
    return coronal_stack(volume, plan_coronal(volume, spacing)).hu


if __name__ == "__main__":
    main()
