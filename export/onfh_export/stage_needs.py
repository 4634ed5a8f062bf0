"""What the configuration says of a stage's network, and the refusal of a network that is another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from onfh_runtime.bundle import StageInput, StageName
from onfh_runtime.errors import UsageError

__all__ = ["Activation", "StageNeeds"]

Activation = Literal["softmax", "sigmoid", "none"]


@dataclass(frozen=True)
class StageNeeds:
    """A stage by its configuration: ``activation`` and ``positive_class`` as in the bundle."""

    stage: StageName
    input: StageInput
    activation: Activation
    positive_class: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one row of the input."""
        return (len(self.input.windows), *self.input.size)

    def check_input(self, where: str, shape: Sequence[int]) -> None:
        """Refuse a network, named ``where``, whose rows are not of ``shape`` (channels, height, width).

        Raises:
            UsageError: ``stage_mismatch``.
        """
        if tuple(shape) != self.shape:
            raise self.mismatch(
                f"{where} takes {_described(shape)}, the configuration says {_described(self.shape)}",
                f"Correct {self.stage}.input (windows are channels), or name another source.",
            )

    def check_output(self, where: str, shape: Sequence[int]) -> None:
        """Refuse a network, named ``where``, whose answer to one row, of ``shape``, cannot be read.

        The classifier answers (classes,), the segmenter (classes, height, width).

        Raises:
            UsageError: ``stage_mismatch``.
        """
        rank = 1 if self.stage == "classifier" else 3
        if len(shape) != rank:
            wanted = "(classes,)" if rank == 1 else "(classes, height, width)"
            raise self.mismatch(f"{where} answers a row with {tuple(shape)}, a {self.stage} answers {wanted}")
        self.check_classes(where, shape[0])

    def check_classes(self, where: str, classes: int) -> None:
        """Refuse a network, named ``where``, whose ``classes`` do not fit ``activation`` and ``positive_class``.

        Raises:
            UsageError: ``stage_mismatch``.
        """
        least = max(self.positive_class + 1, 2 if self.activation == "softmax" else 1)
        if classes < least:
            raise self.mismatch(
                f"{where} has {classes} class(es), the configuration's {self.activation} and positive_class "
                f"{self.positive_class} need at least {least}",
                f"Correct {self.stage}.activation and {self.stage}.positive_class, or name another source.",
            )

    def mismatch(self, text: str, fix: str = "") -> UsageError:
        """The error ``stage_mismatch`` with ``text``, a sentence without its full stop."""
        return UsageError("stage_mismatch", f"{text}.", fix)


def _described(shape: Sequence[int]) -> str:
    channels, height, width = shape
    return f"{channels} channel(s) of {height} x {width}"
