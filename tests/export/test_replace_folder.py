"""The old folder stays until the new one is in its place."""

import pytest

from onfh_export.replace_folder import replace_folder


@pytest.fixture
def old(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").write_text("x")
    return tmp_path / "out"


def test_one_takes_the_place_of_the_other(old, tmp_path):
    (tmp_path / "made").mkdir()
    replace_folder(tmp_path / "made", old)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert not list(old.iterdir())


def test_what_cannot_be_replaced_is_put_back(old, tmp_path):
    with pytest.raises(FileNotFoundError):
        replace_folder(tmp_path / "nowhere", old)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (old / "old").read_text() == "x"
