"""The phantoms that stand in for reference studies, every second one with a lesion."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from onfh_export.dataset import TruthMask
from onfh_runtime.dicom import Candidate, find_series
from onfh_runtime.phantom import (
    SCANNERS,
    PhantomSpec,
    coronal_from,
    coronal_grid,
    random_spec,
    render,
    write_series,
)

__all__ = ["PhantomStudy", "phantom_specs", "phantom_studies"]

NATIVE_MM = 3.0
"""Slice distance of the series, or the bundle's where that is finer."""
RENDERED_MM = 1.5
"""Thickest slice in which a phantom is rendered."""


@dataclass(frozen=True)
class PhantomStudy:
    """A phantom as the runtime finds it on disk, and the truth."""

    label: str
    candidates: list[Candidate]
    truth: TruthMask


def phantom_specs(count: int, seed: int) -> list[PhantomSpec]:
    """Draw patients: every second one with a lesion, right, left and both in turn, on each scanner in turn.

    The last positive one shows the affected hip only, and the last negative one has an implant, where there are at
    least four. Confounders are drawn as for any phantom.
    """
    specs = []
    scanners = list(SCANNERS)
    sides: tuple[Literal["right", "left", "both"], ...] = ("right", "left", "both")
    for index in range(count):
        positive, turn = index % 2 == 0, index // 2
        last = count >= 4 and index >= count - 2
        side = "right" if last else sides[turn % len(sides)]
        specs.append(
            random_spec(
                seed * 1_000_000 + index,
                scanner=scanners[turn % len(scanners)],
                lesions=side if positive else "none",
                implant="left" if last and not positive else "none",
                field_of_view="right" if last and positive else "both",
            )
        )
    return specs


def phantom_studies(work: Path, slice_spacing_mm: float, count: int, seed: int) -> Iterator[PhantomStudy]:
    """Write each phantom to ``work`` as a native coronal series and find it there; the next one replaces its files."""
    native = min(NATIVE_MM, slice_spacing_mm)
    for spec in phantom_specs(count, seed):
        phantom = coronal_from(render(spec, coronal_grid(spec, min(RENDERED_MM, native))), native)
        files = write_series(phantom, work, plane="coronal")
        label = f"phantom {spec.seed} ({_lesion(spec)})"
        yield PhantomStudy(label, find_series([work])[0], TruthMask(phantom.truth > 0, phantom.affine))
        for file in files:
            file.unlink()


def _lesion(spec: PhantomSpec) -> str:
    sides = [side for side, lesion in spec.lesions.items() if lesion is not None]
    return f"lesion {' and '.join(sides)}" if sides else "no lesion"
