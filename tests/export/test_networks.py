"""Checkpoints come back as they went, and only from safetensors."""

import json
import logging

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers.utils import logging as transformers_logging

from onfh_export.networks import (
    checkpoint_from_folder,
    parameter_count,
    save_checkpoint,
    segmenter_from_shape,
    vit_from_shape,
)
from onfh_export.recipe import Recipe, smoke_recipe
from onfh_runtime.errors import UsageError

SMOKE = smoke_recipe()


def test_a_checkpoint_comes_back_with_the_same_answers(tmp_path):
    torch.manual_seed(0)
    network = segmenter_from_shape(SMOKE.segmenter, SMOKE.size).eval()
    save_checkpoint(network, tmp_path / "s")
    save_checkpoint(network, tmp_path / "s")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["s"]
    again = checkpoint_from_folder(tmp_path / "s")
    pixels = torch.randn(2, 1, *SMOKE.size)
    with torch.inference_mode():
        torch.testing.assert_close(again(pixel_values=pixels).logits, network(pixel_values=pixels).logits)
    assert not again.training


def test_a_pickle_is_refused_by_name(tmp_path):
    network = vit_from_shape(SMOKE.classifier, SMOKE.size)
    save_checkpoint(network, tmp_path / "c")
    (tmp_path / "c" / "model.safetensors").unlink()
    torch.save(network.state_dict(), tmp_path / "c" / "pytorch_model.bin")
    with pytest.raises(UsageError, match="checkpoint_is_pickle"):
        checkpoint_from_folder(tmp_path / "c")


def test_what_is_no_checkpoint_is_refused(tmp_path):
    with pytest.raises(UsageError, match="checkpoint_not_found"):
        checkpoint_from_folder(tmp_path)
    (tmp_path / "config.json").write_text('{"architectures": ["BertModel"], "model_type": "bert"}')
    with pytest.raises(UsageError, match="checkpoint_not_found"):
        checkpoint_from_folder(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(UsageError, match="BertModel"):
        checkpoint_from_folder(tmp_path)


@pytest.fixture
def folder(tmp_path):
    """A ViT's folder."""
    torch.manual_seed(0)
    save_checkpoint(vit_from_shape(SMOKE.classifier, SMOKE.size), tmp_path / "c")
    return tmp_path / "c"


def _edit_weights(folder, change):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def _edit_config(folder, **fields):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda w: w.pop("classifier.weight"), "missing: classifier.weight"),
        (lambda w: w.update({"extra.weight": torch.zeros(1)}), "unexpected: extra.weight"),
        (lambda w: w.update({"classifier.bias": torch.zeros(5)}), "of another shape: classifier.bias"),
        (lambda w: [w.pop(name) for name in list(w) if "layer.0." in name], "more"),
    ],
)
def test_weights_that_are_not_the_networks_are_named(folder, change, words):
    _edit_weights(folder, change)
    with pytest.raises(UsageError, match="weights_incomplete") as caught:
        checkpoint_from_folder(folder)
    assert words in caught.value.text


def test_layers_the_configuration_does_not_know_are_not_ignored(folder):
    _edit_config(folder, num_hidden_layers=0)
    with pytest.raises(UsageError, match="weights_incomplete"):
        checkpoint_from_folder(folder)


def test_weights_without_a_part_in_the_answer_may_come_along(folder):
    _edit_weights(folder, lambda w: w.update({"vit.pooler.dense.weight": torch.zeros(2, 2)}))
    checkpoint_from_folder(folder)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_weights_that_are_no_numbers_are_named(folder, value):
    _edit_weights(folder, lambda w: w["classifier.weight"].view(-1)[3:4].fill_(value))
    with pytest.raises(UsageError, match=r"NaN or infinity in classifier\.weight.*weights_not_finite"):
        checkpoint_from_folder(folder)


def test_a_folder_that_cannot_be_loaded_says_why(folder):
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:500])
    with pytest.raises(UsageError, match=r"SafetensorError.*checkpoint_unreadable"):
        checkpoint_from_folder(folder)
    (folder / "model.safetensors").write_bytes(whole)
    _edit_config(folder, hidden_size="wide")
    with pytest.raises(UsageError, match="checkpoint_unreadable"):
        checkpoint_from_folder(folder)
    for text in ("{", "[]", '{"architectures": 3}'):
        (folder / "config.json").write_text(text)
        with pytest.raises(UsageError, match=r"config\.json.*checkpoint_unreadable"):
            checkpoint_from_folder(folder)


@pytest.mark.parametrize(
    "backbone",
    [
        {"backbone_config": {"model_type": "resnet"}},
        {"backbone_config": None},
        # Transformers would ask the internet for it, whatever it is told.
        {"backbone": "microsoft/swin-tiny-patch4-window7-224", "use_pretrained_backbone": True},
    ],
)
def test_a_upernet_on_another_backbone_is_refused(tmp_path, backbone):
    save_checkpoint(segmenter_from_shape(SMOKE.segmenter, SMOKE.size), tmp_path / "s")
    _edit_config(tmp_path / "s", **backbone)
    with pytest.raises(UsageError, match=r"backbone is .*checkpoint_unknown"):
        checkpoint_from_folder(tmp_path / "s")


def test_loading_is_quiet_and_leaves_the_logging_as_it_was(folder, capfd):
    level = transformers_logging.get_verbosity()
    _edit_weights(folder, lambda w: w.pop("classifier.weight"))
    with pytest.raises(UsageError):
        checkpoint_from_folder(folder)
    assert transformers_logging.get_verbosity() == level
    assert capfd.readouterr() == ("", "")
    assert logging.getLogger("transformers").level == level


def test_both_demo_stages_fit_the_bundle_budget():
    # FP32 and FP16 copies of both stages within 25 MB: 6 bytes a weight.
    recipe = Recipe()
    stages = (vit_from_shape(recipe.classifier, recipe.size), segmenter_from_shape(recipe.segmenter, recipe.size))
    assert sum(map(parameter_count, stages)) <= 4.1e6
