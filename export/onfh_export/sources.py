"""A stage as its user names it: a Transformers folder, an ONNX file, or ``module:factory`` with weights."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import onnx
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from onfh_export.networks import check_weights_finite, checkpoint_from_folder, weights_incomplete
from onfh_export.onnx_source import model_from_onnx_file
from onfh_export.stage_needs import Activation, StageNeeds
from onfh_runtime.bundle import StageInput, StageName
from onfh_runtime.errors import UsageError

__all__ = ["Source", "open_source"]

_PICKLES = (".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth")
_FACTORY = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_ARCHITECTURES = {
    "classifier": ("ViTForImageClassification", "SwinForImageClassification"),
    "segmenter": ("UperNetForSemanticSegmentation",),
}


@dataclass(frozen=True)
class Source:
    """A stage that was read and fits its configuration.

    Attributes:
        kind: what was named.
        architecture: the network's class, ``module:factory``, or ``ONNX``.
        network: in evaluation mode, FP32, takes (N, C, H, W) and answers a tensor or something with ``logits``;
            None for an ONNX file.
        model: FP32, opset 17 to 20, weights inside, one input and one output under the names of a bundle, a symbolic
            batch that was proved; None for the others.
        notes: what was changed on the way in, one sentence each.
    """

    kind: Literal["transformers", "onnx", "factory"]
    architecture: str
    network: nn.Module | None = None
    model: onnx.ModelProto | None = None
    notes: tuple[str, ...] = ()


def open_source(
    text: str,
    *,
    stage: StageName,
    spec: StageInput,
    activation: Activation = "softmax",
    positive_class: int = 1,
    output: str | None = None,
    weights: Path | None = None,
    factory_arguments: Mapping[str, Any] | None = None,
) -> Source:
    """Read a stage and hold it against its configuration; nothing is unpickled and nothing is fetched.

    Args:
        text: a Transformers folder, a path that ends in .onnx, or ``module:factory``. A module is looked up where
            Python looks, and last in the current folder; its code is run.
        stage: which of the two.
        spec: its input, as the configuration says.
        activation: as the configuration says.
        positive_class: as the configuration says.
        output: the output of an ONNX file that has several.
        weights: safetensors file, for a factory only.
        factory_arguments: keywords for the factory.

    Raises:
        UsageError: ``source_not_found``, ``source_unknown``, ``stage_mismatch``, ``weights_not_finite``; for a folder
            what :func:`~onfh_export.networks.checkpoint_from_folder` raises; for a file what
            :func:`~onfh_export.onnx_source.model_from_onnx_file` raises; for a factory ``factory_not_found``,
            ``factory_failed``, ``weights_not_found``, ``weights_unreadable``, ``weights_incomplete``; and
            ``checkpoint_is_pickle``.
    """
    needs, path = StageNeeds(stage, spec, activation, positive_class), Path(text)
    factory = not path.exists() and _FACTORY.fullmatch(text) is not None
    if weights is not None and not factory:
        raise UsageError(
            "source_unknown", f"{text} brings its own weights, and {weights} was given too.", "Leave out one."
        )
    if factory:
        return _from_factory(text, needs, weights, factory_arguments or {})
    if not path.exists():
        raise UsageError(
            "source_not_found",
            f"The {stage} {text} is not there.",
            "Name a Transformers folder, an .onnx file, or module:factory.",
        )
    if path.suffix.lower() == ".onnx" and path.is_file():
        model, notes = model_from_onnx_file(path, needs, output)
        return Source("onnx", "ONNX", model=model, notes=notes)
    if not path.is_dir():
        _refuse_pickle(path)
        raise UsageError(
            "source_unknown",
            f"The {stage} {text} is neither a Transformers folder nor an .onnx file.",
            "For weights alone, name module:factory and add the file as the stage's weights.",
        )
    return _from_folder(path, needs)


def _from_folder(folder: Path, needs: StageNeeds) -> Source:
    network = checkpoint_from_folder(folder)
    name, config = type(network).__name__, _config(network)
    if name not in _ARCHITECTURES[needs.stage]:
        raise needs.mismatch(
            f"{folder} holds a {name}, the {needs.stage} must be a {' or a '.join(_ARCHITECTURES[needs.stage])}"
        )
    vision = getattr(config, "backbone_config", None) or config
    given = (vision.image_size,) * 2 if isinstance(vision.image_size, int) else tuple(vision.image_size)
    # A ViT has one position per patch; a Swin runs at other sizes than the one it was configured with.
    fixed = vision.model_type == "vit" or vision.use_absolute_embeddings
    needs.check_input(str(folder), (vision.num_channels, *(given if fixed else needs.input.size)))
    needs.check_classes(str(folder), config.num_labels)
    dropped = getattr(config, "use_auxiliary_head", False)
    notes = ("The auxiliary head, which only a training uses, was left out.",) if dropped else ()
    return Source("transformers", name, network=network, notes=notes)


def _config(network: nn.Module) -> Any:
    return network.config


def _from_factory(text: str, needs: StageNeeds, weights: Path | None, arguments: Mapping[str, Any]) -> Source:
    if weights is None:
        raise UsageError(
            "weights_not_found", f"The {needs.stage} {text} has no weights.", f"Add --{needs.stage}-weights FILE."
        )
    state = _state_from(weights)
    with _current_folder_importable():
        network = _made(text, arguments).float().eval()
    try:
        found = network.load_state_dict(state, strict=False)
    except RuntimeError as error:
        # The shapes; torch says them one a line, after a line of its own.
        lines = [line.strip() for line in str(error).splitlines()[1:]]
        raise weights_incomplete(str(weights), {"of another shape": lines}) from error
    if found.missing_keys or found.unexpected_keys:
        raise weights_incomplete(str(weights), {"missing": found.missing_keys, "unexpected": found.unexpected_keys})
    check_weights_finite(network, str(weights))
    needs.check_output(text, _answer_shape(text, network, needs))
    return Source("factory", text, network=network)


def _made(text: str, arguments: Mapping[str, Any]) -> nn.Module:
    """What the factory returns."""
    name, _, attribute = text.partition(":")
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise _failed(f"Importing {name}", error) from error
        raise UsageError(
            "factory_not_found",
            f"There is no module {name} for {text}.",
            "Run from the folder that holds it, or install it.",
        ) from error
    except Exception as error:
        raise _failed(f"Importing {name}", error) from error
    factory = getattr(module, attribute, None)
    if not callable(factory):
        raise UsageError("factory_not_found", f"The module {name} holds no function {attribute}.")
    try:
        network = factory(**arguments)
    except UsageError:
        raise
    except Exception as error:
        raise _failed(text, error) from error
    if not isinstance(network, nn.Module):
        raise UsageError("factory_failed", f"{text} returned a {type(network).__name__}, not a torch module.")
    return network


def _failed(what: str, error: Exception) -> UsageError:
    return UsageError("factory_failed", f"{what} failed ({type(error).__name__}: {error}).")


def _answer_shape(text: str, network: nn.Module, needs: StageNeeds) -> tuple[int, ...]:
    """Shape of the network's answer to one row of zeros."""
    try:
        with torch.inference_mode():
            answer = network(torch.zeros(1, *needs.shape))
    except Exception as error:
        raise needs.mismatch(
            f"{text} does not take rows of {needs.shape}, as the configuration says ({type(error).__name__}: {error})",
            f"Correct {needs.stage}.input or {needs.stage}.factory_arguments.",
        ) from error
    answer = getattr(answer, "logits", answer)
    if not isinstance(answer, torch.Tensor):
        raise needs.mismatch(f"{text} answers with a {type(answer).__name__}, not with a tensor of logits")
    return tuple(answer.shape[1:])


def _state_from(path: Path) -> dict[str, torch.Tensor]:
    if not path.is_file():
        raise UsageError("weights_not_found", f"The weights {path} are not there.")
    _refuse_pickle(path)
    try:
        state: dict[str, torch.Tensor] = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise UsageError(
            "weights_unreadable", f"{path} is no safetensors file ({error}).", "Save the weights as safetensors."
        ) from error
    return state


def _refuse_pickle(path: Path) -> None:
    if path.suffix.lower() in _PICKLES:
        raise UsageError(
            "checkpoint_is_pickle",
            f"{path} is a pickle, which could run code when it is opened.",
            "Where you trust it, save its state_dict with safetensors.torch.save_file.",
        )


@contextmanager
def _current_folder_importable() -> Iterator[None]:
    # Last, so that nothing there shadows an installed module.
    here = str(Path.cwd())
    added = here not in sys.path
    if added:
        sys.path.append(here)
    try:
        yield
    finally:
        if added:
            sys.path.remove(here)
