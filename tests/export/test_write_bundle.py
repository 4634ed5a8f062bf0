"""A bundle is written whole, or what was there stays."""

import json
import shutil
from pathlib import Path

import pytest

from onfh_export.write_bundle import new_bundle, seal_bundle, validated
from onfh_runtime.bundle import load_bundle
from onfh_runtime.errors import OutputError, UsageError


@pytest.fixture
def content(bundle):
    return json.loads((bundle / "bundle.json").read_text())


def _copy(bundle, folder):
    shutil.copytree(bundle, folder, dirs_exist_ok=True)
    (folder / "bundle.json").unlink()


def test_it_appears_when_the_body_ends(bundle, content, tmp_path):
    out = tmp_path / "deep" / "b"
    with new_bundle(out) as folder:
        _copy(bundle, folder)
        seal_bundle(folder, content)
        assert not out.exists()
    assert load_bundle(out).content == load_bundle(bundle).content
    assert [p.name for p in out.parent.iterdir()] == ["b"]


def test_plans_are_not_hashed(bundle, content, tmp_path):
    with new_bundle(tmp_path / "b") as folder:
        _copy(bundle, folder)
        (folder / "engines").mkdir()
        (folder / "engines" / "x.plan").write_bytes(b"x")
        seal_bundle(folder, content)
    assert not any(name.startswith("engines") for name in load_bundle(tmp_path / "b").content.files)


def test_a_bundle_that_is_there_needs_force(bundle, tmp_path):
    shutil.copytree(bundle, tmp_path / "b")
    with pytest.raises(OutputError, match="bundle_exists"), new_bundle(tmp_path / "b"):
        pytest.fail("the body ran")


def test_force_never_replaces_what_is_no_bundle(tmp_path):
    (tmp_path / "thesis.txt").write_text("x")
    with pytest.raises(OutputError, match="no bundle"), new_bundle(tmp_path, force=True):
        pytest.fail("the body ran")
    assert (tmp_path / "thesis.txt").read_text() == "x"


def test_force_replaces_and_leaves_nothing_behind(bundle, content, tmp_path):
    shutil.copytree(bundle, tmp_path / "b")
    (tmp_path / "b" / "stale").write_text("x")
    with new_bundle(tmp_path / "b", force=True) as folder:
        _copy(bundle, folder)
        seal_bundle(folder, content)
    assert not (tmp_path / "b" / "stale").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["b"]


def test_a_failure_leaves_the_old_bundle(bundle, tmp_path):
    shutil.copytree(bundle, tmp_path / "b")
    before = {p: p.read_bytes() for p in (tmp_path / "b").rglob("*") if p.is_file()}
    with pytest.raises(FileNotFoundError), new_bundle(tmp_path / "b", force=True) as folder:
        (folder / "half").rename(folder / "no" / "where")
    assert {p: p.read_bytes() for p in (tmp_path / "b").rglob("*") if p.is_file()} == before
    assert [p.name for p in tmp_path.iterdir()] == ["b"]


def test_the_current_folder_can_be_replaced(bundle, content, tmp_path, monkeypatch):
    shutil.copytree(bundle, tmp_path / "b")
    monkeypatch.chdir(tmp_path / "b")
    with new_bundle(Path(), force=True) as folder:
        _copy(bundle, folder)
        seal_bundle(folder, content)
    assert load_bundle(tmp_path / "b").content == load_bundle(bundle).content
    assert [p.name for p in tmp_path.iterdir()] == ["b"]


def test_a_folder_above_the_current_one_is_no_bundle(tmp_path, monkeypatch):
    (tmp_path / "deep").mkdir()
    monkeypatch.chdir(tmp_path / "deep")
    for out in ("..", "../..", "/"):
        with pytest.raises(OutputError, match="no bundle"), new_bundle(Path(out), force=True):
            pytest.fail("the body ran")


@pytest.mark.parametrize("name", [".b.old", ".b.old.x1"])
def test_a_leftover_of_a_killed_export_is_kept(bundle, tmp_path, name):
    """It may be the only copy."""
    shutil.copytree(bundle, tmp_path / "b")
    (tmp_path / name).mkdir()
    (tmp_path / name / "weights").write_text("x")
    with new_bundle(tmp_path / "b", force=True) as folder:
        (folder / "new").write_text("x")
    assert (tmp_path / name / "weights").read_text() == "x"
    assert [p.name for p in (tmp_path / "b").iterdir()] == ["new"]


def test_every_wrong_field_is_named(content):
    with pytest.raises(UsageError, match=r"gate\.threshold.*surprise"):
        validated({**content, "gate": {"threshold": 2}, "surprise": 1})
