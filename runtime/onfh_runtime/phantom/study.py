"""A small study to show the whole way on."""

from __future__ import annotations

from pathlib import Path

from onfh_runtime.phantom.anatomy import render
from onfh_runtime.phantom.series import write_series, write_truth
from onfh_runtime.phantom.spec import random_spec
from onfh_runtime.phantom.stack import axial_grid, coronal_from

__all__ = ["write_demo_study"]


def write_demo_study(folder: Path, *, seed: int = 7, slices: int = 120, matrix: int = 512) -> list[Path]:
    """Write a patient with osteonecrosis of the right head: an axial series, and 3 mm coronal slices made from it.

    Args:
        folder: gets ``axial/`` and ``coronal/``, and the truth on the coronal slices in ``truth/``.
        seed: names the patient.
        slices: of the axial series.
        matrix: rows and columns of the axial series.

    Returns:
        Paths of the DICOM files, axial first.
    """
    spec = random_spec(seed, scanner="site_a", lesions="right", implant="none")
    axial = render(spec, axial_grid(spec, slices, matrix, matrix))
    coronal = coronal_from(axial)
    paths = write_series(axial, folder / "axial", plane="axial", series_number=2, description="Hip axial")
    paths += write_series(coronal, folder / "coronal", plane="coronal", series_number=3, description="Hip coronal 3 mm")
    write_truth(coronal, folder / "truth")
    return paths
