"""Times are compared only where the answers are the same."""

from __future__ import annotations

import numpy as np
import preprocess_peers
import pytest
from peers import PEERS_PYTHON
from preprocess_peers import LIMITS, WAYS, difference, measure
from suite_cases import TINY


def test_differences():
    ours = np.zeros((2, 1, 4, 4), np.float32)
    assert difference(ours, ours + np.float32(0.25)) == 0.25
    assert difference(ours, ours[:1]) == float("inf")
    assert difference(ours, ours + np.float32(np.nan)) == float("inf")
    assert LIMITS.keys() == WAYS.keys()


@pytest.mark.slow
@pytest.mark.skipif(not PEERS_PYTHON.exists(), reason="the peers' environment is missing: make bench-peers")
def test_in_turns(tmp_path, monkeypatch):
    monkeypatch.setitem(LIMITS, "simpleitk_points", 0.0)
    figures = measure(tmp_path, TINY, 1)["input_64"]
    for way in WAYS:
        assert (figures[way].get("ratio") is not None) == (way == "simpleitk_points")
        assert figures[way].get("over_onfh", {"median": 1})["median"] > 0
    assert figures["monai_area_resize"]["mean_difference"] < 0.003
    assert preprocess_peers.TARGETS.keys() <= WAYS.keys()
