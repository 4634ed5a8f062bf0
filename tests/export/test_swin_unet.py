"""Our Swin-Unet is the one its authors' checkpoints belong to, and exports with nothing left to compute from shapes."""

import collections
import warnings

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from transformers import SwinConfig, SwinModel

from onfh_export.networks import parameter_count
from onfh_export.swin_unet import swin_unet
from onfh_runtime.errors import UsageError

TINY = {"image_size": (32, 64), "channels": 1, "embed_dim": 8, "depths": (2, 2, 2), "heads": (1, 2, 4), "window": 4}
"""Maps of 8 x 16, 4 x 8 and 2 x 4 tokens: shifted windows, whole ones, and cut ones."""


def _random(network):
    torch.manual_seed(0)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, 1.0 if parameter.ndim == 1 else 0.0, 0.2)
    return network.eval()


def test_the_default_is_the_published_size():
    network = swin_unet(classes=9)
    # Swin-Unet at 224 is quoted as 27.17 M weights.
    assert parameter_count(network) / 1e6 == pytest.approx(27.17, abs=0.005)
    names = set(network.state_dict())
    assert {
        "patch_embed.norm.weight", "layers.0.blocks.1.attn.relative_position_bias_table",
        "layers.2.downsample.reduction.weight", "layers_up.0.expand.weight", "layers_up.2.upsample.norm.bias",
        "layers_up.3.blocks.0.mlp.fc1.bias", "concat_back_dim.3.weight", "norm_up.weight", "up.expand.weight",
        "output.weight",
    } <= names  # fmt: skip
    assert not {name for name in names if "index" in name or "mask" in name}


def test_the_encoder_answers_as_another_implementation_of_swin():
    # Twice TINY, because Transformers keeps tables of the whole window where windows are cut.
    ours = _random(swin_unet(**{**TINY, "image_size": (64, 128)}))
    config = SwinConfig(
        image_size=[64, 128], num_channels=1, embed_dim=8, depths=[2, 2, 2], num_heads=[1, 2, 4], window_size=4
    )
    theirs = SwinModel(config, add_pooling_layer=False).eval()
    words = {
        "attn.proj": "attention.o_proj", "attn.relative": "attention.relative_position_bias.relative",
        "norm1": "layernorm_before", "norm2": "layernorm_after",
        "patch_embed.proj": "embeddings.patch_embeddings.projection", "patch_embed.norm": "embeddings.norm",
    }  # fmt: skip
    state = {}
    for key, value in ours.state_dict().items():
        if key.startswith("norm."):
            state[key.replace("norm", "layernorm", 1)] = value
        if not key.startswith(("layers.", "patch_embed.")):
            continue
        name = f"encoder.{key}" if key.startswith("layers.") else key
        for word, other in words.items():
            name = name.replace(word, other)
        if "attn.qkv" in name:
            for letter, part in zip("qkv", value.chunk(3), strict=True):
                state[name.replace("attn.qkv", f"attention.{letter}_proj")] = part
        else:
            state[name] = value
    theirs.load_state_dict(state)
    pixels = torch.randn(3, 1, 64, 128)
    with torch.inference_mode():
        tokens = ours.patch_embed(pixels)
        for layer in ours.layers:
            tokens = layer(tokens)
        expected = theirs(pixels).last_hidden_state
        torch.testing.assert_close(ours.norm(tokens).flatten(1, 2), expected)
    assert expected.std() > 0.1


def test_the_authors_checkpoints_load_whole():
    network = swin_unet(**TINY)
    state = {f"swin_unet.{key}": value for key, value in _random(swin_unet(**TINY)).state_dict().items()}
    state["swin_unet.layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(16, 16)
    state["swin_unet.layers_up.2.blocks.1.attn_mask"] = torch.zeros(8, 16, 16)
    given = dict(state)
    network.load_state_dict(state, strict=True)
    torch.testing.assert_close(network.output.weight, state["swin_unet.output.weight"])
    assert given.keys() == state.keys()
    state["swin_unet.surprise"] = torch.zeros(1)
    with pytest.raises(RuntimeError, match="surprise"):
        network.load_state_dict(state, strict=True)


def test_a_row_answers_without_its_neighbours():
    network = _random(swin_unet(**TINY))
    pixels = torch.randn(3, 1, 32, 64)
    with torch.inference_mode():
        before = network(pixels)
        changed = pixels.clone()
        changed[1, 0, 0, 0] += 1
        after = network(changed)
    assert before.shape == (3, 2, 32, 64)
    torch.testing.assert_close(before[[0, 2]], after[[0, 2]], rtol=0, atol=0)
    assert (before[1] != after[1]).float().mean() > 0.5


@pytest.mark.slow
def test_it_exports_with_a_symbolic_batch_and_constant_tables(tmp_path):
    network = _random(swin_unet(**{**TINY, "image_size": (64, 64), "depths": (2, 1), "heads": (1, 2)}))
    path = tmp_path / "m.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network, (torch.zeros(2, 1, 64, 64),), str(path), input_names=["pixel_values"], output_names=["logits"],
            dynamic_shapes={"pixel_values": {0: torch.export.Dim("batch", min=1, max=64)}}, opset_version=18,
            dynamo=True, external_data=False, verbose=False,
        )  # fmt: skip
    model = onnx.load(path)
    operators = collections.Counter(node.op_type for node in model.graph.node)
    assert not {"Shape", "Where", "If", "Gather", "IsNaN", "Range"} & set(operators)
    attentions = sum(name.endswith("qkv.weight") for name in network.state_dict())
    assert operators["Softmax"] == attentions == 5
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for batch in (1, 2, 3, 7):
        pixels = torch.randn(batch, 1, 64, 64)
        (found,) = session.run(None, {"pixel_values": pixels.numpy()})
        np.testing.assert_allclose(found, network(pixels).detach().numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"image_size": (32, 60)}, "size_unsupported"),
        ({"image_size": (80, 80)}, "size_unsupported"),
        ({"image_size": (0, 32)}, "size_unsupported"),
        ({"heads": (1, 2)}, "shape_invalid"),
        ({"decoder_depths": (1,)}, "shape_invalid"),
        ({"heads": (3, 3, 3)}, "shape_invalid"),
    ],
)
def test_a_shape_that_does_not_fit_is_refused(change, code):
    with pytest.raises(UsageError, match=code):
        swin_unet(**{**TINY, **change})


def test_decoder_depths_count_from_the_coarsest():
    network = swin_unet(**{**TINY, "decoder_depths": (3, 1)})
    assert [len(layer.blocks) for layer in network.layers_up[1:]] == [3, 1]


def test_rows_of_another_size_are_refused_not_mixed():
    with pytest.raises(ValueError, match="expected rows"):
        swin_unet(**TINY)(torch.zeros(1, 1, 64, 32))
