"""Thresholds and tables from answers made by hand."""

from pathlib import Path

import numpy as np
import pytest

from onfh_export.assess import Answer, Thresholds, frozen_thresholds, split_metrics
from onfh_export.card import metrics_table, model_card
from onfh_export.dataset import Case
from onfh_export.prepare import PreparedCase
from onfh_export.recipe import Recipe

FROZEN = Thresholds(0.3, 0.5, 1, 0.5, 0.5, 10.0)


def _answer(index, positive, scores, hit=True):
    """Three slices of 8 x 8 pixels of 2 mm, 3 mm apart; a positive case has a 4 x 4 square on its middle slice."""
    masks = np.zeros((3, 8, 8), np.uint8)
    masks[1, 2:6, 2:6] = positive
    maps = np.where(masks.astype(bool) & hit, 0.9, 0.1).astype(np.float16)
    case = Case(index, f"p{index}", "a", "test", Path(), Path())
    ready = PreparedCase(
        case, np.zeros((3, 1, 8, 8), np.float16), masks, masks.any(axis=(1, 2)), np.ones(3, bool),
        np.arange(3.0), 2.0, 3.0, True,
    )  # fmt: skip
    return Answer(ready, np.array(scores, np.float32), maps)


def test_perfect_answers_get_perfect_figures():
    found = split_metrics([_answer(0, True, [0.1, 0.9, 0.2]), _answer(1, False, [0.1, 0.2, 0.1])], FROZEN)
    assert found["slice"]["auc"] == found["patient"]["auc"] == 1
    assert found["slice"]["sensitivity"] == found["patient"]["specificity"] == 1
    assert (found["dice_slice"], found["dice_volume"], found["hd95_slice_mm"]) == (1, 1, 0)
    assert (found["cases"], found["slices"], found["positive_slices"], found["slices_missed"]) == (2, 6, 1, 0)
    assert found["false_volume_mm3"] == 0


def test_the_gate_costs_volume_dice_but_not_slice_dice():
    found = split_metrics([_answer(0, True, [0.1, 0.2, 0.1])], FROZEN)
    assert found["dice_slice"] == 1
    assert found["dice_volume"] == 0
    assert found["patient"]["auc"] is None


def test_a_missed_slice_counts_as_dice_zero_and_has_no_hd95():
    found = split_metrics([_answer(0, True, [0.1, 0.9, 0.1], hit=False)], FROZEN)
    assert (found["dice_slice"], found["hd95_slice_mm"], found["slices_missed"]) == (0, None, 1)


def test_frozen_thresholds_separate_what_they_were_frozen_on():
    validation = [_answer(i, i % 2 == 0, [0.1, 0.8 - 0.1 * (i % 2) * 5, 0.2]) for i in range(6)]
    frozen = frozen_thresholds(validation, Recipe())
    assert 0 < frozen.gate <= frozen.slice_threshold < 0.8
    figures = split_metrics(validation, frozen)
    assert figures["slice"]["sensitivity"] == figures["patient"]["sensitivity"] == 1
    assert figures["patient"]["specificity"] == 1
    lesion = 16 * 4 * 3.0
    assert 0 < frozen.minimum_volume_mm3 <= lesion


def test_the_card_holds_the_table_and_the_limits():
    from dataclasses import asdict

    splits = {"validation": split_metrics([_answer(0, True, [0.1, 0.9, 0.2]), _answer(1, False, [0, 0, 0])], FROZEN)}
    metrics = {
        "splits": splits, "thresholds": asdict(FROZEN), "parameters": {"classifier": 10, "segmenter": 20},
        "cases": 2, "minutes": 1.0, "machine": "a test",
    }  # fmt: skip
    card = model_card("demo", metrics, Recipe().as_dict(), phantoms=True)
    assert metrics_table(metrics) in card
    assert "| slice AUC | 1.000 |" in card
    assert "never clinical performance" in " ".join(card.split())
    assert "Research use only" in card
    assert "phantoms" not in model_card("demo", metrics, Recipe().as_dict(), phantoms=False)


@pytest.mark.parametrize("gate", [0.0, 0.5, 0.95])
def test_the_mask_is_empty_below_the_gate(gate):
    answer = _answer(0, True, [0.1, 0.9, 0.2])
    assert answer.mask(gate, 0.5).any() == (gate <= 0.9)
