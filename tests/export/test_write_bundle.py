"""A bundle is written whole, or what was there stays."""

import json
import shutil

import numpy as np
import pytest

from onfh_export.write_bundle import bundle_from_checkpoints, read_config
from onfh_runtime.bundle import load_bundle
from onfh_runtime.errors import OnfhError, OutputError, UsageError
from onfh_runtime.stages import open_runner


def test_the_runtime_loads_and_runs_it(bundle):
    loaded = load_bundle(bundle)
    assert sorted(loaded.content.files) == ["classifier/model.onnx", "segmenter/model.onnx"]
    assert loaded.content.classifier.architecture == "ViTForImageClassification"
    assert loaded.content.segmenter.architecture == "UperNetForSemanticSegmentation"
    assert any("Research use only" in notice for notice in loaded.content.notices)
    pixels = np.zeros((3, 1, *loaded.content.classifier.input.size), np.float32)
    for stage, shape in (("classifier", (3,)), ("segmenter", (3, *loaded.content.segmenter.input.size))):
        runner = open_runner(loaded, stage, "onnxruntime", threads=1)
        assert runner.probabilities(pixels).shape == shape
        runner.close()


def test_a_bundle_that_is_there_needs_force(bundle, checkpoints):
    with pytest.raises(OutputError, match="bundle_exists"):
        _write(checkpoints, bundle)


def test_force_never_replaces_what_is_no_bundle(checkpoints, tmp_path):
    (tmp_path / "thesis.txt").write_text("x")
    with pytest.raises(OutputError, match="no bundle"):
        _write(checkpoints, tmp_path, force=True)
    assert (tmp_path / "thesis.txt").read_text() == "x"


def test_a_failed_export_leaves_the_old_bundle(bundle, checkpoints, tmp_path, monkeypatch):
    out = tmp_path / "b"
    shutil.copytree(bundle, out)
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}

    def broken(*_):
        raise OnfhError("onnx_mismatch", "no")

    monkeypatch.setattr("onfh_export.write_bundle.onnx_from_network", broken)
    with pytest.raises(OnfhError, match="onnx_mismatch"):
        _write(checkpoints, out, force=True)
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before
    assert [p.name for p in tmp_path.iterdir()] == ["b"]


def test_force_replaces_and_leaves_nothing_behind(bundle, checkpoints, tmp_path, monkeypatch):
    out = tmp_path / "b"
    shutil.copytree(bundle, out)
    (out / "stale").write_text("x")

    def copied(network, _, path):
        shutil.copy(bundle / path.parent.name / "model.onnx", path)

    monkeypatch.setattr("onfh_export.write_bundle.onnx_from_network", copied)
    loaded = bundle_from_checkpoints(
        checkpoints / "classifier", checkpoints / "segmenter", read_config(checkpoints / "config.json"), out,
        extra={"MODEL_CARD.md": "# card\n"}, force=True,
    )  # fmt: skip
    assert not (out / "stale").exists()
    assert "MODEL_CARD.md" in loaded.content.files
    assert [p.name for p in tmp_path.iterdir()] == ["b"]


def test_swapped_stages_are_refused(checkpoints, tmp_path):
    config = read_config(checkpoints / "config.json")
    with pytest.raises(UsageError, match="stage_mismatch"):
        bundle_from_checkpoints(checkpoints / "segmenter", checkpoints / "classifier", config, tmp_path / "b")
    assert not list(tmp_path.iterdir())


def test_a_size_the_checkpoint_does_not_take_is_refused(checkpoints, tmp_path):
    config = read_config(checkpoints / "config.json")
    config["classifier"]["input"]["size"] = [32, 32]
    with pytest.raises(UsageError, match="stage_mismatch"):
        bundle_from_checkpoints(checkpoints / "classifier", checkpoints / "segmenter", config, tmp_path / "b")


@pytest.mark.parametrize(
    ("change", "word"),
    [({"gate": {"threshold": 2}}, "gate.threshold"), ({"surprise": 1}, "surprise"), ({"files": {}}, "files")],
)
def test_a_wrong_configuration_is_named(checkpoints, tmp_path, change, word):
    path = tmp_path / "c.json"
    path.write_text(json.dumps({**json.loads((checkpoints / "config.json").read_text()), **change}))
    with pytest.raises(UsageError, match=word):
        bundle_from_checkpoints(
            checkpoints / "classifier", checkpoints / "segmenter", read_config(path), tmp_path / "b"
        )


def _write(checkpoints, out, force=False):
    config = read_config(checkpoints / "config.json")
    return bundle_from_checkpoints(checkpoints / "classifier", checkpoints / "segmenter", config, out, force=force)
