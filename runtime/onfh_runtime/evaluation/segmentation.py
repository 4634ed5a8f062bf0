"""The tables of masks: every series whose truth is known by voxels, slice by slice and as a whole."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onfh_runtime.evaluation.bootstrap import bootstrap_intervals, ratio_statistic
from onfh_runtime.evaluation.grid import OnOneGrid, boxes_meet, on_one_grid
from onfh_runtime.evaluation.join import Joined, JoinedSeries
from onfh_runtime.evaluation.levels import Group, informative
from onfh_runtime.evaluation.masks import Mask, read_mask
from onfh_runtime.evaluation.overlap import Overlap, mask_overlap
from onfh_runtime.evaluation.paired_figures import bounds
from onfh_runtime.evaluation.surface import surface_distances
from onfh_runtime.evaluation.units import cluster_index

__all__ = ["Outlined", "SeriesMasks", "measured_series", "segmentation_entry"]


@dataclass(frozen=True)
class Outlined:
    """One slice or one volume: how far two masks agree. Distances are None unless both outline something."""

    overlap: Overlap
    voxel_mm3: float
    hd95_mm: float | None
    hd95_pooled_mm: float | None
    assd_mm: float | None

    @property
    def volume_error_mm3(self) -> float:
        """Predicted minus true."""
        return self.overlap.volume_error_mm3(self.voxel_mm3)


@dataclass(frozen=True)
class SeriesMasks:
    """The masks of one series compared; ``volume`` is None, and ``reason`` a code, where they cannot be."""

    series: int
    patient: int
    volume: Outlined | None
    slices: tuple[Outlined, ...]
    reason: str | None


def measured_series(joined: Joined, *, masks: bool, progress: Callable[[], None] | None = None) -> list[SeriesMasks]:
    """Compare the masks of every series that has a truth for them, one series in memory at a time.

    A negative patient's true mask is empty and needs no file. A positive patient's series without one is left out.

    Args:
        joined: the run and the truth.
        masks: whether the truth has masks at all; otherwise nothing is compared.
        progress: told after each series.

    Raises:
        UsageError: as :func:`~onfh_runtime.evaluation.masks.read_mask`.
        MissingExtraError: ``missing_extra``, SciPy or nibabel is not installed.
    """
    found = []
    for number, series in enumerate(joined.series):
        if masks:
            found.append(_compared(number, series, joined.patients[series.truth.patient].truth.label))
        if progress is not None:
            progress()
    return found


def _compared(number: int, series: JoinedSeries, label: bool | None) -> SeriesMasks:
    patient = series.truth.patient

    def left_out(reason: str) -> SeriesMasks:
        return SeriesMasks(number, patient, None, (), reason)

    if series.predicted is None:
        return left_out(series.reason or "not_predicted")
    if not series.predicted.outlines:
        return left_out("no_predicted_masks")
    if series.truth.mask is None and label is not False:
        return left_out("no_true_mask")
    true = read_mask(series.truth.mask) if series.truth.mask is not None else None
    predicted = read_mask(series.predicted.mask) if series.predicted.mask is not None else None
    if true is not None and predicted is not None:
        spaces = {mask.frame_of_reference for mask in (true, predicted)} - {None}
        if len(spaces) > 1:
            return left_out("frame_of_reference_differs")
        if not boxes_meet(true, predicted):
            return left_out("masks_apart")
    both = on_one_grid(predicted, true)
    if both is None:
        if _any(true) or _any(predicted):
            return left_out("masks_apart")
        return SeriesMasks(number, patient, Outlined(Overlap(0, 0, 0), 1.0, None, None, None), (), None)
    return SeriesMasks(number, patient, _outlined(both.prediction, both.truth, both.spacing_mm), _slices(both), None)


def _any(mask: Mask | None) -> bool:
    return mask is not None and bool(mask.voxels.any())


def _outlined(prediction: NDArray[np.bool_], truth: NDArray[np.bool_], spacing_mm: Sequence[float]) -> Outlined:
    overlap = mask_overlap(prediction, truth)
    distances = surface_distances(prediction, truth, spacing_mm) if overlap.kind == "both" else None
    return Outlined(
        overlap,
        float(np.prod(spacing_mm)),
        distances.hd95_mm if distances else None,
        distances.hd95_pooled_mm if distances else None,
        distances.assd_mm if distances else None,
    )


def _slices(both: OnOneGrid) -> tuple[Outlined, ...]:
    """The planes in which either mask outlines something."""
    filled = np.flatnonzero(both.prediction.any(axis=(1, 2)) | both.truth.any(axis=(1, 2)))
    return tuple(_outlined(both.prediction[k], both.truth[k], both.spacing_mm[1:]) for k in filled)


def segmentation_entry(
    found: Iterable[SeriesMasks], groups: Sequence[Group], *, rounds: int, seed: int
) -> dict[str, Any] | None:
    """The JSON of slices and of volumes; None where nothing could be compared."""
    known = [each for each in found if each.volume is not None]
    if not known:
        return None
    volumes = [(each.patient, each.volume) for each in known if each.volume is not None]
    slices = [(each.patient, one) for each in known for one in each.slices]
    return {
        "slice": {"groups": _group_entries(slices, groups, rounds, seed, volumes=False)},
        "volume": {"groups": _group_entries(volumes, groups, rounds, seed, volumes=True)},
    }


def _group_entries(
    units: Sequence[tuple[int, Outlined]], groups: Sequence[Group], rounds: int, seed: int, *, volumes: bool
) -> list[dict[str, Any]]:
    entries = []
    for group in groups:
        here = [(patient, unit) for patient, unit in units if group.patients[patient]]
        if not here:
            continue
        kinds = [unit.overlap.kind for _, unit in here]
        entry: dict[str, Any] = {"name": group.name, "kind": group.kind, "n": len(here)}
        entry |= {kind: kinds.count(kind) for kind in ("both", "missed", "false", "neither")}
        if not volumes:
            entry["neither"] = None  # how many such planes there are depends on how much was imaged
        figures: dict[str, Callable[[Outlined], float | None]] = {
            "dice": lambda unit: unit.overlap.dice if unit.overlap.true else None,
            "hd95_mm": lambda unit: unit.hd95_mm,
            "hd95_pooled_mm": lambda unit: unit.hd95_pooled_mm,
            "assd_mm": lambda unit: unit.assd_mm,
        }
        if volumes:
            figures |= {
                "volume_error_mm3": lambda unit: unit.volume_error_mm3 if unit.overlap.true else None,
                "relative_volume_error": lambda unit: unit.overlap.relative_volume_error,
                "false_volume_mm3": lambda unit: None if unit.overlap.true else unit.volume_error_mm3,
            }
        for name, figure in figures.items():
            values = [(patient, figure(unit)) for patient, unit in here]
            entry[name] = _spread([(patient, value) for patient, value in values if value is not None], rounds, seed)
        entries.append(entry)
    return entries


def _spread(values: Sequence[tuple[int, float]], rounds: int, seed: int) -> dict[str, Any] | None:
    """Mean with its interval over patients, and percentiles of the values; None without one."""
    if not values:
        return None
    cluster, clusters = cluster_index([patient for patient, _ in values])
    numbers = np.array([value for _, value in values], np.float64)
    mean = ratio_statistic(numbers, np.ones(len(numbers)), cluster, clusters)
    drawn = bootstrap_intervals({"mean": mean}, clusters, rounds=rounds, seed=seed)["mean"]
    low, median, high = np.percentile(numbers, [5, 50, 95]).tolist()
    return {
        "n": len(numbers),
        "mean": float(numbers.mean()),
        "median": median,
        "p05": low,
        "p95": high,
        "bootstrap": bounds(informative(drawn).interval),
    }
