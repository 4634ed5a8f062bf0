"""The bundle that ships, and `onfh demo` with it: the whole way on a phantom whose truth is known."""

from __future__ import annotations

import json
import shutil
import subprocess

import numpy as np
import pytest

from onfh_runtime.bundle import load_bundle
from onfh_runtime.cli.infer import demo_bundle
from onfh_runtime.cli.main import main
from onfh_runtime.result import Result

BUDGET_MB = 25


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The folder `onfh demo` wrote, and its exit code."""
    out = tmp_path_factory.mktemp("demo")
    return out, main(["demo", "--out", str(out)])


def results_of(out):
    return [Result.model_validate_json(path.read_text()) for path in out.rglob("result.json")]


def test_the_bundle_is_small_whole_and_says_what_it_was_trained_on():
    bundle = load_bundle(demo_bundle())
    assert sum(path.stat().st_size for path in demo_bundle().rglob("*")) <= BUDGET_MB * 1e6
    assert any("phantom" in notice for notice in bundle.content.notices)
    assert "phantom" in (demo_bundle() / "MODEL_CARD.md").read_text()
    assert "MODEL_CARD.md" in bundle.content.files


def test_the_demo_finds_the_lesion_where_it_is(demo):
    out, code = demo
    assert code == 0
    truth = json.loads((out / "study" / "truth" / "truth.json").read_text())
    assert truth["sides"] == {"right": True, "left": False}
    results = results_of(out)
    assert len(results) == 2
    for result in results:
        assert result.patient.state == "positive"
        assert (result.sides.right.state, result.sides.left.state) == ("positive", "negative")
        with np.load(out / "study" / "truth" / "truth.npz") as arrays:
            points = np.argwhere(arrays["mask"] > 0) @ arrays["affine"][:3, :3].T + arrays["affine"][:3, 3]
        assert np.linalg.norm(np.array(result.sides.right.centroid_mm) - points.mean(axis=0)) < 8


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy (Debian's dicom3tools) is not installed")
def test_dciodvfy_finds_no_error_in_what_the_demo_wrote(demo):
    out, _ = demo
    written = sorted((out / "results").rglob("*.dcm"))
    assert len(written) == 4
    for path in written:
        done = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, check=False)
        assert [line for line in done.stderr.splitlines() if line.startswith("Error")] == []


def test_batch_size_and_order_change_nothing(demo, tmp_path):
    """Probabilities to the last bit, whatever else is in the batch."""
    from onfh_runtime.stages import open_runner

    bundle = load_bundle(demo_bundle())
    values = np.random.default_rng(0).normal(size=(9, 1, *bundle.content.classifier.input.size)).astype(np.float32)
    for stage in ("classifier", "segmenter"):
        runner = open_runner(bundle, stage)
        together = runner.probabilities(values)
        alone = np.concatenate([runner.probabilities(values[i : i + 1]) for i in range(len(values))])
        backwards = runner.probabilities(values[::-1])[::-1]
        np.testing.assert_array_equal(backwards, together)
        np.testing.assert_array_equal(alone, together)
