from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onfh_runtime.backends import TensorSpec
from onfh_runtime.backends.protocol import bucket_sizes
from onfh_runtime.bundle import load_bundle
from onfh_runtime.cli.infer import demo_bundle
from onfh_runtime.device_stage import DeviceStage
from onfh_runtime.errors import BackendError

SPEC = load_bundle(demo_bundle()).content.classifier


def stage(buckets, most=64, classes=1):
    shape = (len(SPEC.input.windows), *SPEC.input.size)
    backend = SimpleNamespace(
        buckets=buckets,
        inputs=(TensorSpec(SPEC.input_name, shape, np.dtype(np.float16)),),
        outputs=(TensorSpec(SPEC.output_name, (classes,), np.dtype(np.float32)),),
    )
    return DeviceStage("classifier", SPEC.model_copy(update={"max_batch": most}), backend)


@given(rows=st.integers(0, 300), most=st.integers(1, 40))
def test_batches_cover_every_row_once_with_the_fewest_rows_for_nothing(rows, most):
    batches = list(stage(bucket_sizes(most)).batches(rows))
    assert [n for batch in batches for n in range(batch.start, batch.stop)] == list(range(rows))
    for batch in batches:
        assert batch.rows <= batch.bucket <= most
        assert not [smaller for smaller in bucket_sizes(most) if batch.rows <= smaller < batch.bucket]
    assert all(batch.rows == most for batch in batches[:-1])


def test_no_batch_is_larger_than_the_bundle_allows_and_one_bucket_is_always_left():
    assert stage((1, 2, 4, 8), most=5).buckets == (1, 2, 4)
    assert stage((16,), most=5).buckets == (16,)


def test_shrinking_goes_down_to_one_bucket_and_says_so():
    shrinking = stage((1, 2, 4))
    assert [shrinking.shrink(), shrinking.most_rows, shrinking.shrink(), shrinking.shrink()] == [True, 2, True, False]
    assert shrinking.most_rows == 1


def test_a_backend_that_is_not_the_bundles_stage_is_refused():
    with pytest.raises(BackendError, match="do not fit class") as caught:
        stage((1,), classes=0)
    assert caught.value.code == "stage_mismatch"
