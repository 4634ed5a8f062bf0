"""The share of half is counted by elements, from the phrases TensorRT's inspector uses."""

from __future__ import annotations

import pytest

from onfh_runtime.engines.half import half_share_of_layers


def layer(*outputs):
    return {"Name": "layer", "Outputs": [{"Format/Datatype": kind, "Dimensions": shape} for kind, shape in outputs]}


@pytest.mark.parametrize(
    ("phrase", "half"),
    [
        ("Half", True),
        ("BFloat16", True),
        ("Row major linear FP16 format", True),
        ("Channel major FP16 format where channel % 8 == 0", True),
        ("Channel major BFloat16 format where channel % 8 == 0", True),
        ("Float", False),
        ("Row major linear FP32", False),
        ("Channel major FP32 format", False),
    ],
)
def test_phrases_of_the_inspector(phrase, half):
    assert half_share_of_layers([layer((phrase, [1, 2, 3]))]) == half


def test_large_tensors_count_for_more():
    layers = [layer(("Half", [1, 8, 8])), layer(("Float", [1, 4, 4]), ("Int32", [900]))]
    assert half_share_of_layers(layers) == 64 / 80


def test_free_dimensions_count_once():
    assert half_share_of_layers([layer(("Half", [-1, 6])), layer(("Float", [1, 2]))]) == 0.75


@pytest.mark.parametrize("layers", [[], ["only a name"], [layer(("N/A due to dynamic shapes", [1]))], [{"Name": "x"}]])
def test_nothing_is_said_where_no_type_is_known(layers):
    assert half_share_of_layers(layers) is None
