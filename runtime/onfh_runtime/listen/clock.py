"""The two clocks of the node: what time it is, for the journal, and how much of it has passed."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Clock"]


@dataclass(frozen=True)
class Clock:
    """``wall`` is Unix time in seconds and may be set; ``monotonic`` counts seconds of this process and may not."""

    wall: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic
