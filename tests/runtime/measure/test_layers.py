from __future__ import annotations

import pytest

from onfh_runtime.bundle import load_bundle
from onfh_runtime.cli.infer import demo_bundle
from onfh_runtime.measure.layers import layers_from_events, ort_layers


def node(name, kind, us, suffix="_kernel_time", category="Node"):
    return {"cat": category, "name": name + suffix, "dur": us, "args": {"op_name": kind}}


def test_runs_that_warm_up_do_not_count_and_nothing_but_kernels_does():
    once = [node("a", "MatMul", 3000), node("b", "MatMul", 1000), node("c", "Add", 1000)]
    noise = [node("a", "MatMul", 9, "_fence_before"), {"cat": "Session", "name": "model_run", "dur": 6000, "args": {}}]
    slow = [{**event, "dur": 10**6} for event in once]
    found = layers_from_events([*slow, *noise, *once, *once], skipped=1)
    assert found["runs"] == 2
    assert found["kernels_ms"] == 5.0
    assert found["operators"] == [
        {"operator": "MatMul", "nodes": 2, "ms": 4.0, "share": 0.8},
        {"operator": "Add", "nodes": 1, "ms": 1.0, "share": 0.2},
    ]
    assert found["nodes"][0] == {"node": "a", "operator": "MatMul", "ms": 3.0, "share": 0.6}


def test_only_the_costliest_nodes_are_named():
    found = layers_from_events([node(f"n{k}", "Add", 10 + k) for k in range(30)], most=4)
    assert [each["node"] for each in found["nodes"]] == ["n29", "n28", "n27", "n26"]
    assert sum(each["nodes"] for each in found["operators"]) == 30


def test_a_profile_without_kernels():
    assert layers_from_events([]) == {"runs": 0, "kernels_ms": 0.0, "operators": [], "nodes": []}


def test_the_demo_classifier_spends_its_time_in_products():
    found = ort_layers(load_bundle(demo_bundle()), "classifier", runs=2)
    assert found["runs"] == 2
    assert found["operators"][0]["operator"] in ("MatMul", "FusedMatMul", "Gemm")
    assert sum(each["share"] for each in found["operators"]) == pytest.approx(1)
    assert found["kernels_ms"] > 0
