"""The stages people deploy become FP16 plans, on a machine without a GPU: ViT-B/16 at 224, UperNet-Swin-T at 512."""

import os

import onnx
import pytest

from onfh_export.graph.precision import half_from_float
from onfh_export.graph.upernet import mix_channels_early
from onfh_export.onnx_export import onnx_from_network
from onfh_runtime.engines import EngineOptions, Profile, find_flavours, flavour, plan_from_onnx

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        "tensorrt-rtx" not in {found.name for found in find_flavours()} and not os.environ.get("ONFH_REQUIRE_TOOLS"),
        reason="TensorRT-RTX is not installed",
    ),
]


def _vit_b():
    from transformers import ViTConfig, ViTForImageClassification

    return ViTForImageClassification._from_config(ViTConfig(image_size=224), attn_implementation="eager"), 224


def _upernet_swin_t():
    from transformers import SwinConfig, UperNetConfig, UperNetForSemanticSegmentation

    backbone = SwinConfig(
        image_size=512,
        embed_dim=96,
        depths=[2, 2, 6, 2],
        num_heads=[3, 6, 12, 24],
        window_size=7,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    config = UperNetConfig(backbone_config=backbone, use_auxiliary_head=False, num_labels=2)
    return UperNetForSemanticSegmentation._from_config(config, attn_implementation="eager"), 512


@pytest.mark.parametrize(("made", "megabytes"), [(_vit_b, 172), (_upernet_swin_t, 120)])
def test_a_full_size_stage_becomes_a_half_plan(made, megabytes, tmp_path):
    import torch

    torch.manual_seed(0)
    network, side = made()
    model, _ = mix_channels_early(onnx_from_network(network.eval(), (3, side, side)))
    onnx.save(half_from_float(model, dtype="fp16"), tmp_path / "model.fp16.onnx")
    del network, model
    options = EngineOptions(profiles=(Profile(1, 8, 8),))
    built = plan_from_onnx(tmp_path / "model.fp16.onnx", flavour("tensorrt-rtx"), "sm89", options, expect_half=True)
    assert built.half_share.tensors > 0.95
    assert built.half_share.products > 0.95
    # Two bytes a weight and little else: a plan that stayed FP32 would be twice as large.
    assert megabytes <= len(built.data) / 1e6 < 1.3 * megabytes
