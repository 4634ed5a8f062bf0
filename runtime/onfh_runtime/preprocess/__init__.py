"""Preprocessing: one specification (the tables made here), the NumPy reference that defines the answers."""

from onfh_runtime.preprocess.coronal import CoronalPlan, coronal_stack, head_box, mask_to_volume, plan_coronal
from onfh_runtime.preprocess.stage_input import (
    Letterbox,
    letterbox,
    map_to_stack,
    mask_to_input,
    resample_matrix,
    stage_input,
)

__all__ = [
    "CoronalPlan",
    "Letterbox",
    "coronal_stack",
    "head_box",
    "letterbox",
    "map_to_stack",
    "mask_to_input",
    "mask_to_volume",
    "plan_coronal",
    "resample_matrix",
    "stage_input",
]
