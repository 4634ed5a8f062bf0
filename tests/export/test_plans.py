"""Which plans an export is asked for."""

from types import SimpleNamespace

import pytest

from onfh_export import plans
from onfh_export.plans import requested_plans
from onfh_runtime.engines import Flavour, Gpu, find_flavours, find_gpus, flavours
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


@pytest.fixture
def mixed(monkeypatch):
    """A workstation with two kinds of GPU and both flavours, of which this one has neither."""
    gpus = (Gpu("a", "sm89"), Gpu("b", "sm70"), Gpu("c", "sm86"), Gpu("d", "sm89"))
    modules = {
        "tensorrt": SimpleNamespace(),
        "tensorrt-rtx": SimpleNamespace(ComputeCapability=SimpleNamespace(SM86=0, SM89=1, SM120=2)),
    }
    for module in (plans, flavours):
        monkeypatch.setattr(module, "find_gpus", lambda: gpus)
    monkeypatch.setattr(plans, "flavour", lambda name: Flavour(name, modules[name], "1"))
    return modules


def test_by_default_each_flavour_builds_for_the_gpus_here_that_it_can(mixed):
    wanted = requested_plans(["tensorrt", "tensorrt-rtx"], [])
    assert [(each.flavour.name, each.target) for each in wanted] == [
        ("tensorrt", "sm89"), ("tensorrt-rtx", "sm89"), ("tensorrt-rtx", "sm86"),
    ]  # fmt: skip


def test_gpus_that_a_flavour_does_not_know_are_named(mixed):
    mixed["tensorrt-rtx"].ComputeCapability = SimpleNamespace(SM120=0)
    with pytest.raises(UsageError, match=r"sm89, sm70, sm86.*target_unknown"):
        requested_plans(["tensorrt-rtx"], [])
