"""Plans are really built, by TensorRT-RTX, for GPUs this machine need not have."""

from __future__ import annotations

import os
import signal
import threading

import onnx
import pytest
from onnx import helper

from onfh_runtime.cli.infer import demo_bundle
from onfh_runtime.engines import EngineError, EngineOptions, HalfShare, Profile, find_gpus, plan_from_onnx
from onfh_runtime.errors import BackendError, UsageError


@pytest.mark.parametrize("half", [False, True], ids=["fp32", "fp16"])
def test_a_plan_is_built(rtx, onnx_file, half):
    path = onnx_file(half=half)
    plan = plan_from_onnx(path, rtx, "sm89", expect_half=half)
    assert len(plan.data) > path.stat().st_size // 2
    assert (plan.flavour, plan.version, plan.target) == ("tensorrt-rtx", rtx.version, "sm89")
    assert plan.half_share == HalfShare(half, half)
    assert plan.layers >= 3
    assert plan.seconds > 0
    assert plan.warnings == ()


def test_fp32_weights_make_the_larger_plan(rtx, onnx_file):
    full, half = (plan_from_onnx(onnx_file(half=half), rtx, "sm89").data for half in (False, True))
    assert len(full) - len(half) > 100_000  # 84,000 weights of two bytes less


@pytest.mark.parametrize("stage", ["classifier", "segmenter"])
def test_the_demo_stages_build(rtx, stage):
    path = demo_bundle() / stage / "model.onnx"
    plan = plan_from_onnx(path, rtx, "sm89")
    assert plan.half_share == HalfShare(0, 0)
    assert len(plan.data) > 0.9 * path.stat().st_size


@pytest.mark.parametrize("target", ["sm75", "sm86", "sm120"])
def test_targets_get_plans_of_their_own(rtx, onnx_file, target):
    path = onnx_file(half=True)
    plan = plan_from_onnx(path, rtx, target)
    assert plan.target == target
    assert plan.data != plan_from_onnx(path, rtx, "sm89").data


def test_several_profiles_are_in_the_plan(rtx, onnx_file):
    path = onnx_file(half=True)
    one = plan_from_onnx(path, rtx, "sm89", EngineOptions(profiles=(Profile(1, 4, 8),)))
    two = plan_from_onnx(path, rtx, "sm89", EngineOptions(profiles=(Profile(1, 1, 1), Profile(2, 4, 8))))
    assert len(two.data) > 1.3 * len(one.data)


def test_a_fixed_batch_takes_no_other(rtx, onnx_file):
    path = onnx_file(shape=(2, 1, 16, 24))
    assert plan_from_onnx(path, rtx, "sm89", EngineOptions(profiles=(Profile(2, 2, 2),))).data
    with pytest.raises(EngineError, match=r"the batch of its input pixels is fixed at 2.*onnx_unsupported"):
        plan_from_onnx(path, rtx, "sm89", EngineOptions(profiles=(Profile(1, 2, 2),)))


@pytest.mark.parametrize("sizes", [(0, 1, 1), (2, 1, 4), (1, 4, 2)])
def test_batch_sizes_ascend(sizes):
    with pytest.raises(UsageError, match="wrong_profile"):
        Profile(*sizes)


def test_a_workspace_that_is_too_small_is_an_error_with_the_log(rtx, onnx_file):
    path = onnx_file(half=True)
    assert plan_from_onnx(path, rtx, "sm89", EngineOptions(workspace_bytes=1 << 30)).data
    with pytest.raises(EngineError, match="within workspace limit") as caught:
        plan_from_onnx(path, rtx, "sm89", EngineOptions(workspace_bytes=1 << 10))
    assert caught.value.code == "engine_build_failed"
    assert 1 < len(caught.value.log) <= 20
    assert "workspace limit" in caught.value.log[-1]
    assert str(caught.value).count("\n    ") == len(caught.value.log) + 1


def test_what_is_left_of_one_build_does_not_take_the_log_of_the_next(rtx, onnx_file):
    # The first error's traceback keeps its builder alive, and TensorRT then ignores any other logger.
    logs = []
    for name in ("first", "second"):
        nodes = [helper.make_node("Unique", ["pixels"], ["logits"], name=name)]
        with pytest.raises(EngineError) as caught:
            plan_from_onnx(onnx_file(f"{name}.onnx", nodes=nodes), rtx, "sm89")
        logs.append((caught, "\n".join(caught.value.log)))
    assert [("first" in log, "second" in log, "differs" in log) for _, log in logs] == [
        (True, False, False),
        (False, True, False),
    ]


def test_stripped_plans_are_smaller_or_refused_where_they_cannot_be_built(rtx, onnx_file):
    # TensorRT-RTX 1.7 needs the NVIDIA driver to build refittable plans, unlike any other.
    path, stripped = onnx_file(half=True), EngineOptions(strip_weights=True)
    whole = plan_from_onnx(path, rtx, "sm89")
    if find_gpus():
        assert len(plan_from_onnx(path, rtx, "sm89", stripped).data) < len(whole.data) - 100_000
        return
    with pytest.raises(EngineError, match=r"on a machine with an NVIDIA GPU.*engine_build_failed") as caught:
        plan_from_onnx(path, rtx, "sm89", stripped)
    assert caught.value.log
    assert len(plan_from_onnx(path, rtx, "sm89").data) == len(whole.data)


