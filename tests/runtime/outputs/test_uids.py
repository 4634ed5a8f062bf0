from collections.abc import Callable
from typing import Any

import pytest
from pydicom.uid import UID

from onfh_runtime.outputs.uids import content_digest, output_uids, result_uid
from onfh_runtime.result import Result


def test_a_uid_is_valid_and_depends_on_every_argument() -> None:
    uids = {result_uid(*parts) for parts in (("a",), ("b",), ("a", "b"), ("b", "a"), ("a", "b", ""), ("ab",), ("a,b",))}
    assert len(uids) == 7
    for uid in uids:
        assert UID(uid).is_valid
        assert len(uid) <= 44
        number = int(uid.removeprefix("2.25."))
        assert (number >> 76 & 0xF, number >> 62 & 0x3) == (8, 2)  # version and variant of RFC 9562


def test_a_uid_never_changes_between_releases() -> None:
    assert result_uid("sr/instance", "1.2.3") == "2.25.329219000400570665006441249638798921047"


def test_time_and_timing_are_not_content(result_of: Callable[..., Result]) -> None:
    later = result_of(created="2027-01-01T00:00:00Z", timing_ms={"total": 9.0}, preferred=True)
    assert content_digest(later) == content_digest(result_of())


@pytest.mark.parametrize(
    "change",
    [
        {"patient": {"state": "positive", "probability": 0.97, "threshold": 0.42}},
        {"warnings": []},
        {"slices": []},
        {"part": 1},
        {"sides": None},
        {"status": "failed"},
        {"reason": {"code": "a", "text": "b"}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_whatever_is_said_is_content(result_of: Callable[..., Result], change: dict[str, Any]) -> None:
    assert content_digest(result_of(**change)) != content_digest(result_of())


def test_output_uids_follow_source_bundle_software_backend_and_precision(
    result_of: Callable[..., Result], study_of: Callable[..., Any]
) -> None:
    images, _ = study_of()
    result = result_of()
    base = output_uids("sr", result, images, ["d"])
    assert base == output_uids("sr", result, images[::-1], ["d"])
    engine = {"backend": "onnxruntime", "precision": "fp32", "device": "CPU"}
    others = [
        output_uids("seg", result, images, ["d"]),
        output_uids("sr", result, images[1:], ["d"]),
        output_uids("sr", result, images, ["e"]),
        output_uids("sr", result_of(bundle={"name": "demo", "version": "1.2", "sha256": "cd" * 32}), images, ["d"]),
        output_uids("sr", result_of(engine={**engine, "backend": "tensorrt"}), images, ["d"]),
        output_uids("sr", result_of(engine={**engine, "precision": "fp16"}), images, ["d"]),
        output_uids("sr", result_of(software={"name": "onfh-edge", "version": "0.2.0"}), images, ["d"]),
        output_uids("sr", result_of(warnings=[]), images, ["d"]),
    ]
    assert len({uid for series, instances in [base, *others] for uid in (series, *instances)}) == 18


def test_the_objects_of_one_series_have_uids_of_their_own(
    result_of: Callable[..., Result], study_of: Callable[..., Any]
) -> None:
    images, _ = study_of()
    series, instances = output_uids("sc", result_of(), images, ["a", "b", "c"])
    assert len({series, *instances}) == 4
    fewer, _ = output_uids("sc", result_of(), images, ["a", "b"])
    assert fewer != series
