"""A stage is opened from whatever its user names, and fits its configuration, or is refused by name."""

import json
import sys

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import load_file, save_file
from transformers import SwinConfig, SwinForImageClassification, UperNetConfig, UperNetForSemanticSegmentation

from onfh_export.networks import save_checkpoint, segmenter_from_shape, vit_from_shape
from onfh_export.recipe import smoke_recipe
from onfh_export.sources import open_source
from onfh_export.swin_unet import swin_unet
from onfh_runtime.bundle import StageInput
from onfh_runtime.errors import UsageError

SMOKE = smoke_recipe()
SPEC = SMOKE.stage_input
SMALL = {"image_size": (32, 32), "channels": 1, "embed_dim": 8, "depths": (1, 1), "heads": (1, 2), "window": 4}


def _spec(channels=1, size=(32, 32)):
    window = {"center": 0, "width": 1}
    return StageInput(size=size, windows=(window,) * channels, mean=(0,) * channels, std=(1,) * channels)


def _refused(code, *words, text, stage="segmenter", spec=None, **options):
    with pytest.raises(UsageError) as caught:
        open_source(str(text), stage=stage, spec=spec or _spec(), **options)
    assert caught.value.code == code
    for word in words:
        assert word in caught.value.text
    return caught.value


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """classifier/ and segmenter/ as a training leaves them; swin/ and upernet/ of 32 x 32, with an auxiliary head."""
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("folders")
    save_checkpoint(vit_from_shape(SMOKE.classifier, SMOKE.size), root / "classifier")
    save_checkpoint(segmenter_from_shape(SMOKE.segmenter, SMOKE.size), root / "segmenter")
    swin = {
        "image_size": 32,
        "num_channels": 1,
        "embed_dim": 8,
        "depths": [1, 1],
        "num_heads": [1, 2],
        "window_size": 4,
    }
    save_checkpoint(SwinForImageClassification(SwinConfig(**swin, num_labels=3)), root / "swin")
    backbone = SwinConfig(**swin, out_features=["stage1", "stage2"])
    auxiliary = {"use_auxiliary_head": True, "auxiliary_in_channels": 16, "auxiliary_channels": 4}
    network = UperNetForSemanticSegmentation(UperNetConfig(backbone_config=backbone, hidden_size=8, **auxiliary))
    save_checkpoint(network, root / "upernet")
    return root


@pytest.mark.parametrize(
    ("name", "stage", "spec", "architecture", "answer"),
    [
        ("classifier", "classifier", SPEC, "ViTForImageClassification", (2, 2)),
        ("segmenter", "segmenter", SPEC, "UperNetForSemanticSegmentation", (2, 2, *SMOKE.size)),
        ("swin", "classifier", _spec(), "SwinForImageClassification", (2, 3)),
        ("swin", "classifier", _spec(size=(64, 96)), "SwinForImageClassification", (2, 3)),
        ("upernet", "segmenter", _spec(), "UperNetForSemanticSegmentation", (2, 2, 32, 32)),
    ],
)
def test_transformers_folders(folders, name, stage, spec, architecture, answer):
    source = open_source(str(folders / name), stage=stage, spec=spec)
    assert (source.kind, source.architecture, source.model) == ("transformers", architecture, None)
    assert not source.network.training
    with torch.inference_mode():
        assert source.network(torch.zeros(2, 1, *spec.size)).logits.shape == answer


def test_the_auxiliary_head_is_left_out_and_said(folders):
    source = open_source(str(folders / "upernet"), stage="segmenter", spec=_spec())
    assert any(name.startswith("auxiliary_head") for name in load_file(folders / "upernet" / "model.safetensors"))
    assert not any(name.startswith("auxiliary_head") for name in source.network.state_dict())
    assert source.notes == ("The auxiliary head, which only a training uses, was left out.",)


