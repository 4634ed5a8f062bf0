"""The command around an export."""

import argparse
import json
import shutil

import pytest

from onfh_export.cli import export
from onfh_export.config import read_config
from onfh_runtime.errors import UsageError


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
