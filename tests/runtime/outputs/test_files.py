import os
import stat
from pathlib import Path

import pytest

from onfh_runtime.errors import OutputError
from onfh_runtime.outputs.files import ensure_writable, write_atomically


@pytest.mark.parametrize("data", [b"new", lambda file: file.write(b"new")], ids=["bytes", "function"])
def test_a_file_is_made_or_replaced_and_nothing_else_stays(tmp_path: Path, data: object) -> None:
    path = tmp_path / "result.json"
    for before in (None, b"old and longer"):
        if before is not None:
            path.write_bytes(before)
        write_atomically(path, data)
        assert path.read_bytes() == b"new"
        assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "error", [RuntimeError("encoder"), KeyboardInterrupt(), OSError(28, "No space left on device")]
)
def test_a_failed_write_leaves_the_old_file_whole(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "seg.dcm"
    path.write_bytes(b"old")

    def fail(file: object) -> None:
        file.write(b"half")
        raise error

    expected = OutputError if isinstance(error, OSError) else type(error)
    with pytest.raises(expected) as caught:
        write_atomically(path, fail)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
    if expected is OutputError:
        assert caught.value.code == "output_unwritable"
        assert str(tmp_path) in caught.value.text
        assert "No space left" in caught.value.text


def test_the_target_is_absent_until_the_content_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "sr.dcm"

    def write(file: object) -> None:
        file.write(b"x")
        assert not path.exists()

    write_atomically(path, write)
    assert path.exists()


def test_the_umask_decides_who_may_read(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        write_atomically(tmp_path / "report.html", b"x")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "report.html").stat().st_mode) == 0o640


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="gone") as caught:
        write_atomically(tmp_path / "gone" / "a.json", b"x")
    assert caught.value.exit_code == 2


def test_ensure_writable_creates_the_folder_and_leaves_it_empty(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    ensure_writable(folder)
    ensure_writable(folder)
    assert folder.is_dir()
    assert not list(folder.iterdir())


def test_ensure_writable_refuses_a_path_through_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError) as caught:
        ensure_writable(tmp_path / "file" / "out")
    assert caught.value.code == "output_unwritable"
    assert "file" in caught.value.text


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_ensure_writable_refuses_a_read_only_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError):
        ensure_writable(tmp_path)


def test_folders_that_are_made_are_named_durably(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        flushed.append(Path(f"/proc/self/fd/{descriptor}").readlink())
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    ensure_writable(tmp_path / "study" / "series")
    assert flushed == [tmp_path / "study", tmp_path]
    ensure_writable(tmp_path / "study" / "series")
    assert len(flushed) == 2