@pytest.mark.parametrize(
    ("name", "stage", "spec", "options", "words"),
    [
        (
            "segmenter",
            "classifier",
            SPEC,
            {},
            ("UperNetForSemanticSegmentation", "ViTForImageClassification or a Swin"),
        ),
        ("swin", "segmenter", _spec(), {}, ("SwinForImageClassification", "UperNetForSemanticSegmentation")),
        ("classifier", "classifier", _spec(), {}, ("48 x 120", "32 x 32")),
        ("classifier", "classifier", _spec(3, SMOKE.size), {}, ("takes 1 channel(s)", "says 3 channel(s)")),
        ("upernet", "segmenter", _spec(3), {}, ("takes 1 channel(s)", "says 3 channel(s)")),
        ("swin", "classifier", _spec(), {"positive_class": 3}, ("3 class(es)", "positive_class 3 need at least 4")),
        (
            "upernet",
            "segmenter",
            _spec(),
            {"activation": "sigmoid", "positive_class": 2},
            ("2 class(es)", "at least 3"),
        ),
    ],
)
def test_a_folder_that_does_not_fit_names_both_sides(folders, name, stage, spec, options, words):
    _refused("stage_mismatch", *words, text=folders / name, stage=stage, spec=spec, **options)


def test_an_onnx_file(tmp_path):
    weights = numpy_helper.from_array(np.ones((1024, 2), np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("Flatten", ["x"], ["f"]), helper.make_node("MatMul", ["f", "w"], ["y"])], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 32, 32])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2])], [weights],
    )  # fmt: skip
    path = tmp_path / "Model.ONNX"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    source = open_source(str(path), stage="classifier", spec=_spec())
    assert (source.kind, source.architecture, source.network) == ("onnx", "ONNX", None)
    assert source.model.graph.output[0].name == "logits"
    assert source.notes == ("The batch was fixed at 1 and is a symbol now.",)
    _refused("stage_mismatch", text=path, stage="classifier", spec=_spec(3))
    _refused("output_unknown", "none is z", text=path, stage="classifier", output="z")
    _refused("source_unknown", "brings its own weights", text=path, stage="classifier", weights=path)


