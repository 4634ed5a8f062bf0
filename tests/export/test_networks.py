"""Checkpoints come back as they went, and only from safetensors."""

import pytest
import torch

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


def test_both_demo_stages_fit_the_bundle_budget():
    # FP32 and FP16 copies of both stages within 25 MB: 6 bytes a weight.
    recipe = Recipe()
    stages = (vit_from_shape(recipe.classifier, recipe.size), segmenter_from_shape(recipe.segmenter, recipe.size))
    assert sum(map(parameter_count, stages)) <= 4.1e6
