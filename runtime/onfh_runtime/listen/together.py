"""Group commit: what several threads want at once is done once for all of them."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

__all__ = ["Together"]

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")


class _Waiting(Generic[Item, Outcome]):
    def __init__(self, item: Item) -> None:
        self.item = item
        self.outcomes: list[Outcome] = []
        self.error: BaseException | None = None


class Together(Generic[Item, Outcome]):
    """Whoever comes first does the work of everybody who waits by then; nobody waits for a timer."""

    def __init__(self, act: Callable[[Sequence[Item]], Sequence[Outcome]]) -> None:
        """Prepare.

        Args:
            act: does some items together, in their order, and returns one outcome for each; never runs twice at once.
        """
        self._act = act
        self._turn = threading.Lock()
        self._waiting: deque[_Waiting[Item, Outcome]] = deque()

    def do(self, item: Item) -> Outcome:
        """Do one item, with whatever waits beside it; raises what ``act`` raised for all of them."""
        mine: _Waiting[Item, Outcome] = _Waiting(item)
        self._waiting.append(mine)
        with self._turn:
            if not mine.outcomes and mine.error is None:
                self._do([self._waiting.popleft() for _ in range(len(self._waiting))])
        if mine.error is not None:
            raise mine.error
        return mine.outcomes[0]

    def _do(self, batch: Sequence[_Waiting[Item, Outcome]]) -> None:
        try:
            outcomes = self._act([waiting.item for waiting in batch])
        except BaseException as error:
            # All of them: the disk may say once, and only once, that it lost what it was given (fsync).
            for waiting in batch:
                waiting.error = error
            return
        for waiting, outcome in zip(batch, outcomes, strict=True):
            waiting.outcomes.append(outcome)
