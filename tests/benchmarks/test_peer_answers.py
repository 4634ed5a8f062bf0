"""Times of other answers are not compared: each way in which answers can differ is seen."""

from __future__ import annotations

import numpy as np
import pytest
from peer_answers import StageLimits, StudyLimits, stack_differs, stages_differ, study_differs

LIMITS = StudyLimits(probability=0.1, dice=0.9)


def study(path, *, probabilities=(0.1, 0.9), marked=range(100), size=1000, gated=(1,)):
    mask = np.zeros(size, bool)
    mask[list(marked)] = True
    np.savez(path, probabilities=np.float32(probabilities), gated=np.int64(gated), mask=np.packbits(mask))
    return path


@pytest.fixture
def ours(tmp_path):
    return study(tmp_path / "ours.npz")


def test_the_same_study(ours, tmp_path):
    said = study_differs(ours, study(tmp_path / "same.npz"), LIMITS)
    assert (said["largest_probability_difference"], said["mask_dice"]) == (0, 1)
    assert said["same_slices_gated"]
    assert said["within_limits"]


@pytest.mark.parametrize(
    "other",
    [
        {"probabilities": (0.1, 0.75)},
        {"probabilities": (0.1, np.nan)},
        {"probabilities": (0.1,)},
        {"marked": range(20, 120)},
        {"marked": ()},
        {"size": 2000},
    ],
    ids=["a probability", "NaN", "slices", "the mask", "no mask", "voxels"],
)
def test_another_study(ours, tmp_path, other):
    assert not study_differs(ours, study(tmp_path / "other.npz", **other), LIMITS)["within_limits"]


def test_small_differences_are_within_the_limits(ours, tmp_path):
    said = study_differs(ours, study(tmp_path / "near.npz", probabilities=(0.15, 0.9), marked=range(4, 104)), LIMITS)
    assert said["largest_probability_difference"] == pytest.approx(0.05)
    assert said["mask_dice"] == pytest.approx(0.96)
    assert said["within_limits"]


def test_two_empty_masks_show_nothing(tmp_path):
    empty = [study(tmp_path / f"{name}.npz", marked=()) for name in ("a", "b")]
    assert not study_differs(*empty, LIMITS)["within_limits"]


@pytest.mark.parametrize("change", [0.0, 0.02, np.nan])
@pytest.mark.parametrize("stage", ["classifier", "segmenter"])
def test_stages(tmp_path, stage, change):
    ours = {"classifier": np.full(3, 0.5, np.float32), "segmenter": np.full((2, 4, 4), 0.5, np.float32)}
    theirs = {name: values.copy() for name, values in ours.items()}
    theirs[stage].flat[-1] += change
    np.savez(tmp_path / "a.npz", **ours)
    np.savez(tmp_path / "b.npz", **theirs)
    said = stages_differ(tmp_path / "a.npz", tmp_path / "b.npz", StageLimits(0.01))
    assert said["within_limits"] == (change == 0)


@pytest.mark.parametrize(("shift", "slices", "same"), [(0, 3, True), (2, 3, False), (0, 2, False)])
def test_stacks(tmp_path, shift, slices, same):
    np.savez(tmp_path / "a.npz", stack=np.zeros((3, 4, 4), np.float32))
    np.savez(tmp_path / "b.npz", points=np.full((slices, 4, 4), shift, np.float32))
    said = stack_differs(tmp_path / "a.npz", tmp_path / "b.npz", "points", most_hu=1)
    assert said["within_limits"] == same
