from __future__ import annotations

import threading
import time

import pytest

from onfh_runtime.listen.lane import Lane


@pytest.mark.parametrize("looks", [1, 2])
def test_being_asked_to_stop_just_after_it_looked_is_not_missed(looks):
    class Told(threading.Event):
        """Whoever asks to stop does so when the lane has just looked, and found that it need not."""

        def is_set(self):
            nonlocal looks
            found, looks = super().is_set(), looks - 1
            if looks == 0:
                lane.ask_to_stop()
            return found

    turns = []
    lane = Lane("work", lambda: (turns.append(1), 0.0 if len(turns) < 2 else 60.0)[1])
    lane._stopping = Told()
    lane.start()
    start = time.monotonic()
    assert lane.join(20.0)
    assert time.monotonic() - start < 10.0
    assert not lane.alive
