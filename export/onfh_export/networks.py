"""Networks that are Transformers classes, and their folders (config.json + safetensors)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    SwinConfig,
    SwinForImageClassification,
    UperNetConfig,
    UperNetForSemanticSegmentation,
    ViTConfig,
    ViTForImageClassification,
)
from transformers.utils import logging as transformers_logging

from onfh_export.recipe import ClassifierShape, SegmenterShape
from onfh_runtime.errors import UsageError

__all__ = [
    "check_weights_finite",
    "checkpoint_from_folder",
    "parameter_count",
    "save_checkpoint",
    "segmenter_from_shape",
    "vit_from_shape",
    "weights_incomplete",
]

_LABELS = {0: "no necrosis", 1: "necrosis"}
_ARCHITECTURES: dict[str, Any] = {
    "ViTForImageClassification": ViTForImageClassification,
    "SwinForImageClassification": SwinForImageClassification,
    "UperNetForSemanticSegmentation": UperNetForSemanticSegmentation,
}
_UNUSED = ("auxiliary_head.", "vit.pooler.")
"""Weights that take no part in the answer: a head for training only, and a pooler the classifier does not have."""
_NAMED = 5
"""Weights an error lists by name."""


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
    with _quiet():
        network.save_pretrained(temporary)  # type: ignore[operator]
    folder.mkdir(parents=True, exist_ok=True)
    for file in temporary.iterdir():
        file.replace(folder / file.name)
    temporary.rmdir()


def checkpoint_from_folder(folder: Path) -> nn.Module:
    """Load a Transformers folder, eager attention, FP32, evaluation mode; nothing is unpickled and no network is asked.

    A UperNet's auxiliary head, which only a training uses, is dropped.

    Raises:
        UsageError: ``checkpoint_not_found``, ``checkpoint_is_pickle``, ``checkpoint_unknown``,
            ``checkpoint_unreadable``, ``weights_incomplete`` or ``weights_not_finite``.
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
    architecture = _architecture(folder)
    try:
        with _quiet():
            network, loaded = architecture.from_pretrained(
                str(folder),
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
                attn_implementation="eager",
                dtype=torch.float32,
                # Reported below, with the missing ones, which would otherwise be random without a word.
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
    except Exception as error:  # a folder can be wrong in as many ways as Transformers and safetensors have classes
        raise UsageError(
            "checkpoint_unreadable",
            f"{folder} cannot be loaded ({type(error).__name__}: {str(error).strip().splitlines()[0]}).",
            "Save the checkpoint again.",
        ) from error
    others = {"missing": loaded["missing_keys"], "unexpected": loaded["unexpected_keys"]}
    problems = {word: [key for key in keys if not key.startswith(_UNUSED)] for word, keys in others.items()}
    problems["of another shape"] = [key for key, *_ in loaded["mismatched_keys"] if not key.startswith(_UNUSED)]
    if any(problems.values()):
        raise weights_incomplete(str(folder), problems)
    if isinstance(network, UperNetForSemanticSegmentation):
        network.auxiliary_head = None
    check_weights_finite(network, str(folder))
    module: nn.Module = network.eval()
    return module


def check_weights_finite(network: nn.Module, where: str) -> None:
    """Refuse a network, named ``where``, with a weight that is NaN or infinite.

    Raises:
        UsageError: ``weights_not_finite``.
    """
    for name, tensor in network.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise UsageError(
                "weights_not_finite",
                f"{where} holds NaN or infinity in {name}.",
                "Its training diverged: name an earlier checkpoint.",
            )


def weights_incomplete(where: str, problems: Mapping[str, Iterable[str]]) -> UsageError:
    """The error for weights that are not those of the network: ``problems`` maps what is wrong to names of weights."""
    parts = []
    for word, keys in problems.items():
        names = sorted(keys)
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        parts += [f"{word}: {', '.join(names[:_NAMED])}{more}"] if names else []
    return UsageError(
        "weights_incomplete",
        f"The weights in {where} are not those of its network ({'; '.join(parts)}).",
        "Save the checkpoint again, with the configuration it was trained with.",
    )


def parameter_count(network: nn.Module) -> int:
    """Number of weights."""
    return sum(parameter.numel() for parameter in network.parameters())


def _architecture(folder: Path) -> Any:
    """The class that the folder names; UsageError ``checkpoint_unknown`` or ``checkpoint_unreadable``."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        name = str((config.get("architectures") or ["none"])[0])
        backbone = config.get("backbone_config") or {}
        # A backbone named by itself is looked up on the internet, whatever local_files_only says.
        kind = config.get("backbone") or backbone.get("model_type", "of no named kind")
    except (OSError, ValueError, AttributeError, TypeError, LookupError) as error:
        raise UsageError("checkpoint_unreadable", f"{folder / 'config.json'} cannot be read: {error}.") from error
    known = "Known are ViT and Swin classifiers and UperNet with a Swin backbone; others can be given as ONNX files."
    if name not in _ARCHITECTURES:
        raise UsageError("checkpoint_unknown", f"{folder} holds the architecture {name}.", known)
    if name == "UperNetForSemanticSegmentation" and kind != "swin":
        raise UsageError("checkpoint_unknown", f"{folder} holds a UperNet whose backbone is {kind}.", known)
    return _ARCHITECTURES[name]


@contextmanager
def _quiet() -> Iterator[None]:
    shown, level = transformers_logging.is_progress_bar_enabled(), transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if shown:
            transformers_logging.enable_progress_bar()


def _from_config(architecture: Any, config: Any) -> nn.Module:
    network: nn.Module = architecture._from_config(config, attn_implementation="eager")
    return network
