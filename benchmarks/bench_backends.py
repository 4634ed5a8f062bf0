"""One call of a backend, by stage and batch size, on arrays of the host."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from onfh_runtime.backends import open_stage
from onfh_runtime.bundle import LoadedBundle, StageName

DOES_NOT_MEASURE = (
    "backends on a GPU: make gpu-check; and no device made of host memory stands in for one",
    "Triton: tests/runtime/backends/test_triton_backend.py says what of it was run",
    "answers: the weights of the large stages are random, and weights do not change the work",
)


@pytest.mark.parametrize("stage", ["classifier", "segmenter"])
@pytest.mark.parametrize("backend", ["onnxruntime"])
def test_run(
    benchmark: Any,
    bundle_name: str,
    stage: StageName,
    backend: str,
    batch: int,
    opened: Callable[[str], LoadedBundle],
) -> None:
    """Rows that are ready to logits; the pipeline gives this backend one row at a time."""
    bundle = opened(bundle_name)
    run = open_stage(bundle, stage, backend)
    rng = np.random.default_rng(0)
    inputs = {each.name: rng.standard_normal((batch, *each.shape)).astype(each.dtype) for each in run.inputs}
    outputs = {each.name: np.empty((batch, *each.shape), each.dtype) for each in run.outputs}
    if bundle_name == "large":
        benchmark.pedantic(run.run, (inputs, outputs), rounds=7, warmup_rounds=1)
    else:
        benchmark(run.run, inputs, outputs)
    content = bundle.content.classifier if stage == "classifier" else bundle.content.segmenter
    graph = content.graphs["fp32"]
    about = {"bundle": bundle_name, "stage": stage, "backend": backend, "precision": run.precision}
    benchmark.extra_info |= {**about, "rows": batch, "gmac_per_row": graph.gmac}
    run.close()
