"""Phases are announced, timed and added up."""

import pytest

from onfh_export.phases import Phases


def test_a_phase_that_is_entered_again_adds_up():
    said, begun = [], []
    phases = Phases(said.append, begin=begun.append)
    for _ in range(2):
        with phases.phase("read"):
            pass
    assert begun == ["read", "read"]
    assert len(said) == 2
    assert said[0].startswith("read ")
    assert said[0].endswith(" s")
    assert list(phases.seconds) == ["read"]


def test_a_phase_that_fails_is_not_told_as_done():
    said = []
    phases = Phases(said.append)
    with pytest.raises(ValueError, match="no"), phases.phase("read"):
        raise ValueError("no")
    assert not said