def test_options_the_flavour_lacks_are_refused_or_passed_over(rtx, onnx_file, tmp_path):
    path = onnx_file()
    with pytest.raises(UsageError, match="option_unsupported"):
        plan_from_onnx(path, rtx, "sm89", EngineOptions(version_compatible=True))
    options = EngineOptions(timing_cache=tmp_path / "times.cache", optimization_level=0)
    assert plan_from_onnx(path, rtx, "sm89", options).data
    assert not (tmp_path / "times.cache").exists()


def test_a_target_the_flavour_does_not_know_is_refused(rtx, onnx_file):
    with pytest.raises(UsageError, match="target_unknown"):
        plan_from_onnx(onnx_file(), rtx, "sm87")


def test_fp32_is_refused_where_half_was_asked_for(rtx, onnx_file):
    told = []
    with pytest.raises(BackendError, match="is 0% half") as caught:
        plan_from_onnx(onnx_file(), rtx, "sm89", expect_half=True, progress=lambda *step: told.append(step))
    assert caught.value.code == "engine_not_half"
    assert told == []  # before the time for a build is spent


def test_half_tensors_around_an_fp32_product_are_no_half_network(rtx, onnx_file):
    nodes = [
        helper.make_node("Cast", ["second"], ["wide"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Relu", ["pixels"], ["a"]),
        helper.make_node("Cast", ["a"], ["full"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Conv", ["full", "wide"], ["b"], pads=[1] * 4),
        helper.make_node("Cast", ["b"], ["c"], to=onnx.TensorProto.FLOAT16),
        helper.make_node("Sigmoid", ["c"], ["d"]),
        helper.make_node("Add", ["c", "d"], ["e"]),
        helper.make_node("Tanh", ["e"], ["logits"]),
    ]
    path = onnx_file(half=True, nodes=nodes, shape=("batch", 96, 16, 24))
    share = plan_from_onnx(path, rtx, "sm89").half_share
    assert share.tensors > 0.5
    assert share.products == 0
    with pytest.raises(BackendError, match="is 0% half"):
        plan_from_onnx(path, rtx, "sm89", expect_half=True)


def test_a_symbolic_height_is_refused(rtx, onnx_file):
    with pytest.raises(EngineError, match=r"input pixels has the shape \(-1, 1, -1, 24\).*onnx_unsupported"):
        plan_from_onnx(onnx_file(shape=("batch", 1, "height", 24)), rtx, "sm89")


@pytest.mark.parametrize("operator", ["Unique", "Frobnicate"])
def test_an_unsupported_operator_is_named(rtx, onnx_file, operator):
    domain = "org.example" if operator == "Frobnicate" else ""
    nodes = [
        helper.make_node("Relu", ["pixels"], ["a"], name="plain"),
        helper.make_node(operator, ["a"], ["logits"], name="strange", domain=domain),
    ]
    with pytest.raises(EngineError, match=rf"node 'strange' \({operator}\)") as caught:
        plan_from_onnx(onnx_file(nodes=nodes, domain=domain), rtx, "sm89")
    assert caught.value.code == "onnx_unsupported"
    assert any("strange" in line for line in caught.value.log)


@pytest.mark.parametrize("content", [b"", b"no ONNX at all", None], ids=["empty", "garbage", "missing"])
def test_what_is_no_onnx_file_is_refused(rtx, tmp_path, content):
    if content is not None:
        (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(EngineError, match=r"cannot read model\.onnx.*onnx_unsupported"):
        plan_from_onnx(tmp_path / "model.onnx", rtx, "sm89")


def test_weights_beside_the_file_are_found(rtx, onnx_file, tmp_path):
    path = onnx_file(half=True)
    whole = plan_from_onnx(path, rtx, "sm89")
    (tmp_path / "apart").mkdir()
    apart = tmp_path / "apart" / "model.onnx"
    onnx.save(onnx.load(path), apart, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert (tmp_path / "apart" / "weights.bin").stat().st_size > 100_000
    assert len(plan_from_onnx(apart, rtx, "sm89").data) == len(whole.data)


def test_progress_tells_every_phase_to_its_end(rtx, onnx_file):
    told = []
    plan_from_onnx(onnx_file(), rtx, "sm89", progress=lambda *step: told.append(step))
    phase, done, total = told[-1]
    assert (phase, done) == ("Building engine", total)
    assert told[0] == ("Building engine", 0, total)
    outermost = [step for name, step, _ in told if name == phase]
    assert outermost == sorted(outermost)
    assert all(0 <= step <= steps for _, step, steps in told)


def test_progress_may_stop_the_build(rtx, onnx_file):
    told = []

    def stop(*step):
        told.append(step)
        return len(told) < 5

    with pytest.raises(EngineError, match="engine_build_stopped"):
        plan_from_onnx(onnx_file(), rtx, "sm89", progress=stop)
    assert len(told) == 5


def test_what_progress_raises_comes_out(rtx, onnx_file):
    def broken(phase, done, total):
        raise ZeroDivisionError(phase)

    with pytest.raises(ZeroDivisionError, match="Building engine"):
        plan_from_onnx(onnx_file(), rtx, "sm89", progress=broken)


def test_an_interrupt_stops_the_build_and_is_raised(rtx, onnx_file):
    told = []

    def interrupt(*step):
        told.append(step)
        if len(told) == 5:
            os.kill(os.getpid(), signal.SIGINT)

    # A shell starts background jobs with the interrupt ignored, and Python then leaves it so.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            plan_from_onnx(onnx_file(), rtx, "sm89", progress=interrupt)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(told) < 10


def test_a_plan_builds_in_a_thread(rtx, onnx_file):
    path, built = onnx_file(), []
    thread = threading.Thread(target=lambda: built.append(plan_from_onnx(path, rtx, "sm89")))
    thread.start()
    thread.join()
    assert built[0].data
