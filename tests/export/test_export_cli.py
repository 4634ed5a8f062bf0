"""The command around an export."""

import argparse
import json
import shutil

import pytest

from onfh_export.cli import export
from onfh_export.config import read_config
from onfh_runtime.bundle import load_bundle
from onfh_runtime.errors import OutputError, UsageError


def _args(*words):
    parser = argparse.ArgumentParser()
    export.add_arguments(parser)
    return parser.parse_args([str(word) for word in words])


def test_the_example_configuration_can_be_used_as_it_is(capsys, tmp_path):
    with pytest.raises(SystemExit) as stopped:
        _args("--example-config")
    assert stopped.value.code == 0
    (tmp_path / "c.yaml").write_text(capsys.readouterr().out)
    assert read_config(tmp_path / "c.yaml")["name"] == "hip-necrosis"


def test_without_a_configuration_it_says_how_to_begin(tmp_path):
    with pytest.raises(UsageError, match=r"config_incomplete") as raised:
        export.run(_args("--classifier", "a", "--segmenter", "b", "--out", tmp_path / "b"))
    assert "--example-config" in raised.value.fix


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [("--profiles", "1:2", "'1:2' is not like"), ("--profiles", "8:1:1", "8, 1, 1"), ("--phantoms", "0", "'0'")],
)
def test_wrong_numbers_are_usage_errors(option, value, said, capsys):
    with pytest.raises(SystemExit) as stopped:
        _args("--classifier", "a", "--segmenter", "b", "--out", "c", option, value)
    assert stopped.value.code == 2
    assert said in capsys.readouterr().err


def test_engine_options():
    common = ("--classifier", "a", "--segmenter", "b", "--out", "c")
    assert export._engine_options(_args(*common)) is None
    options = export._engine_options(_args(*common, "--profiles", "1:1:1,1:8:8", "--workspace-mib", "512"))
    assert [(p.min, p.opt, p.max) for p in options.profiles] == [(1, 1, 1), (1, 8, 8)]
    assert options.workspace_bytes == 512 * 2**20


COMMON = ("--classifier", "a.onnx", "--segmenter", "b.onnx", "--set", "name=x", "--out", "c")


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("--targets", "sm89"), ("--targets", "--engines")),
        (("--profiles", "1:1:1"), ("--profiles", "--engines")),
        (("--workspace-mib", "1"), ("--workspace-mib", "--engines")),
        (("--strip-weights",), ("--strip-weights", "--engines")),
        (("--version-compatible",), ("--version-compatible", "--engines")),
        (("--timing-cache", "t"), ("--timing-cache", "--engines")),
        (("--timing-cache", "t", "--engines", "tensorrt-rtx"), ("--timing-cache", "--engines tensorrt")),
        (("--version-compatible", "--engines", "tensorrt-rtx"), ("--version-compatible", "tensorrt-rtx")),
        (("--triton-platform", "python"), ("--triton-platform", "--triton")),
        (("--phantoms", "2", "--reference", "."), ("--phantoms", "--reference")),
        (("--io", "fp16", "--precision", "fp32"), ("--io fp16", "--precision fp32")),
        (("--io", "fp16", "--precision", "bf16"), ("--io fp16", "--precision bf16")),
    ],
)
def test_options_that_do_nothing_are_refused(words, named):
    with pytest.raises(UsageError, match="option_unsupported") as raised:
        export.run(_args(*COMMON, *words))
    assert all(name in raised.value.text for name in named)


@pytest.mark.parametrize("source", ["vit", "my.module:factory"])
def test_networks_are_not_exported_to_opset_17(source):
    with pytest.raises(UsageError, match="opset_unsupported") as raised:
        export.run(_args(*COMMON, "--opset", "17", "--segmenter", source))
    assert f"The segmenter {source} is a network" in raised.value.text


def test_a_reference_that_is_not_there_is_refused_before_any_work(tmp_path):
    with pytest.raises(UsageError, match=r"studiess.*input_not_found"):
        export.run(_args(*COMMON, "--reference", tmp_path / "studiess"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--triton-platform", "tensorrt"), "--engines tensorrt"),
        (("--triton-platform", "tensorrt", "--engines", "tensorrt-rtx"), "--engines tensorrt"),
        (("--triton-platform", "tensorrt", "--engines", "tensorrt", "--targets", "sm86,sm89"), "sm86, sm89"),
        (("--triton-platform", "tensorrt", "--engines", "tensorrt", "--strip-weights"), "--strip-weights"),
        (("--triton-platform", "tensorrt", "--engines", "tensorrt", "--profiles", "1:1:1,8:8:8"), "takes 2"),
    ],
)
def test_a_triton_repository_that_cannot_be_is_refused_before_any_work(words, said, tmp_path):
    with pytest.raises(UsageError, match="triton_options") as raised:
        export.run(_args(*COMMON, "--triton", tmp_path / "t", *words))
    assert said in str(raised.value)


def test_the_folder_of_the_triton_repository_is_looked_at_first(tmp_path):
    (tmp_path / "thesis.txt").write_text("x")
    for folder, code in ((tmp_path, "repository_exists"), (tmp_path / "thesis.txt" / "r", "output_unwritable")):
        with pytest.raises(OutputError, match=code):
            export.run(_args(*COMMON, "--triton", folder))
    for folder in ("c", "c/triton", "."):
        with pytest.raises(UsageError, match="triton_options"):
            export.run(_args(*COMMON, "--triton", folder))


@pytest.mark.slow
def test_a_bundle_replaces_the_current_folder(bundle, checkpoints, tmp_path, monkeypatch):
    shutil.copytree(bundle, tmp_path / "b")
    (tmp_path / "b" / "stale").write_text("x")
    monkeypatch.chdir(tmp_path / "b")
    words = [f"--{stage}={bundle / stage / 'model.onnx'}" for stage in ("classifier", "segmenter")]
    for stage in ("classifier", "segmenter"):
        words += [f"--set={stage}.activation=sigmoid", f"--set={stage}.positive_class=0"]
    words += [f"--config={checkpoints / 'config.json'}", "--phantoms=2", "--precision=fp32", "--out=.", "--force"]
    assert export.run(_args(*words)) == 0
    assert load_bundle(tmp_path / "b").content.name == "test"
    assert not (tmp_path / "b" / "stale").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


@pytest.mark.slow
def test_sets_and_a_triton_repository(bundle, checkpoints, tmp_path, capsys):
    config = json.loads((checkpoints / "config.json").read_text())
    (tmp_path / "c.json").write_text(json.dumps(config))
    words = [f"--{stage}={bundle / stage / 'model.onnx'}" for stage in ("classifier", "segmenter")]
    for stage in ("classifier", "segmenter"):
        words += [f"--set={stage}.activation=sigmoid", f"--set={stage}.positive_class=0"]
    words += [f"--config={tmp_path / 'c.json'}", f"--out={tmp_path / 'b'}", "--phantoms=2", "--precision=fp32"]
    assert export.run(_args(*words, f"--triton={tmp_path / 'triton'}", "--card", bundle / "MODEL_CARD.md")) == 0
    assert (tmp_path / "triton" / "onfh_classifier" / "config.pbtxt").is_file()
    assert (tmp_path / "b" / "MODEL_CARD.md").read_text().startswith("# test")
    assert "parity on the reference" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "triton")
