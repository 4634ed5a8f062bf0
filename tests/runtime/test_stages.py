from __future__ import annotations

import json

import numpy as np
import pytest

from onfh_runtime.bundle import Stage, load_bundle
from onfh_runtime.errors import BackendError, BundleError, UsageError
from onfh_runtime.stages import open_runner, positive_probability


def change_stage(folder, stage, **changes):
    path = folder / "bundle.json"
    document = json.loads(path.read_text())
    document[stage] |= changes
    path.write_text(json.dumps(document))
    return load_bundle(folder)


def spec_with(bundle, **changes) -> Stage:
    return bundle.content.classifier.model_copy(update=changes)


def test_softmax_of_many_classes_is_that_of_scipy(tiny_bundle):
    scipy_special = pytest.importorskip("scipy.special")
    logits = np.random.default_rng(0).normal(0, 30, (5, 4, 3)).astype(np.float32)
    expected = scipy_special.softmax(logits, axis=1)[:, 2]
    got = positive_probability(logits, spec_with(tiny_bundle, positive_class=2))
    np.testing.assert_allclose(got, expected, atol=1e-6)


@pytest.mark.parametrize("positive", [0, 1])
def test_two_classes_and_sigmoid_agree_and_do_not_overflow(tiny_bundle, positive):
    logits = np.array([[0, 1e4], [1e4, 0], [1.0, 2.5]], np.float32)
    got = positive_probability(logits, spec_with(tiny_bundle, positive_class=positive))
    margin = logits[:, positive] - logits[:, 1 - positive]
    same = positive_probability(margin[:, None], spec_with(tiny_bundle, positive_class=0, activation="sigmoid"))
    np.testing.assert_array_equal(got, same)
    np.testing.assert_allclose(got[2], 1 / (1 + np.exp(-margin[2])), rtol=1e-6)
    assert got.min() == 0
    assert got.max() == 1


def test_probabilities_pass_as_they_are(tiny_bundle):
    values = np.array([[0.25, 0.75]], np.float32)
    np.testing.assert_array_equal(positive_probability(values, spec_with(tiny_bundle, activation="none")), [0.75])


def test_batches_change_nothing(tiny_bundle, bundle_folder):
    values = np.random.default_rng(0).random((11, 1, 32, 48)).astype(np.float32)
    once = open_runner(tiny_bundle, "classifier").probabilities(values)
    for batch in (1, 3, 11):
        runner = open_runner(change_stage(bundle_folder, "classifier", max_batch=batch), "classifier")
        np.testing.assert_array_equal(runner.probabilities(values), once)
    np.testing.assert_allclose(once, 1 / (1 + np.exp(-40 * values.mean(axis=(1, 2, 3)))), rtol=1e-4)


def test_no_slices_give_no_probabilities(tiny_bundle):
    assert open_runner(tiny_bundle, "segmenter").probabilities(np.empty((0, 1, 32, 48), np.float32)).shape == (
        0,
        32,
        48,
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"input_name": "image"},
        {"output_name": "scores"},
        {"positive_class": 2},
        {"activation": "sigmoid", "positive_class": 2},
        {"input": {"size": (16, 48), "windows": [{"center": 0, "width": 1}], "mean": [0], "std": [1]}},
    ],
)
def test_a_model_that_is_not_the_one_described(bundle_folder, changes):
    with pytest.raises(BackendError, match="stage_mismatch"):
        open_runner(change_stage(bundle_folder, "classifier", **changes), "classifier")


def test_nan_is_refused(tiny_bundle):
    values = np.full((1, 1, 32, 48), np.nan, np.float32)
    with pytest.raises(BackendError, match="not_a_probability"):
        open_runner(tiny_bundle, "segmenter").probabilities(values)


def test_an_unknown_backend(tiny_bundle):
    with pytest.raises(UsageError, match="unknown_backend"):
        open_runner(tiny_bundle, "classifier", "abacus")


def test_a_stage_without_fp32(bundle_folder):
    bundle = change_stage(bundle_folder, "classifier", models={"fp16": "classifier/model.onnx"})
    with pytest.raises(BundleError, match="precision_missing"):
        open_runner(bundle, "classifier")
