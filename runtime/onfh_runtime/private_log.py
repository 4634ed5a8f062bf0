"""What a log may say of an error: its type and its place, not what it quotes.

Logs leave the machine. A message that another package made may hold the header it stumbled over; the texts of our own
errors hold codes, numbers and UIDs only.
"""

from __future__ import annotations

import logging
import traceback

from onfh_runtime.errors import OnfhError

__all__ = ["hush_quoting_packages", "traceback_without_messages"]

_QUOTING = ("pydicom", "highdicom")
"""Packages that comment on the values of a header, and quote them."""


def traceback_without_messages(error: BaseException) -> str:
    """Type and place of an error and of whatever led to it, the first cause first; the text only of our own errors."""
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and all(link is not known for known in chain):
        chain.append(link)
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
    lines = []
    for link in reversed(chain):
        lines.append(f"{type(link).__name__}: {link}" if isinstance(link, OnfhError) else type(link).__name__)
        frames = traceback.extract_tb(link.__traceback__)
        lines += [f"  {frame.filename}:{frame.lineno} in {frame.name}" for frame in frames]
    return "\n".join(lines)


def hush_quoting_packages() -> None:
    """Silence the loggers of packages that quote patient data, whatever else is logged."""
    for name in _QUOTING:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
