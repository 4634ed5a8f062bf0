"""The whole recipe in its smallest form: phantoms in, a bundle the runtime runs out."""

import argparse
import json
import sys

import pytest

from onfh_export.cli import train
from onfh_runtime.bundle import load_bundle
from onfh_runtime.errors import MissingExtraError, UsageError


def _args(*words):
    parser = argparse.ArgumentParser()
    train.add_arguments(parser)
    return parser.parse_args([str(word) for word in words])


@pytest.mark.slow
def test_smoke(tmp_path, capsys):
    data, out = tmp_path / "data", tmp_path / "run"
    assert train.run(_args(data, "--out", out, "--smoke", "--workers", 1, "--threads", 1)) == 0
    bundle = load_bundle(out / "bundle")
    graphs = {f"{stage}/model{half}.onnx" for stage in ("classifier", "segmenter") for half in ("", ".fp16")}
    assert set(bundle.content.files) == graphs | {"MODEL_CARD.md", "parity.json", "parity.png"}
    card = (out / "bundle" / "MODEL_CARD.md").read_text()
    assert "## Figures" in card
    assert "## Parity" in card
    metrics = json.loads((out / "metrics.json").read_text())
    assert set(metrics["splits"]) == {"validation", "test", "external"}
    assert bundle.content.gate.threshold == metrics["thresholds"]["gate"]
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "slice AUC" in captured.err
    with pytest.raises(UsageError, match="bundle_exists"):
        train.run(_args(data, "--out", out, "--smoke"))
    with pytest.raises(UsageError, match="cohort_differs"):
        train.run(_args(data, "--out", tmp_path / "other", "--smoke", "--phantoms", 5))


def test_without_torch_the_command_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr("onfh_export.extras.find_spec", lambda name: None if name == "torch" else sys)
    with pytest.raises(MissingExtraError, match=r"torch cannot be imported.*pip install 'onfh-edge\[export\]'"):
        train.run(_args(tmp_path, "--out", tmp_path / "run"))


def test_arguments_become_the_recipe():
    recipe = train._recipe(_args("d", "--out", "r", "--epochs-classifier", 3, "--epochs-segmenter", 4, "--phantoms", 7))
    assert (recipe.fit_classifier.epochs, recipe.fit_segmenter.epochs, recipe.patients_per_site) == (3, 4, 7)
    with pytest.raises(UsageError, match="--threads"):
        train._recipe(_args("d", "--out", "r", "--threads", 0))


def test_importing_the_command_does_not_import_torch():
    import subprocess

    code = "import sys, onfh_export.cli.train, onfh_export.cli.export; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
