"""A bundle with the stages people deploy, ViT-B/16 at 224 and UperNet-Swin-T at 512, with seeded weights.

``large_stages.py FOLDER SLICES`` writes it with the gate forced to so many slices. The weights are random, so the
answers mean nothing; the work is that of a trained pair.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from transformers import (
    SwinConfig,
    UperNetConfig,
    UperNetForSemanticSegmentation,
    ViTConfig,
    ViTForImageClassification,
)

from onfh_export.onnx_export import INPUT_NAME, OUTPUT_NAME, onnx_from_network
from onfh_runtime.bundle import SCHEMA, load_bundle, sha256_of

BONE = {"center": 500.0, "width": 2000.0}


def _stage(architecture: str, path: str, size: int, max_batch: int) -> dict[str, object]:
    three = {"windows": [BONE] * 3, "mean": [0.5] * 3, "std": [0.5] * 3}
    return {
        "architecture": architecture,
        "models": {"fp32": path},
        "input_name": INPUT_NAME,
        "output_name": OUTPUT_NAME,
        "max_batch": max_batch,
        "input": {"size": [size, size], **three},
    }


def write_large_bundle(folder: Path, *, gated: int) -> Path:
    """Write the bundle with its gate forced to ``gated`` slices; about 600 MB.

    Args:
        folder: where.
        gated: so many slices reach stage 2, whatever stage 1 says.
    """
    torch.manual_seed(0)
    vit = ViTForImageClassification._from_config(ViTConfig(image_size=224), attn_implementation="eager").eval()
    backbone = SwinConfig(
        image_size=512,
        embed_dim=96,
        depths=[2, 2, 6, 2],
        num_heads=[3, 6, 12, 24],
        window_size=7,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    config = UperNetConfig(backbone_config=backbone, use_auxiliary_head=False, num_labels=2)
    upernet = UperNetForSemanticSegmentation._from_config(config, attn_implementation="eager").eval()
    for name, network, size in (("classifier", vit, 224), ("segmenter", upernet, 512)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        onnx_from_network(network, (3, size, size), folder / name / "model.onnx")
    document = {
        "schema": SCHEMA,
        "name": "large",
        "version": "0",
        "description": "ViT-B/16 and UperNet-Swin-T with seeded weights, for timing only.",
        "slice_spacing_mm": 3.0,
        "coverage": {"margin_mm": 12.0},
        "classifier": _stage("ViT-B/16", "classifier/model.onnx", 224, 8),
        "segmenter": _stage("UperNet-Swin-T", "segmenter/model.onnx", 512, 1),
        "gate": {"threshold": 0.0, "max_slices": gated},
        "slice_threshold": 0.0,
        "patient_rule": {"k": 1, "threshold": 0.0},
        "minimum_volume_mm3": 0.0,
        "files": {str(p.relative_to(folder)): sha256_of(p) for p in sorted(folder.rglob("*.onnx"))},
    }
    (folder / "bundle.json").write_text(json.dumps(document))
    return load_bundle(folder).root


if __name__ == "__main__":
    write_large_bundle(Path(sys.argv[1]), gated=int(sys.argv[2]))
