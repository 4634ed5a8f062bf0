from __future__ import annotations

import numpy as np
import pytest

from onfh_runtime.errors import UsageError
from onfh_runtime.findings import gated_slices
from onfh_runtime.measure.workload import gate_for_share, workload_from_study, write_phantom

RANDOM = np.random.default_rng(5).random(25).astype(np.float32)


@pytest.mark.parametrize("scores", [RANDOM, np.zeros(25, np.float32), np.ones(25, np.float32)])
@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (0.01, 1), (0.4, 10), (0.5, 12), (1.0, 25)])
def test_an_overridden_gate_lets_its_share_through_whatever_the_scores(scores, share, count):
    chosen = gated_slices(scores, gate_for_share(share, 25))
    assert len(chosen) == count
    if count:
        assert scores[chosen].min() >= np.sort(scores)[-count]


def test_the_preferred_series_is_measured(workload, phantom_study):
    assert workload.positive_fraction is None
    facts = workload.described()
    files = list((phantom_study / "axial").glob("*.dcm"))
    by_series = {"axial": len(files), "coronal": len(list((phantom_study / "coronal").glob("*.dcm")))}
    assert facts["images"] in by_series.values()
    assert facts["file_mb"] == pytest.approx(workload.file_bytes / 1e6)
    assert workload.transfer_syntax == "1.2.840.10008.1.2.1"
    assert workload.candidate.series_instance_uid not in str(facts)


def test_an_override_changes_the_gate_alone(workload):
    changed = workload.with_positive_fraction(0.5, 20)
    before, after = workload.bundle.content, changed.bundle.content
    assert after.gate.max_slices == 10
    assert after.model_copy(update={"gate": before.gate}) == before
    assert changed.positive_fraction == 0.5


def test_a_folder_without_ct_is_refused(tmp_path, workload):
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(UsageError, match="no CT series"):
        workload_from_study(tmp_path, workload.bundle)
    with pytest.raises(UsageError, match="There is no"):
        workload_from_study(tmp_path / "absent", workload.bundle)


def test_a_phantom_has_the_size_asked_for(tmp_path, workload):
    made = workload_from_study(write_phantom(tmp_path / "phantom", slices=24, matrix=64), workload.bundle)
    facts = made.described()
    assert (facts["images"], facts["rows"], facts["columns"]) == (24, 64, 64)
