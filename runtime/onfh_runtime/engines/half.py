"""Which share of a network, and of the engine made of it, is held in 16-bit floating point.

The complaint heard most about half precision is an engine that silently stayed FP32, so both are counted.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import tensorrt as trt

__all__ = ["HalfShare", "half_share_of_engine", "half_share_of_layers", "half_share_of_network"]

_HALF = re.compile(r"half|fp16|bf16|bfloat", re.IGNORECASE)
_FULL = re.compile(r"float|fp32", re.IGNORECASE)


@dataclass(frozen=True)
class HalfShare:
    """Share of FP16 and BF16 among floating-point elements at batch 1, 0 to 1.

    ``tensors`` counts what every layer writes, ``products`` what matrix products and convolutions write. Half tensors
    around FP32 products would be half in memory only: moves and casts are many, and nearly all the time is in products.
    """

    tensors: float
    products: float

    @property
    def least(self) -> float:
        """The smaller of both."""
        return min(self.tensors, self.products)


def half_share_of_network(module: ModuleType, network: trt.INetworkDefinition) -> HalfShare:
    """Share of half in a strongly typed network, weights left out; 0 when nothing is floating point.

    ``products`` equals ``tensors`` in a network without any.
    """
    types: type[trt.DataType] = module.DataType
    kinds: type[trt.LayerType] = module.LayerType
    tensors, products = _Count(), _Count()
    for index in range(network.num_layers):
        layer: trt.ILayer = network.get_layer(index)
        if layer.type == kinds.CONSTANT:
            continue
        multiplies = layer.type in (kinds.MATRIX_MULTIPLY, kinds.CONVOLUTION, kinds.DECONVOLUTION)
        for output in range(layer.num_outputs):
            tensor: trt.ITensor = layer.get_output(output)
            half = tensor.dtype in (types.HALF, types.BF16)
            if half or tensor.dtype == types.FLOAT:
                elements = _elements(tensor.shape[:])
                tensors.add(elements, half=half)
                if multiplies:
                    products.add(elements, half=half)
    share = tensors.share() or 0.0
    of_products = products.share()
    return HalfShare(share, share if of_products is None else of_products)


def half_share_of_engine(
    module: ModuleType, data: memoryview, logger: trt.ILogger, *, configure: bool = True
) -> float | None:
    """Share of half among the tensors that the layers of a built engine write, as its inspector tells.

    Needs the GPU the engine was built for. None when the inspector names no type: some layers have one only once shapes
    are known, so the first profile's usual shapes are set on a context unless ``configure`` is False (an engine without
    its weights makes no context).

    Raises:
        ValueError: the engine does not deserialize.
    """
    runtime: trt.Runtime = module.Runtime(logger)
    runtime.engine_host_code_allowed = True  # a version-compatible plan carries a runtime; this one we just built
    engine: trt.ICudaEngine | None = runtime.deserialize_cuda_engine(data)
    if engine is None:
        raise ValueError("the engine does not deserialize")
    inspector: trt.EngineInspector = engine.create_engine_inspector()
    context: trt.IExecutionContext | None = engine.create_execution_context() if configure else None
    if context is not None:
        modes: type[trt.TensorIOMode] = module.TensorIOMode
        for index in range(engine.num_io_tensors):
            name = str(engine.get_tensor_name(index))
            if engine.get_tensor_mode(name) == modes.INPUT:
                context.set_input_shape(name, engine.get_tensor_profile_shape(name, 0)[1])
        inspector.execution_context = context
    formats: type[trt.LayerInformationFormat] = module.LayerInformationFormat
    try:
        layers = json.loads(inspector.get_engine_information(formats.JSON))["Layers"]
    except (ValueError, KeyError, TypeError):
        return None
    return half_share_of_layers(layers)


def half_share_of_layers(layers: Iterable[Any]) -> float | None:
    """Share of half among the outputs of layers as the engine inspector prints them in JSON, by elements.

    Their type is a phrase ("Half", "Row major linear FP16 format", "Channel major BFloat16 format ..."); tensors whose
    phrase names no floating-point type, and layers of which only the name is known, are left out. None without any.
    """
    count = _Count()
    for layer in layers:
        for tensor in layer.get("Outputs", ()) if isinstance(layer, dict) else ():
            phrase = str(tensor.get("Format/Datatype", tensor.get("Datatype", "")))
            half = bool(_HALF.search(phrase))
            if half or _FULL.search(phrase):
                count.add(_elements(tensor.get("Dimensions", ())), half=half)
    return count.share()


class _Count:
    def __init__(self) -> None:
        self._half = self._all = 0

    def add(self, elements: int, *, half: bool) -> None:
        self._all += elements
        self._half += elements if half else 0

    def share(self) -> float | None:
        return self._half / self._all if self._all else None


def _elements(shape: Iterable[int]) -> int:
    """Elements of a tensor at batch 1, where free dimensions are negative."""
    return math.prod(max(size, 1) for size in shape)
