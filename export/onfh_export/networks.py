"""The two demo networks, both Transformers classes, and their folders (config.json + safetensors)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
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
from transformers.utils import logging as transformers_logging

from onfh_export.recipe import ClassifierShape, SegmenterShape
from onfh_runtime.errors import UsageError

__all__ = ["checkpoint_from_folder", "parameter_count", "save_checkpoint", "segmenter_from_shape", "vit_from_shape"]

_LABELS = {0: "no necrosis", 1: "necrosis"}
_ARCHITECTURES: dict[str, Any] = {
    "ViTForImageClassification": ViTForImageClassification,
    "UperNetForSemanticSegmentation": UperNetForSemanticSegmentation,
}


def vit_from_shape(shape: ClassifierShape, size: tuple[int, int]) -> nn.Module:
    """A freshly initialised classifier: (N, 1, H, W) float32 -> logits (N, 2)."""
    config = ViTConfig(
        hidden_size=shape.hidden_size,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        intermediate_size=shape.hidden_size * shape.mlp_ratio,
        image_size=size,
        patch_size=shape.patch_size,
        num_channels=1,
        id2label=_LABELS,
    )
    return _from_config(ViTForImageClassification, config)


def segmenter_from_shape(shape: SegmenterShape, size: tuple[int, int]) -> nn.Module:
    """A freshly initialised segmenter: (N, 1, H, W) float32 -> logits (N, 2, H, W)."""
    backbone = SwinConfig(
        image_size=size,
        patch_size=shape.patch_size,
        num_channels=1,
        embed_dim=shape.embed_dim,
        depths=list(shape.depths),
        num_heads=list(shape.heads),
        window_size=shape.window_size,
        drop_path_rate=0.0,
        out_features=[f"stage{index + 1}" for index in range(len(shape.depths))],
    )
    config = UperNetConfig(
        backbone_config=backbone, hidden_size=shape.hidden_size, use_auxiliary_head=False, id2label=_LABELS
    )
    return _from_config(UperNetForSemanticSegmentation, config)


def save_checkpoint(network: nn.Module, folder: Path) -> None:
    """Write config.json and model.safetensors to ``folder``, replacing what is there file by file."""
    temporary = folder.with_name(folder.name + ".tmp")
    with _no_progress_bars():
        network.save_pretrained(temporary)  # type: ignore[operator]
    folder.mkdir(parents=True, exist_ok=True)
    for file in temporary.iterdir():
        file.replace(folder / file.name)
    temporary.rmdir()


def checkpoint_from_folder(folder: Path) -> nn.Module:
    """Load a Transformers folder, eager attention, evaluation mode; nothing is unpickled and no network is asked.

    Raises:
        UsageError: ``checkpoint_not_found``, ``checkpoint_is_pickle`` or ``checkpoint_unknown``.
    """
    if not (folder / "config.json").is_file():
        raise UsageError(
            "checkpoint_not_found",
            f"{folder} is not a Transformers folder (it holds no config.json).",
            "Name the folder that save_pretrained wrote.",
        )
    if not any(folder.glob("*.safetensors")):
        pickles = sorted(file.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for file in folder.glob(pattern))
        if pickles:
            raise UsageError(
                "checkpoint_is_pickle",
                f"{folder} holds its weights only as {pickles[0]}, a pickle, which could run code when it is opened.",
                "Save it again with save_pretrained(folder, safe_serialization=True).",
            )
        raise UsageError("checkpoint_not_found", f"{folder} holds no *.safetensors file.", "Save the weights again.")
    config, _ = ViTConfig.get_config_dict(str(folder), local_files_only=True)
    names = config.get("architectures") or ["none"]
    if names[0] not in _ARCHITECTURES:
        raise UsageError(
            "checkpoint_unknown",
            f"{folder} holds the architecture {names[0]}.",
            f"Known are {' and '.join(_ARCHITECTURES)}.",
        )
    with _no_progress_bars():
        network: nn.Module = _ARCHITECTURES[names[0]].from_pretrained(
            str(folder),
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            attn_implementation="eager",
            dtype=torch.float32,
        )
    return network.eval()


def parameter_count(network: nn.Module) -> int:
    """Number of weights."""
    return sum(parameter.numel() for parameter in network.parameters())


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


def _from_config(architecture: Any, config: Any) -> nn.Module:
    network: nn.Module = architecture._from_config(config, attn_implementation="eager")
    return network
