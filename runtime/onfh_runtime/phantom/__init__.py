"""A phantom of the hips on CT: synthetic patients with and without osteonecrosis, and the truth about them.

Phantoms prove plumbing and numerical drift, never clinical performance.
"""

from onfh_runtime.phantom.anatomy import Head, Phantom, render
from onfh_runtime.phantom.cohort import CohortCase, cohort, write_cohort
from onfh_runtime.phantom.grid import Grid
from onfh_runtime.phantom.series import write_series, write_truth
from onfh_runtime.phantom.spec import SCANNERS, Hip, Lesion, PhantomSpec, Scanner, random_spec
from onfh_runtime.phantom.stack import axial_grid, coronal_from, coronal_grid
from onfh_runtime.phantom.study import write_demo_study
from onfh_runtime.phantom.truth import LABEL_MIN_AREA_MM2

__all__ = [
    "LABEL_MIN_AREA_MM2",
    "SCANNERS",
    "CohortCase",
    "Grid",
    "Head",
    "Hip",
    "Lesion",
    "Phantom",
    "PhantomSpec",
    "Scanner",
    "axial_grid",
    "cohort",
    "coronal_from",
    "coronal_grid",
    "random_spec",
    "render",
    "write_cohort",
    "write_demo_study",
    "write_series",
    "write_truth",
]
