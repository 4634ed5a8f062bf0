"""Which plans an export is asked for."""

import pytest

from onfh_export.plans import requested_plans
from onfh_runtime.engines import find_flavours, find_gpus
from onfh_runtime.errors import MissingExtraError, UsageError

RTX = "tensorrt-rtx" in {flavour.name for flavour in find_flavours()}
needs_rtx = pytest.mark.skipif(not RTX, reason="TensorRT-RTX is not installed")


def test_none_are_asked_for():
    assert requested_plans([], ["sm89"]) == ()


@needs_rtx
def test_every_flavour_with_every_target_once():
    wanted = requested_plans(["tensorrt-rtx", "tensorrt-rtx"], ["sm89", "sm86", "sm89"])
    assert [(each.flavour.name, each.target) for each in wanted] == [("tensorrt-rtx", "sm89"), ("tensorrt-rtx", "sm86")]


@needs_rtx
@pytest.mark.skipif(bool(find_gpus()), reason="there is a GPU here")
def test_without_a_gpu_targets_must_be_named():
    with pytest.raises(UsageError, match=r"target_missing") as raised:
        requested_plans(["tensorrt-rtx"], [])
    assert "sm89" in raised.value.fix


@pytest.mark.skipif("tensorrt" in {flavour.name for flavour in find_flavours()}, reason="TensorRT is installed")
def test_a_flavour_that_is_not_installed_says_how_to_get_it():
    with pytest.raises(MissingExtraError, match="flavour_missing"):
        requested_plans(["tensorrt"], ["sm89"])
