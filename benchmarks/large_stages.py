"""The stages people deploy, ViT-B/16 at 224 and UperNet-Swin-T at 512, with seeded weights.

The weights are random, so the answers mean nothing; the work is that of a trained pair. ``large_stages.py FOLDER``
writes their checkpoints and a configuration for `onfh export`, ``large_stages.py FOLDER SLICES`` a bundle of their FP32
graphs with the gate forced to so many slices.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    SwinConfig,
    UperNetConfig,
    UperNetForSemanticSegmentation,
    ViTConfig,
    ViTForImageClassification,
)

from onfh_export.exporting import StageRequest, draft_bundle, open_stage_source
from onfh_export.networks import save_checkpoint
from onfh_export.stage_graph import STAGES, float_stage
from onfh_export.write_bundle import new_bundle, seal_bundle
from onfh_runtime.bundle import load_bundle

BONE = {"center": 500.0, "width": 2000.0}


def large_networks() -> dict[str, nn.Module]:
    """Both networks, in evaluation mode."""
    torch.manual_seed(0)
    vit = ViTForImageClassification._from_config(ViTConfig(image_size=224), attn_implementation="eager")
    backbone = SwinConfig(
        image_size=512,
        embed_dim=96,
        depths=[2, 2, 6, 2],
        num_heads=[3, 6, 12, 24],
        window_size=7,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    config = UperNetConfig(backbone_config=backbone, use_auxiliary_head=False, num_labels=2)
    upernet = UperNetForSemanticSegmentation._from_config(config, attn_implementation="eager")
    return {"classifier": vit.eval(), "segmenter": upernet.eval()}


def write_large_checkpoints(folder: Path) -> None:
    """Write ``classifier/`` and ``segmenter/``, Transformers folders of 343 and 240 MB."""
    for name, network in large_networks().items():
        save_checkpoint(network, folder / name)


def large_config(gated: int) -> dict[str, Any]:
    """A configuration of :func:`onfh_export.config.read_config` for them.

    Args:
        gated: so many slices of a study reach stage 2, whatever stage 1 says.
    """

    def stage(size: int, max_batch: int) -> dict[str, Any]:
        three = {"windows": [BONE] * 3, "mean": [0.5] * 3, "std": [0.5] * 3}
        return {"max_batch": max_batch, "input": {"size": [size, size], **three}}

    return {
        "name": "large",
        "version": "0",
        "description": "ViT-B/16 and UperNet-Swin-T with seeded weights, for timing only.",
        "slice_spacing_mm": 3.0,
        "coverage": {"margin_mm": 12.0},
        "classifier": stage(224, 8),
        "segmenter": stage(512, 1),
        "gate": {"threshold": 0.0, "max_slices": gated},
        "slice_threshold": 0.0,
        "patient_rule": {"k": 1, "threshold": 0.0},
        "minimum_volume_mm3": 0.0,
        # Weights that were never trained answer everything alike, so rounding decides which ten slices go on.
        "parity": {"mask_dice": 0.0, "side_flips": 99, "auc_change": 1.0},
    }


def write_large_bundle(folder: Path, *, gated: int) -> Path:
    """Write the bundle of their FP32 graphs, as `onfh export` makes them; about 600 MB, no parity gate.

    Args:
        folder: where; replaced.
        gated: see :func:`large_config`.
    """
    config = large_config(gated)
    rules = draft_bundle(config)
    with tempfile.TemporaryDirectory() as name, new_bundle(folder, force=True) as bundle:
        write_large_checkpoints(Path(name))
        for stage in STAGES:
            source = open_stage_source(stage, StageRequest(str(Path(name) / stage)), config, rules)
            spec = rules.classifier if stage == "classifier" else rules.segmenter
            path = bundle / stage / "model.onnx"
            made = float_stage(stage, source, spec, path, Path(name), opset=18, rewrites=True)
            done = made.spec.model_copy(update={"architecture": source.architecture, "graphs": {"fp32": made.graph}})
            rules = rules.model_copy(update={stage: done})
        seal_bundle(bundle, rules.model_dump(mode="json", by_alias=True))
    return load_bundle(folder).root


if __name__ == "__main__":
    if len(sys.argv) == 3:
        write_large_bundle(Path(sys.argv[1]), gated=int(sys.argv[2]))
    else:
        write_large_checkpoints(Path(sys.argv[1]))
        (Path(sys.argv[1]) / "config.json").write_text(json.dumps(large_config(10)))
