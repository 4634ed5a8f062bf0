"""The demo bundle's graphs turned back into the Transformers networks they were exported from.

The bundle ships graphs alone, and what torch would run of them node by node is neither what a torch user deploys nor as
fast. Every weight is in the graph; what `onfh export` merged, folded or laid out anew is taken apart again.
``demo_checkpoints.py FOLDER`` writes ``classifier/`` and ``segmenter/``, two Transformers folders.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import nn

from onfh_export.networks import save_checkpoint, segmenter_from_shape, vit_from_shape
from onfh_export.recipe import ClassifierShape, SegmenterShape
from onfh_runtime.bundle import LoadedBundle, load_bundle
from onfh_runtime.cli.infer import demo_bundle

Weights = dict[str, NDArray[np.float32]]
MASKED = 100.0
"""What Swin subtracts from the attention between pixels that are no neighbours."""
_FRESH = ("batch_norm.weight", "running_mean", "running_var", "num_batches_tracked", "backbone.swin.layernorm.weight")
_FRESH += ("backbone.swin.layernorm.bias",)
"""What stays as a network is born: normalisations that were folded into their convolutions, and kept a bias alone; a
normalisation of Swin that UperNet does not use."""


def demo_networks(bundle: LoadedBundle) -> dict[str, nn.Module]:
    """Both networks of the demo bundle, in evaluation mode, with two classes as they were trained.

    Raises:
        RuntimeError: a weight of the network is not in the graph, or not of its shape.
    """
    rules = bundle.content
    networks: dict[str, nn.Module] = {
        "classifier": vit_from_shape(ClassifierShape(), rules.classifier.input.size),
        "segmenter": segmenter_from_shape(SegmenterShape(), rules.segmenter.input.size),
    }
    for name, network in networks.items():
        graph = onnx.load(bundle.model_path(name, "fp32")).graph  # type: ignore[arg-type]
        given = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        found = _named(given) | _linear(graph, given) | _attention(network, given)
        found |= _tokens(given) if name == "classifier" else _decoder(given)
        state = {key: torch.from_numpy(np.array(value)) for key, value in found.items()}
        missing, unexpected = network.load_state_dict(state, strict=False)
        missing = [key for key in missing if not key.endswith(_FRESH)]
        if missing or unexpected:
            raise RuntimeError(f"The demo's {name} lacks {missing}; it has no place for {unexpected}.")
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d) and module.running_var is not None:
                module.running_var.fill_(1 - module.eps)
        network.eval()
    return networks


def _named(given: Weights) -> Weights:
    """Weights that kept their names, biases of folded normalisations, and a last layer with its two classes again."""
    found: Weights = {}
    for name, value in given.items():
        key = name.removeprefix("network.")
        if key.endswith(".difference"):
            found[key.removesuffix(".difference")] = np.concatenate([np.zeros_like(value), value])
        elif key.endswith(".conv.weight_bias"):
            found[key.replace("conv.weight_bias", "batch_norm.bias")] = value
        elif key != name:
            found[key] = value
    return found


def _linear(graph: onnx.GraphProto, given: Weights) -> Weights:
    """Linear layers, which are named by the bias behind them, or by the normalisation before them."""
    made_by = {output: node for node in graph.node for output in node.output}
    found: Weights = {}
    for node in graph.node:
        product = next((made_by[x] for x in node.input if x in made_by and made_by[x].op_type == "MatMul"), None)
        named = [name for name in node.input if name.startswith("network.") and name.endswith(".bias")]
        if node.op_type == "Add" and product is not None and named:
            found[named[0].removeprefix("network.").replace(".bias", ".weight")] = given[product.input[1]].T
        normalised = made_by.get(node.input[0])
        if node.op_type == "MatMul" and normalised is not None and normalised.op_type == "LayerNormalization":
            name = normalised.input[1]
            if name.endswith("downsample.norm.weight"):
                found[name.removeprefix("network.").replace("norm", "reduction")] = given[node.input[1]].T
    return found


def _attention(network: nn.Module, given: Weights) -> Weights:
    """Queries, keys and values of each layer from their joint product, its scale taken out of the queries again."""
    layers = [(name, module) for name, module in network.named_modules() if hasattr(module, "q_proj")]
    joint = [name.removesuffix(".qkv.weight") for name in given if name.endswith(".qkv.weight")]
    found: Weights = {}
    for (place, module), name in zip(layers, joint, strict=True):
        weights = np.split(given[f"{name}.qkv.weight"], 3, axis=1)
        biases = np.split(given[f"{name}.qkv.bias"], 3)
        for which, weight, bias in zip("qkv", weights, biases, strict=True):
            scale = np.float32(module.scaling if which == "q" else 1)
            found[f"{place}.{which}_proj.weight"], found[f"{place}.{which}_proj.bias"] = weight.T / scale, bias / scale
        if f"{name}.mask" in given:
            table = f"{place}.relative_position_bias.relative_position_bias_table"
            found[table] = _bias_table(given[f"{name}.mask"], network.get_parameter(table).shape[1])
    return found


def _bias_table(mask: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Swin's (relative positions, heads) table from what is added to the attention of every window.

    Args:
        mask: (1, windows * heads, pixels, pixels): the bias, and :data:`MASKED` less between no neighbours.
        heads: how many.
    """
    side = math.isqrt(mask.shape[-1])
    biases = mask.reshape(-1, heads, *mask.shape[2:]).max(axis=0)
    biases = np.where(biases < -MASKED / 2, biases + MASKED, biases)
    rows, columns = np.divmod(np.arange(side * side), side)
    down, across = rows[:, None] - rows + side - 1, columns[:, None] - columns + side - 1
    table = np.full(((2 * side - 1) ** 2, heads), -np.inf, np.float32)
    for head in range(heads):  # a pair that no window masks has the bias without rounding, and is the larger
        np.maximum.at(table[:, head], down * (2 * side - 1) + across, biases[head])
    return table


def _tokens(given: Weights) -> Weights:
    """The class token was added to its position."""
    name = next(name for name in given if name.endswith(".tokens"))
    positions = given[name]
    return {"vit.embeddings.cls_token": 0 * positions[:, :1], "vit.embeddings.position_embeddings": positions}


def _decoder(given: Weights) -> Weights:
    """The convolution that was split: maps that stayed, then the map whose channels are mixed early, tap by tap."""
    name = next(name for name in given if name.endswith("/taps"))
    prefix = name.rsplit("/", maxsplit=2)[0]
    stayed = given[f"{prefix}/weight"]
    made = len(stayed)
    mixed = given[name].reshape(3, made, 3, -1).transpose(1, 3, 2, 0)  # (x, made, y, given) -> (made, given, y, x)
    place = "decode_head.fpn_bottleneck"
    return {
        f"{place}.conv.weight": np.concatenate([stayed, mixed], axis=1),
        f"{place}.batch_norm.bias": given[f"{prefix}/bias"],
    }


if __name__ == "__main__":
    for stage, opened in demo_networks(load_bundle(demo_bundle())).items():
        save_checkpoint(opened, Path(sys.argv[1]) / stage)
