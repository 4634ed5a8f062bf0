"""MONAI's side of ``benchmarks/preprocess_peers.py``: a coronal stack of a volume, fitted to a stage's input.

``spacing`` is Spacing and Resize, as MONAI's bundles do it: slices are sampled at their centres. ``area`` is Resize by
area in place of Spacing, which averages the planes of a slice.

Favours the peer: the volume lies there as float32, turned to coronal, before the time begins.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from common import arguments, case_of, serve, write_answers
from monai.data import MetaTensor
from monai.transforms import Orientation
from monai_torch import CORONAL, coronal_by_area, coronal_by_spacing, stage_input
from numpy.typing import NDArray

WAYS = {"spacing": coronal_by_spacing, "area": coronal_by_area}


def main() -> None:
    """Offer a task for each way and each side of a stage's input."""
    options = arguments(__doc__)
    warnings.simplefilter("ignore")
    case = case_of(options.case)
    torch.set_num_threads(case["threads"])
    turned = coronal(case)
    tasks = {
        f"{way}_{side}": (lambda way=way, side=side: prepared(turned, case, way, side))
        for way in WAYS
        for side in case["sides"]
    }
    write_answers(options.out, {name: task() for name, task in tasks.items()})
    serve(tasks)


def coronal(case: dict[str, Any]) -> MetaTensor:
    """The volume, (1, planes, rows, columns) HU float32, in one piece."""
    hu = np.load(case["volume"]).astype(np.float32)
    # Array axes (slice, row, column) to (x, y, z), and LPS to RAS.
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ np.array(case["affine_lps"])[:, [2, 1, 0, 3]]
    turned = Orientation(axcodes=CORONAL, labels=None)(
        MetaTensor(torch.from_numpy(hu.transpose(2, 1, 0)[None]), affine)
    )
    return MetaTensor(turned.as_tensor().contiguous(), affine=turned.affine)


def prepared(turned: MetaTensor, case: dict[str, Any], way: str, side: int) -> NDArray[np.float32]:
    """(slices, 1, side, side) float32, the window as 0..1."""
    stage = {"window": case["window"], "size": (side, side), "mean": 0.0, "std": 1.0, "channels": 1}
    with torch.inference_mode():
        stack = WAYS[way](turned, case)
        values: NDArray[np.float32] = stage_input(stack, {**stage, "min_pixel_spacing_mm": 0.0}).numpy()
    return values


if __name__ == "__main__":
    main()
