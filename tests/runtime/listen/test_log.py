"""Logs: identifiers are fed in by every door, and none comes out."""

from __future__ import annotations

import io
import json
import logging
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onfh_runtime.errors import SeriesError
from onfh_runtime.listen.log import FIELDS, JsonFormatter, TextFormatter, configure_logging, log_event

NAME = "Doe^Jane"
OURS = logging.getLogger("onfh_runtime.listen.somewhere")
Configure = Callable[..., io.StringIO]


@pytest.fixture
def configured() -> Iterator[Configure]:
    """Configures logging into a buffer, and puts everything back afterwards."""
    root, own = logging.getLogger(), logging.getLogger("onfh_runtime")
    before = list(root.handlers), root.level, own.level, threading.excepthook, sys.unraisablehook
    quoting = {name: logging.getLogger(name).level for name in ("pydicom", "highdicom")}
    for name in quoting:  # the command line silences them; here nothing but the node's own log does
        logging.getLogger(name).setLevel(logging.NOTSET)

    def configure(layout: Literal["json", "text"] = "json", level: str = "info") -> io.StringIO:
        stream = io.StringIO()
        configure_logging(level=level, layout=layout, stream=stream)
        return stream

    yield configure
    logging.captureWarnings(False)
    root.handlers[:], root.level = before[0], before[1]
    own.setLevel(before[2])
    for name, level in quoting.items():
        logging.getLogger(name).setLevel(level)
    threading.excepthook, sys.unraisablehook = before[3], before[4]


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_an_event_is_one_json_line_with_its_fields(configured: Configure) -> None:
    stream = configured()
    log_event(
        OURS,
        logging.INFO,
        "series_answered",
        series_uid="1.2.3",
        outcome="succeeded",
        latency_ms=812.34567,
        objects=60,
        route=None,
    )
    (line,) = lines(stream)
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "info",
        "logger": OURS.name,
        "event": "series_answered",
        "series_uid": "1.2.3",
        "outcome": "succeeded",
        "latency_ms": 812.346,
        "objects": 60,
    }


def test_unknown_fields_are_left_out_and_odd_values_masked(configured: Configure) -> None:
    stream = configured()
    log_event(
        OURS,
        logging.INFO,
        "object_kept",
        patient_name=NAME,
        series_uid=NAME,
        route=NAME,
        code="Doe Jane",
        objects=NAME,
        address="10.0.0.1",
        status="0xA700",
        latency_ms=float("nan"),
    )
    (line,) = lines(stream)
    assert NAME not in stream.getvalue()
    assert "Jane" not in stream.getvalue()
    assert {name: line[name] for name in ("series_uid", "route", "code", "objects")} == dict.fromkeys(
        ("series_uid", "route", "code", "objects"), "?"
    )
    assert (line["address"], line["status"], line["latency_ms"]) == ("10.0.0.1", "0xA700", "nan")


@given(value=st.text(min_size=1, max_size=80))
def test_no_field_passes_a_persons_name(value: str) -> None:
    """What DICOM writes names with (^, =, blanks, letters beyond ASCII) has no shape any field takes."""
    for name in FIELDS:
        if FIELDS[name](value):
            assert not set(value) & set("^= \\\n\r\t,;'\"")
            assert value.isascii()


@pytest.mark.parametrize("layout", ["json", "text"])
def test_other_packages_say_only_where(configured: Configure, layout: Literal["json", "text"]) -> None:
    stream = configured(layout)
    for name in ("pydicom", "pynetdicom.assoc", "highdicom", "py.warnings", "onfh_runtimes"):
        logging.getLogger(name).error("Invalid value for VR PN: %s", NAME, extra={"onfh_fields": {"route": "x"}})
    logging.getLogger("pydicom").warning(NAME, exc_info=ValueError(NAME))
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn(NAME, UserWarning, stacklevel=1)
    text = stream.getvalue()
    assert NAME not in text
    assert len(text.splitlines()) == 7
    assert "pynetdicom.assoc" in text
    assert "test_log:" in text
    assert "ValueError" in text


def test_errors_pass_by_kind_and_place_and_ours_by_text(configured: Configure) -> None:
    stream = configured()
    try:
        try:
            raise ValueError(NAME)
        except ValueError as error:
            raise SeriesError("gantry_tilt", "The gantry was tilted.") from error
    except SeriesError:
        OURS.exception("a series failed")
    (line,) = lines(stream)
    assert NAME not in stream.getvalue()
    assert "ValueError" in line["error"]
    assert "The gantry was tilted." in line["error"]
    assert "test_log.py" in line["error"]


def test_a_thread_that_dies_is_logged_without_its_message(
    configured: Configure, capsys: pytest.CaptureFixture[str]
) -> None:
    stream = configured()

    def fail() -> None:
        raise KeyError(NAME)

    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()
    assert lines(stream)[0]["level"] == "critical"
    assert "KeyError" in stream.getvalue()
    assert NAME not in stream.getvalue() + "".join(capsys.readouterr())


def test_an_error_nobody_can_catch_is_logged_without_its_message(
    configured: Configure, capsys: pytest.CaptureFixture[str]
) -> None:
    stream = configured()

    class Falls:
        def __del__(self) -> None:
            raise KeyError(NAME)

    Falls()
    assert "KeyError" in stream.getvalue()
    assert NAME not in stream.getvalue() + "".join(capsys.readouterr())


def test_a_line_stays_one_line(configured: Configure) -> None:
    for layout in ("json", "text"):
        stream = configured(layout)
        OURS.info("first\nsecond\r\x1b[31m\u2028third")
        assert len(stream.getvalue().splitlines()) == 1
        assert "\x1b" not in stream.getvalue()


def test_levels(configured: Configure) -> None:
    stream = configured(level="warning")
    OURS.info("quiet")
    logging.getLogger("pynetdicom").info("quiet")
    OURS.warning("heard")
    assert [line["message"] for line in lines(stream)] == ["heard"]


def test_text_reads_as_words(configured: Configure) -> None:
    stream = configured("text")
    log_event(OURS, logging.WARNING, "rejected", reason="unknown_peer", port=11112)
    assert stream.getvalue().endswith(f" warning {OURS.name} rejected reason=unknown_peer port=11112\n")


@pytest.mark.parametrize("formatter", [JsonFormatter(), TextFormatter()])
def test_a_long_message_is_cut(formatter: logging.Formatter) -> None:
    record = logging.LogRecord("onfh_runtime", logging.INFO, __file__, 1, "x" * 10**6, None, None)
    assert len(formatter.format(record)) < 5000
