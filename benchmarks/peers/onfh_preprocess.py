"""This runtime's side of ``benchmarks/preprocess_peers.py``: from a volume in memory to a stage's input."""

from __future__ import annotations

from typing import Any

import numpy as np
from common import arguments, case_of, serve, write_answers
from numpy.typing import NDArray

from onfh_runtime.bundle import StageInput, Window
from onfh_runtime.preprocess import coronal_stack, plan_coronal, stage_input
from onfh_runtime.volume import Volume


def main() -> None:
    """Offer a task for each side of a stage's input."""
    options = arguments(__doc__)
    case = case_of(options.case)
    hu = np.load(case["volume"])
    volume = Volume(hu, np.array(case["affine_lps"]), np.ones(len(hu)), np.zeros(len(hu)))
    tasks = {f"input_{side}": (lambda side=side: prepared(volume, case, side)) for side in case["sides"]}
    write_answers(options.out, {name: task() for name, task in tasks.items()})
    serve(tasks)


def prepared(volume: Volume, case: dict[str, Any], side: int) -> NDArray[np.float32]:
    """(slices, 1, side, side) float32, the window as 0..1."""
    low, high = case["window"]
    spec = StageInput(
        size=(side, side),
        windows=(Window(center=(low + high) / 2, width=high - low),),
        mean=(0.0,),
        std=(1.0,),
        min_pixel_spacing_mm=0.0,
    )
    return stage_input(coronal_stack(volume, plan_coronal(volume, case["slice_spacing_mm"])), spec)


if __name__ == "__main__":
    main()
