"""Ways to run ONNX Runtime on a CPU: each is really another session, and is paired with the runtime's own."""

from __future__ import annotations

from functools import partial

import cpu_options
import numpy as np
import pytest
from cpu_options import WAYS, answers, changed_options, in_turns, opened, row_ways, stage_ways
from suite_cases import TINY, axial_series, candidate_of, open_demo


def test_every_way_is_an_option_this_onnxruntime_takes():
    for name, change in WAYS.items():
        assert changed_options(change, 0) is not None, name
    assert changed_options(WAYS["1 thread"], 0).intra_op_num_threads == 1
    spinning = changed_options(WAYS["no spinning"], 0).get_session_config_entry("session.intra_op.allow_spinning")
    assert spinning == "0"
    assert set(cpu_options.IN_A_ROW) <= set(WAYS)


def test_the_runtime_itself_is_left_as_it_was():
    before = cpu_options.ort_backend.session_options
    opened(open_demo().model_path("classifier", "fp32"), WAYS["arena"]).close()
    assert cpu_options.ort_backend.session_options is before


def test_pairs_change_who_begins():
    asked = []

    def run(name, value):
        asked.append(name)
        return np.full(3, value, np.float32)

    found = in_turns(partial(run, "usual", 1.0), partial(run, "other", 1.5), 2)
    assert found["over_usual"]["count"] == 2
    assert (found["same_bits"], found["largest_difference"], found["largest_value"]) == (False, 0.5, 1.0)
    assert asked[3] == "other"
    assert asked[-1] == "other"


def test_a_stage_in_every_way(tmp_path, monkeypatch):
    monkeypatch.setattr(cpu_options, "LEAST_S", 0.0)
    found = stage_ways(open_demo(), "classifier", 1, tmp_path)
    assert set(found) == {
        *WAYS,
        "2 rows at once",
        "4 rows at once",
        "8 rows at once",
        "INT8 weights",
        "INT8 weights, half of MLPs",
    }
    assert found["same again"]["same_bits"]
    assert found["no spinning"]["same_bits"]
    assert 0 < found["INT8 weights"]["largest_difference"] < 0.1 * found["INT8 weights"]["largest_value"]


@pytest.mark.slow
def test_a_row_in_two_ways(tmp_path, monkeypatch):
    monkeypatch.setattr(cpu_options, "IN_A_ROW", ("no spinning",))
    candidate = candidate_of(axial_series(tmp_path / "study", TINY.axial, TINY.matrix))
    found = row_ways(open_demo(), candidate, 2, 2)
    assert found["no spinning"]["same_bits"]
    assert found["no spinning"]["over_usual"]["count"] == 2


def test_batches_answer_as_single_rows_do_but_for_rounding():
    backend = opened(open_demo().model_path("classifier", "fp32"), WAYS["same again"])
    shape = backend.inputs[0].shape
    rows = np.random.default_rng(0).standard_normal((3, *shape)).astype(np.float32)
    np.testing.assert_allclose(answers(backend, rows, 2), answers(backend, rows), atol=1e-4)
    backend.close()
