"""The demo's networks, taken back out of its graphs, answer as the graphs do."""

from __future__ import annotations

import numpy as np
import pytest

from onfh_runtime.bundle import load_bundle
from onfh_runtime.cli.infer import demo_bundle
from onfh_runtime.stages import open_runner

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def bundle():
    return load_bundle(demo_bundle())


@pytest.fixture(scope="module")
def networks(bundle):
    from demo_checkpoints import demo_networks

    return demo_networks(bundle)


@pytest.mark.parametrize("stage", ["classifier", "segmenter"])
def test_a_network_answers_as_its_graph(bundle, networks, stage):
    runner = open_runner(bundle, stage, "onnxruntime", threads=1)
    values = np.random.default_rng(0).normal(size=(3, 1, *runner.spec.input.size)).astype(np.float32)
    expected = runner.probabilities(values)
    with torch.inference_mode():
        answer = networks[stage](torch.from_numpy(values)).logits.softmax(1)[:, 1].numpy()
    assert np.ptp(expected) > 0.01
    np.testing.assert_allclose(answer, expected, rtol=0, atol=1e-5)


def test_a_graph_of_another_shape_is_refused(bundle, monkeypatch):
    import demo_checkpoints

    shallow = demo_checkpoints.ClassifierShape(layers=5)
    monkeypatch.setattr(demo_checkpoints, "ClassifierShape", lambda: shallow)
    with pytest.raises((RuntimeError, ValueError)):
        demo_checkpoints.demo_networks(bundle)
