"""How far two masks cover each other, and what an empty one means.

Both empty: there is no Dice and no distance, and the case counts among those with nothing to find. Only the
prediction empty: a missed lesion, Dice 0, no distance. Only the truth empty: a false outline, Dice 0, no distance. A
mean Dice over truth-positive cases thus holds the missed ones as 0; a mean distance cannot, so the missed are counted
beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["Overlap", "checked_masks", "dice", "mask_overlap", "slice_overlaps"]


@dataclass(frozen=True)
class Overlap:
    """Voxels of the predicted mask, of the true mask and of both."""

    predicted: int
    true: int
    shared: int

    @property
    def kind(self) -> Literal["both", "missed", "false", "neither"]:
        """Which of the two masks outline something: both, only the true, only the predicted, or neither."""
        if self.true:
            return "both" if self.predicted else "missed"
        return "false" if self.predicted else "neither"

    @property
    def dice(self) -> float | None:
        """Twice the overlap over the sum of sizes; 0 when one mask is empty, None when both are."""
        size = self.predicted + self.true
        return 2 * self.shared / size if size else None

    @property
    def relative_volume_error(self) -> float | None:
        """Predicted minus true size over true size; None when the true mask is empty."""
        return (self.predicted - self.true) / self.true if self.true else None

    def volume_error_mm3(self, voxel_mm3: float) -> float:
        """Predicted minus true volume; with the true mask empty, the volume that is falsely outlined."""
        return (self.predicted - self.true) * voxel_mm3


def mask_overlap(prediction: NDArray[np.bool_], truth: NDArray[np.bool_]) -> Overlap:
    """Count the voxels of two masks of one shape, any number of axes.

    Raises:
        ValueError: shapes that differ, or masks that are not bool.
    """
    checked_masks(prediction, truth)
    both = np.count_nonzero(prediction & truth)
    return Overlap(int(np.count_nonzero(prediction)), int(np.count_nonzero(truth)), int(both))


def slice_overlaps(prediction: NDArray[np.bool_], truth: NDArray[np.bool_]) -> list[Overlap]:
    """The same for each slice of two (slices, rows, columns) bool stacks."""
    checked_masks(prediction, truth)
    return [mask_overlap(one, other) for one, other in zip(prediction, truth, strict=True)]


def dice(prediction: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float | None:
    """Twice the overlap over the sum of sizes; 0 when one mask is empty, None when both are. Any shape.

    Raises:
        ValueError: shapes that differ, or masks that are not bool.
    """
    return mask_overlap(prediction, truth).dice


def checked_masks(prediction: NDArray[np.bool_], truth: NDArray[np.bool_]) -> None:
    """Refuse masks that do not fit together.

    Raises:
        ValueError: shapes that differ, or masks that are not bool.
    """
    if prediction.dtype != np.bool_ or truth.dtype != np.bool_:
        raise ValueError(f"masks must be bool, not {prediction.dtype} and {truth.dtype}")
    if prediction.shape != truth.shape:
        raise ValueError(f"masks must have one shape, not {prediction.shape} and {truth.shape}")
