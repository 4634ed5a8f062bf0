"""Steps of an export that work on ONNX graphs, on the stages of the demo bundle; export.py has the whole command."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx
import pytest

from onfh_export.graph.clean import clean
from onfh_export.graph.facts import graph_facts
from onfh_export.graph.precision import half_from_float
from onfh_runtime.bundle import LoadedBundle, StageName

DOES_NOT_MEASURE = (
    "tracing, the search for islands, the parity gate, engines and peak memory: export.py",
    "the saving of mixing channels early: upernet_rewrite.py",
)


@pytest.fixture(params=["classifier", "segmenter"])
def graph(request: pytest.FixtureRequest, opened: Callable[[str], LoadedBundle]) -> onnx.ModelProto:
    """A stage's FP32 graph."""
    stage: StageName = request.param
    return onnx.load(opened("demo").model_path(stage, "fp32"))


def test_clean(benchmark: Any, graph: onnx.ModelProto) -> None:
    """Clean a graph."""
    made = benchmark(clean, graph)
    benchmark.extra_info["nodes"] = len(made.graph.node)


def test_half(benchmark: Any, graph: onnx.ModelProto) -> None:
    """Write a graph in half precision."""
    made = benchmark(half_from_float, graph, dtype="fp16")
    benchmark.extra_info["nodes"] = len(made.graph.node)


def test_facts(benchmark: Any, graph: onnx.ModelProto) -> None:
    """Count nodes, weights and multiply-accumulates."""
    benchmark.extra_info["gmac"] = benchmark(graph_facts, graph).gmac
