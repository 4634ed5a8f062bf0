"""A plan on this machine's GPU; without one, a named refusal."""

import pytest

from onfh_runtime.engines import find_gpus, plan_from_onnx
from onfh_runtime.engines.run import PlanRunner
from onfh_runtime.errors import BackendError

GPUS = find_gpus()


@pytest.mark.skipif(bool(GPUS), reason="there is a GPU here")
def test_without_a_gpu_a_plan_does_not_open_and_tensorrt_says_why(rtx, onnx_file):
    plan = plan_from_onnx(onnx_file(half=True), rtx, "sm89").data
    with pytest.raises(BackendError, match="engine_unloadable") as caught:
        PlanRunner(plan, rtx)
    assert "cuda" in str(caught.value).lower()
