"""What a statistic takes: one score and one label for each unit (a slice, a patient or a side)."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["checked_labels", "checked_probabilities", "checked_scores", "cluster_index"]


def checked_labels(labels: NDArray[np.bool_], units: int) -> NDArray[np.bool_]:
    """The (units,) labels, once they are known to be bool and as many as the units.

    Raises:
        ValueError: another shape, or another type: 0, 1 and 255 say nothing of which is positive.
    """
    if labels.dtype != np.bool_:
        raise ValueError(f"labels must be bool, not {labels.dtype}")
    if labels.shape != (units,):
        raise ValueError(f"labels must have the shape ({units},), not {labels.shape}")
    return labels


def checked_scores(
    scores: NDArray[np.floating], labels: NDArray[np.bool_]
) -> tuple[NDArray[np.floating], NDArray[np.bool_]]:
    """The (units,) scores and labels, once they fit together. Neither is copied; a score keeps its type.

    Raises:
        ValueError: shapes that differ, scores that are not floating point, labels that are not bool, or a score that
            is NaN or infinite. A unit without a probability is the caller's to leave out and to count: no statistic
            here guesses what it would have been.
    """
    if not np.issubdtype(scores.dtype, np.floating):
        raise ValueError(f"scores must be floating point, not {scores.dtype}")
    if scores.ndim != 1:
        raise ValueError(f"scores must have one axis, not the shape {scores.shape}")
    checked_labels(labels, len(scores))
    wrong = int(np.count_nonzero(~np.isfinite(scores)))
    if wrong:
        raise ValueError(f"{wrong} of {len(scores)} scores are NaN or infinite; leave those units out and count them")
    return scores, labels


def checked_probabilities(
    probabilities: NDArray[np.floating], labels: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The same for scores that must be probabilities, as float64.

    Raises:
        ValueError: as :func:`checked_scores`, or a value outside 0..1.
    """
    checked_scores(probabilities, labels)
    outside = int(np.count_nonzero((probabilities < 0) | (probabilities > 1)))
    if outside:
        raise ValueError(f"{outside} of {len(probabilities)} probabilities lie outside 0..1")
    return probabilities.astype(np.float64), labels


def cluster_index(identifiers: ArrayLike) -> tuple[NDArray[np.int64], int]:
    """Number the clusters (the patients) of units.

    Args:
        identifiers: (units,), strings or numbers; units with the same one belong together.

    Returns:
        (units,) int64 numbers from 0, in the order of the sorted identifiers, and how many clusters there are.
    """
    found, index = np.unique(np.asarray(identifiers), return_inverse=True)
    return index.reshape(-1).astype(np.int64), len(found)
