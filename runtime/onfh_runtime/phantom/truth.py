"""What is true of a phantom, as files beside its images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from onfh_runtime.phantom.anatomy import LABELS, Phantom
from onfh_runtime.phantom.spec import SIDES

__all__ = ["LABEL_MIN_AREA_MM2", "truth_of", "write_truth"]

LABEL_MIN_AREA_MM2 = 40.0
"""A slice is labelled positive when the necrosis fills this much of it: less is a brush with its surface."""


def truth_of(phantom: Phantom) -> dict[str, Any]:
    """The truth of one volume, ready for JSON.

    ``slices`` holds one entry for each slice of the volume: ``position_mm`` is LPS y of a coronal and LPS z of an axial
    slice, ``area_mm2`` the necrosis in it and by side, ``label`` whether it counts as positive.
    """
    ds, dr, dc = phantom.grid.spacing
    start = phantom.grid.origin[2 if phantom.grid.plane == "axial" else 1]
    areas = {side: (phantom.truth == LABELS[side]).sum(axis=(1, 2)) * (dr * dc) for side in SIDES}
    total = areas["right"] + areas["left"]
    return {
        "patient_positive": phantom.spec.positive,
        "sides": {side: phantom.spec.lesions[side] is not None for side in SIDES},
        "lesion_volume_mm3": {side: round(float(areas[side].sum() * ds), 3) for side in SIDES},
        "heads": {
            side: {"centre_mm": [round(v, 3) for v in head.centre], "radius_mm": round(head.radius, 3)}
            for side, head in phantom.heads.items()
        },
        "confounders": {side: list(phantom.spec.hip(side).confounders) for side in SIDES},
        "implant": phantom.spec.implant,
        "scanner": phantom.spec.scanner.name,
        "plane": phantom.grid.plane,
        "label_min_area_mm2": LABEL_MIN_AREA_MM2,
        "slices": [
            {
                "position_mm": round(start + ds * k, 4),
                "area_mm2": round(float(total[k]), 3),
                "side_area_mm2": {side: round(float(areas[side][k]), 3) for side in SIDES},
                "label": bool(total[k] >= LABEL_MIN_AREA_MM2),
            }
            for k in range(len(total))
        ],
    }


def write_truth(phantom: Phantom, folder: Path) -> Path:
    """Write ``truth.npz`` (mask uint8, affine float64) and ``truth.json`` into ``folder``; returns the former."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "truth.npz"
    np.savez_compressed(path, mask=phantom.truth, affine=phantom.affine)
    (folder / "truth.json").write_text(json.dumps(truth_of(phantom), indent=1) + "\n", encoding="utf-8")
    return path
