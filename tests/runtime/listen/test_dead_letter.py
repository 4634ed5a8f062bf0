"""Dead letters: the object and why, written whole, and again without harm."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pacs import SR, write_object

from onfh_runtime.errors import OutputError
from onfh_runtime.listen.dead_letter import bury
from onfh_runtime.listen.records import DeliveryRow


@pytest.fixture
def row(tmp_path: Path) -> DeliveryRow:
    path = write_object(tmp_path / "results" / "sr.dcm", "1.2.1")
    return DeliveryRow(7, "1.2.3", 2, "pacs", path, "1.2.1", SR, "pending", 4, 0.0, None)


def test_object_and_reason(tmp_path: Path, row: DeliveryRow) -> None:
    path = bury(tmp_path / "dead", row, study_uid="1.2", text="It is down.")
    assert path == tmp_path / "dead" / "pacs" / "1.2.1.json"
    reason = json.loads(path.read_text())
    assert reason.pop("given_up").endswith("Z")
    assert reason == {
        "schema": "onfh-dead-letter/1",
        "destination": "pacs",
        "study_instance_uid": "1.2",
        "series_instance_uid": "1.2.3",
        "sop_instance_uid": "1.2.1",
        "sop_class_uid": SR,
        "generation": 2,
        "tries": 4,
        "text": "It is down.",
        "file": "1.2.1.dcm",
    }
    assert path.with_suffix(".dcm").read_bytes() == row.path.read_bytes()


def test_it_outlives_the_result_and_a_newer_one_in_its_place(tmp_path: Path, row: DeliveryRow) -> None:
    before = row.path.read_bytes()
    kept = bury(tmp_path / "dead", row, study_uid=None, text="It is down.").with_suffix(".dcm")
    newer = write_object(tmp_path / "newer.dcm", "1.2.2")
    newer.replace(row.path)
    assert kept.read_bytes() == before
    row.path.unlink()
    assert kept.read_bytes() == before


def test_doing_it_twice_changes_only_the_reason(tmp_path: Path, row: DeliveryRow) -> None:
    bury(tmp_path / "dead", row, study_uid=None, text="first")
    path = bury(tmp_path / "dead", row, study_uid=None, text="second")
    assert json.loads(path.read_text())["text"] == "second"
    assert len(list(path.parent.iterdir())) == 2


def test_without_hard_links_it_is_a_copy(tmp_path: Path, row: DeliveryRow, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "link", refuse)
    kept = bury(tmp_path / "dead", row, study_uid=None, text="x").with_suffix(".dcm")
    assert kept.stat().st_nlink == 1
    assert kept.read_bytes() == row.path.read_bytes()


def test_a_missing_object_still_has_its_reason(tmp_path: Path, row: DeliveryRow) -> None:
    row.path.unlink()
    path = bury(tmp_path / "dead", row, study_uid=None, text="gone")
    assert json.loads(path.read_text())["file"] is None


@pytest.mark.parametrize("other", [lambda path: write_object(path, "1.2.2"), lambda path: path.write_bytes(b"x" * 200)])
def test_another_object_is_not_kept_in_its_name(tmp_path: Path, row: DeliveryRow, other: Callable[[Path], Any]) -> None:
    other(row.path)
    path = bury(tmp_path / "dead", row, study_uid=None, text="replaced")
    assert json.loads(path.read_text())["file"] is None
    assert not path.with_suffix(".dcm").exists()


def test_names_that_are_no_names_stay_inside(tmp_path: Path, row: DeliveryRow) -> None:
    path = bury(tmp_path / "dead", replace(row, destination="../../x", sop_uid="../y"), study_uid=None, text="x")
    assert path.resolve().is_relative_to((tmp_path / "dead").resolve())


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path, row: DeliveryRow) -> None:
    (tmp_path / "dead").write_text("in the way")
    with pytest.raises(OutputError, match="output_unwritable"):
        bury(tmp_path / "dead", row, study_uid=None, text="x")
