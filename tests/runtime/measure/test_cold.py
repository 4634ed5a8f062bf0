from __future__ import annotations

import pytest

from onfh_runtime.errors import BackendError
from onfh_runtime.measure.cold import cold_start
from onfh_runtime.measure.runs import How


def test_a_fresh_process_answers_and_its_parts_add_up(workload, phantom_study, tmp_path):
    found = cold_start(
        phantom_study, workload.bundle.root, how=How(backend="onnxruntime"), share=(0.5, 20), out=tmp_path / "out"
    )
    parts = {name: value for name, value in found.items() if name != "first_answer_s"}
    assert sum(parts.values()) == pytest.approx(found["first_answer_s"])
    assert min(parts.values()) > 0
    assert [*(tmp_path / "out").rglob("result.json")]


def test_a_process_that_fails_says_what_it_said(tmp_path, workload):
    with pytest.raises(BackendError, match=r"no answer: There is no .*\[input_not_found\]") as caught:
        cold_start(tmp_path / "absent", workload.bundle.root, how=How(), share=None, out=None)
    assert caught.value.code == "no_first_answer"
