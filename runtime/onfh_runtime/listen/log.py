"""Logs that may leave the machine: one line a record, and nothing in it that could name a patient.

What our own modules say passes: their texts hold codes, numbers, UIDs and configured names. Values that come with an
event pass by name and by shape (:func:`log_event`). Of any other package's record, of warnings and of exceptions only
kind and place pass, because their messages quote what they stumbled over.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import threading
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from typing import IO, Literal

from onfh_runtime.private_log import traceback_without_messages

__all__ = ["FIELDS", "JsonFormatter", "TextFormatter", "configure_logging", "log_event"]

_OWN = "onfh_runtime"
_LONGEST = 4000
"""Characters of a message; a message is ours, but a traceback in it may be long."""

_UID = re.compile(r"[0-9]+(\.[0-9]+)*")
_CODE = re.compile(r"[a-z][a-z0-9_]{0,63}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_ADDRESS = re.compile(r"[0-9A-Fa-f.:%]{2,64}")
_STATUS = re.compile(r"0x[0-9A-F]{4}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")

_Check = Callable[[object], bool]


def _matches(pattern: re.Pattern[str], longest: int = 64) -> _Check:
    return lambda value: isinstance(value, str) and len(value) <= longest and pattern.fullmatch(value) is not None


def _is_number(value: object) -> bool:
    return isinstance(value, (bool, int, float))


FIELDS: Mapping[str, _Check] = {
    **dict.fromkeys(("study_uid", "series_uid", "sop_uid", "sop_class", "transfer_syntax"), _matches(_UID)),
    **dict.fromkeys(("code", "outcome", "state", "reason"), _matches(_CODE)),
    **dict.fromkeys(("peer", "route", "destination", "version", "bundle", "backend", "kind"), _matches(_NAME)),
    "address": _matches(_ADDRESS),
    "status": _matches(_STATUS),
    **dict.fromkeys(
        (
            *("objects", "nbytes", "count", "generation", "tries", "port", "deadline_missed"),
            *("latency_ms", "outside_engine_ms", "seconds", "free_bytes"),
        ),
        _is_number,
    ),
}
"""What an event may carry, and what it must look like: a UID, a code, a configured name, an address, a number."""


def log_event(logger: logging.Logger, level: int, event: str, **fields: object) -> None:
    """Log an event by its code with values of :data:`FIELDS`; None is left out.

    Example: ``log_event(_log, logging.INFO, "series_answered", series_uid=uid, latency_ms=812.0)``.
    A value of another shape is logged as ``?``, one of another name not at all.
    """
    if logger.isEnabledFor(level):
        logger.log(level, event, extra={"onfh_fields": fields}, stacklevel=2)


def configure_logging(
    *, level: str = "info", layout: Literal["json", "text"] = "json", stream: IO[str] | None = None
) -> None:
    """Send every log record of this process to ``stream`` (standard error), one line each, without identifiers.

    Warnings and exceptions that end a thread go the same way, instead of being printed with their messages.

    Args:
        level: lowest level of our own records; other packages' start at "warning".
        layout: "json" or "text".
        stream: where to.
    """
    handler = logging.StreamHandler(stream if stream is not None else sys.stderr)
    handler.setFormatter(JsonFormatter() if layout == "json" else TextFormatter())
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.getLogger(_OWN).setLevel(level.upper())
    logging.captureWarnings(True)
    threading.excepthook = _log_thread_end
    sys.unraisablehook = _log_unraisable


class JsonFormatter(logging.Formatter):
    """A record as one JSON object: time, level, logger, then event or message, then its fields."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line of JSON."""
        return json.dumps(_content(record), ensure_ascii=True, allow_nan=False)


class TextFormatter(logging.Formatter):
    """A record as one line of text."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line: time, level, logger, event or message, name=value."""
        content = _content(record)
        words = [str(content.pop(name)) for name in ("time", "level", "logger")]
        words.append(str(content.pop("event", content.pop("message", ""))))
        return _CONTROL.sub(" ", " ".join([*words, *(f"{name}={value}" for name, value in content.items())]))


def _content(record: logging.LogRecord) -> dict[str, object]:
    moment = datetime.fromtimestamp(record.created, timezone.utc)
    content: dict[str, object] = {
        "time": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "level": record.levelname.lower(),
        "logger": record.name,
    }
    if record.name != _OWN and not record.name.startswith(f"{_OWN}."):
        return content | {"event": "other_package", "place": f"{record.module}:{record.lineno}"} | _error_of(record)
    fields = getattr(record, "onfh_fields", None)
    if isinstance(fields, dict):
        return content | {"event": record.getMessage()} | _known(fields) | _error_of(record)
    return content | {"message": record.getMessage()[:_LONGEST]} | _error_of(record)


def _known(fields: Mapping[str, object]) -> dict[str, object]:
    return {
        name: _printed(value) if FIELDS[name](value) else "?"
        for name, value in fields.items()
        if name in FIELDS and value is not None
    }


def _printed(value: object) -> object:
    """A float to three digits after the point, and as a word where JSON has no number for it."""
    if not isinstance(value, float):
        return value
    return round(value, 3) if abs(value) < float("inf") else str(value)


def _error_of(record: logging.LogRecord) -> dict[str, object]:
    error = record.exc_info[1] if record.exc_info else None
    return {} if error is None else {"error": traceback_without_messages(error)[-_LONGEST:]}


def _log_thread_end(end: threading.ExceptHookArgs) -> None:
    if end.exc_value is not None and not isinstance(end.exc_value, SystemExit):
        place = traceback_without_messages(end.exc_value)
        logging.getLogger(__name__).critical("a thread ended by an error: %s", place)


def _log_unraisable(what: sys.UnraisableHookArgs) -> None:
    if what.exc_value is not None:
        logging.getLogger(__name__).error("an error was passed over: %s", traceback_without_messages(what.exc_value))