def test_a_factory_of_ours(tmp_path):
    torch.manual_seed(0)
    made = swin_unet(**SMALL).eval()
    save_file(made.state_dict(), tmp_path / "w.safetensors")
    text = "onfh_export.swin_unet:swin_unet"
    # As the configuration gives them: lists.
    arguments = {name: list(value) if isinstance(value, tuple) else value for name, value in SMALL.items()}
    given = {
        "stage": "segmenter",
        "spec": _spec(),
        "weights": tmp_path / "w.safetensors",
        "factory_arguments": arguments,
    }
    source = open_source(text, **given)
    assert (source.kind, source.architecture) == ("factory", text)
    pixels = torch.randn(2, 1, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(source.network(pixels), made(pixels))
    _refused("stage_mismatch", "does not take rows of (3, 32, 32)", text=text, **{**given, "spec": _spec(3)})
    _refused("stage_mismatch", "positive_class 2", text=text, **given, positive_class=2)
    _refused("stage_mismatch", "a classifier answers (classes,)", text=text, **{**given, "stage": "classifier"})
    _refused("size_unsupported", text=text, **{**given, "factory_arguments": {**arguments, "image_size": [30, 30]}})
    _refused("factory_failed", "TypeError", "surprise", text=text, **{**given, "factory_arguments": {"surprise": 1}})
    deeper = {**arguments, "depths": [2, 1]}
    _refused(
        "weights_incomplete", "missing: layers.0.blocks.1", "and ", text=text, **{**given, "factory_arguments": deeper}
    )
    wider = {**arguments, "classes": 3}
    _refused("weights_incomplete", "output.weight", "another shape", text=text, **{**given, "factory_arguments": wider})


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes a module to the current folder under a name that no other test used, with weights that fit ``Linear``."""
    monkeypatch.chdir(tmp_path)
    save_file({"weight": torch.ones(2, 1024), "bias": torch.zeros(2)}, tmp_path / "w.safetensors")

    def write(name, code):
        (tmp_path / f"{name}.py").write_text(
            "import torch\nclass Flat(torch.nn.Linear):\n    def forward(self, x):\n"
            "        return super().forward(x.flatten(1))\n" + code
        )
        return f"{name}:make"

    yield write
    for name in [name for name in sys.modules if name.startswith("onfh_test_")]:
        del sys.modules[name]


def test_a_factory_of_the_users_in_the_current_folder(module, tmp_path):
    given = {"stage": "classifier", "spec": _spec(), "weights": tmp_path / "w.safetensors"}
    before = list(sys.path)
    source = open_source(module("onfh_test_a", "def make():\n    return Flat(1024, 2)\n"), **given)
    assert sys.path == before
    assert float(source.network(torch.ones(1, 1, 32, 32))[0, 0].detach()) == 1024
    half = {"weight": torch.ones(2, 1024).half(), "bias": torch.zeros(2).half()}
    save_file(half, tmp_path / "half.safetensors")
    source = open_source("onfh_test_a:make", **{**given, "weights": tmp_path / "half.safetensors"})
    assert source.network.weight.dtype == torch.float32


@pytest.mark.parametrize(
    ("code", "error", "words"),
    [
        ("", "factory_not_found", ("holds no function make",)),
        ("make = 3\n", "factory_not_found", ("holds no function make",)),
        ("import not_there\n", "factory_failed", ("Importing", "ModuleNotFoundError", "not_there")),
        ("1 / 0\n", "factory_failed", ("Importing", "ZeroDivisionError")),
        ("def make():\n    raise KeyError('x')\n", "factory_failed", ("KeyError",)),
        ("def make():\n    return 3\n", "factory_failed", ("returned a int",)),
        ("def make():\n    return Flat(1024, 2, bias=False)\n", "weights_incomplete", ("unexpected: bias",)),
        ("class Odd(Flat):\n    def forward(self, x):\n        return [1]\ndef make():\n    return Odd(1024, 2)\n",
         "stage_mismatch", ("answers with a list",)),
        ("class One(Flat):\n    def forward(self, x):\n        return super().forward(x)[:, :1]\n"
         "def make():\n    return One(1024, 2)\n", "stage_mismatch", ("has 1 class(es)", "softmax")),
    ],
)  # fmt: skip
def test_a_factory_that_fails_says_how(module, tmp_path, code, error, words):
    text = module("onfh_test_b", code)
    _refused(error, *words, text=text, stage="classifier", weights=tmp_path / "w.safetensors")


def test_weights_of_a_factory(module, tmp_path):
    text = module("onfh_test_c", "def make():\n    return Flat(1024, 2)\n")
    error = _refused("weights_not_found", text=text, stage="classifier")
    assert "--classifier-weights" in error.fix
    _refused("weights_not_found", text=text, weights=tmp_path / "none.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"\x00" * 30)
    _refused("weights_unreadable", "broken", text=text, weights=tmp_path / "broken.safetensors")
    torch.save({"weight": torch.ones(2, 1024)}, tmp_path / "w.pt")
    _refused("checkpoint_is_pickle", "w.pt", text=text, weights=tmp_path / "w.pt")
    save_file({"weight": torch.full((2, 1024), torch.inf), "bias": torch.zeros(2)}, tmp_path / "i.safetensors")
    _refused("weights_not_finite", "in weight", text=text, stage="classifier", weights=tmp_path / "i.safetensors")
    _refused("factory_not_found", "no module onfh_test_z", text="onfh_test_z:make", weights=tmp_path / "w.safetensors")


class _Bomb:
    def __reduce__(self):
        return (open, ("opened", "w"))


@pytest.mark.parametrize("suffix", ["pt", "pth", "bin", "ckpt", "pkl", "PT"])
def test_a_pickle_is_never_opened(tmp_path, monkeypatch, suffix):
    import pickle

    monkeypatch.chdir(tmp_path)
    path = tmp_path / f"model.{suffix}"
    path.write_bytes(pickle.dumps(_Bomb()))
    error = _refused("checkpoint_is_pickle", path.name, text=path)
    assert "save_file" in error.fix
    assert not (tmp_path / "opened").exists()


def test_what_is_nothing_of_the_three(tmp_path, folders):
    _refused("source_not_found", "nowhere", text=tmp_path / "nowhere")
    _refused("source_not_found", text="C:\\models\\a.onnx")
    weights = folders / "segmenter" / "model.safetensors"
    error = _refused("source_unknown", text=weights)
    assert "module:factory" in error.fix
    _refused("checkpoint_not_found", text=tmp_path)
    _refused("source_unknown", "brings its own weights", text=folders / "segmenter", weights=weights)


def test_a_folder_is_no_factory_whatever_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run:best").mkdir()
    (tmp_path / "run:best" / "config.json").write_text(json.dumps({"architectures": ["BertModel"]}))
    (tmp_path / "run:best" / "model.safetensors").touch()
    _refused("checkpoint_unknown", "BertModel", text="run:best")
