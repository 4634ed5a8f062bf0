"""A received object is whole on the disk or not there at all, and the disk is never filled."""

from __future__ import annotations

import errno
import hashlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from onfh_runtime.listen.records import StorageError
from onfh_runtime.listen.spool import Spool

MIB = 1 << 20


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "objects")


def whole_files(folder: Path) -> list[Path]:
    """Files with something in them; the empty ones are names made ahead."""
    return [path for path in folder.iterdir() if path.stat().st_size]


def test_a_written_object_is_its_header_and_its_data_set(spool: Spool) -> None:
    written = spool.write(b"DICM", b"pixels")
    assert written.path.read_bytes() == b"DICMpixels"
    assert written.nbytes == 10
    assert written.sha256 == hashlib.sha256(b"pixels").hexdigest()
    assert written.path.parent == spool.folder
    assert spool.used_bytes == 10


def test_an_object_comes_in_pieces(spool: Spool) -> None:
    with spool.open(b"DICM") as file:
        for piece in (b"pi", bytearray(b"xe"), memoryview(b"ls")):
            file.write(piece)
        written = file.keep()
    assert written.path.read_bytes() == b"DICMpixels"
    assert written.sha256 == hashlib.sha256(b"pixels").hexdigest()


def test_what_is_not_kept_is_gone(spool: Spool) -> None:
    with spool.open(b"DICM") as file:
        file.write(bytes(5 * MIB))
    file.discard()
    assert whole_files(spool.folder) == []
    assert spool.used_bytes == 0


def test_what_is_kept_survives_a_later_discard(spool: Spool) -> None:
    with spool.open(b"DICM") as file:
        written = file.keep()
    file.discard()
    assert written.path.exists()


def test_only_the_node_reads_images(spool: Spool) -> None:
    assert spool.write(b"", b"pixels").path.stat().st_mode & 0o077 == 0


def test_many_threads_get_files_of_their_own(spool: Spool) -> None:
    written = {}

    def write(i: int) -> None:
        for k in range(30):
            written[i, k] = spool.write(b"", b"%d %d" % (i, k))

    threads = [threading.Thread(target=write, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({each.path for each in written.values()}) == 240
    assert all(each.path.read_bytes() == b"%d %d" % key for key, each in written.items())
    assert spool.used_bytes == sum(each.nbytes for each in written.values())


def test_name_and_content_are_flushed_before_an_object_counts(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is flushed when: kill -9 does not show it, since the page cache outlives the process."""
    flushed: list[tuple[Path, int, set[str]]] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        flushed.append((path, path.stat().st_size, {entry.name for entry in spool.folder.iterdir()}))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    many = [spool.write(b"DICM", b"pixels") for _ in range(70)]
    named: set[str] = set()
    for path, _, names in flushed:
        if path == spool.folder:
            named |= names
        else:
            assert path.name in named, "an object was flushed before its name was"
    content = {path: size for path, size, _ in flushed if path != spool.folder}
    assert content == {each.path: 10 for each in many}
    assert sum(path == spool.folder for path, _, _ in flushed) < 10


def test_a_limit_refuses_before_a_byte_is_written(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "objects", max_bytes=9 * MIB)
    spool.write(b"", bytes(3 * MIB))
    spool.write(b"", bytes(2 * MIB))
    with spool.open(b"") as first:
        # 5 MiB lie there and 4 are granted: no room for another object until this one is through.
        with pytest.raises(StorageError) as refused:
            spool.open(b"")
        assert refused.value.code == "spool_low"
        assert spool.short_bytes() == 4 * MIB
        first.write(bytes(4 * MIB))
        with pytest.raises(StorageError, match="no room"):
            first.write(b"1")
    assert spool.used_bytes == 5 * MIB
    assert spool.short_bytes() == 0
    assert len(whole_files(spool.folder)) == 2


def test_the_watermark_counts_what_is_under_way(tmp_path: Path) -> None:
    free = os.statvfs(tmp_path)
    # Far above what other programs may free meanwhile: half of the disk.
    floor = free.f_bavail * free.f_frsize // 2
    spool = Spool(tmp_path / "objects", refuse_below_free_bytes=floor)
    with spool.open(b"DICM"):
        assert spool.short_bytes() == 0
    full = Spool(tmp_path / "objects", refuse_below_free_bytes=3 * floor)
    with pytest.raises(StorageError) as refused:
        full.write(b"DICM", b"pixels")
    assert refused.value.code == "spool_low"
    assert full.short_bytes() > floor // 2


def test_deleted_files_count_no_more(spool: Spool) -> None:
    written = spool.write(b"", b"pixels")
    spool.remove(written.path)
    spool.remove(written.path)
    assert spool.used_bytes == 0


def test_files_of_an_earlier_run_count(spool: Spool) -> None:
    spool.write(b"", b"pixels")
    assert Spool(spool.folder).used_bytes == 6


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError) as failed:
        Spool(tmp_path / "file" / "objects")
    assert failed.value.code == "storage_failed"


@pytest.fixture
def small_files() -> Iterator[int]:
    """The operating system refuses to let any file grow past a megabyte, as a quota would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, hard))
    yield MIB
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    signal.signal(signal.SIGXFSZ, ignored)


def test_a_write_that_fails_half_way_leaves_nothing(spool: Spool, small_files: int) -> None:
    with spool.open(b"DICM") as file:
        file.write(bytes(small_files // 2))
        with pytest.raises(StorageError) as full:
            file.write(bytes(small_files))
    assert full.value.code == "storage_full"
    assert whole_files(spool.folder) == []
    assert spool.used_bytes == 0
    assert spool.write(b"DICM", b"pixels").nbytes == 10


def test_a_disk_that_fails_to_flush_is_no_success(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    spool.write(b"", b"the first")

    def fsync(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(StorageError) as failed:
        spool.write(b"", b"the second")
    assert failed.value.code == "storage_failed"
    assert [path.read_bytes() for path in whole_files(spool.folder)] == [b"the first"]


FILL = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from kept_objects import keep, open_state, row_of
from onfh_runtime.listen.records import StorageError

def code_of(call, *given):
    try:
        call(*given)
    except StorageError as error:
        return error.code

spool, journal = open_state(Path(sys.argv[1]))
taken = 0
while (code := code_of(keep, spool, journal, f"1.2.{taken}", os.urandom(300_000))) is None:
    taken += 1
print(code)
spool.remove(journal.objects_of("1.2")[0].path)
written = spool.write(b"DICM", b"pixels")
file = spool.open(b"DICM")
other = os.open(spool.folder.parent / "other", os.O_WRONLY | os.O_CREAT)

def fill():
    try:
        while True:
            os.write(other, bytes(4096))
    except OSError:
        pass

fill()
print(code_of(file.write, bytes(1_000_000)))
fill()
print(code_of(journal.record_object, row_of(written, "1.3")))
os.ftruncate(other, 0)
print(keep(spool, journal, "1.4", bytes(1000)).value, code_of(journal.association_released, ["1.2"], 1.0))
kept = journal.objects_of("1.2")[1:]
assert len(kept) == taken > 9
assert {row.path for row in kept} == {path for path in spool.folder.iterdir() if path.stat().st_size}
"""


def test_a_full_disk_refuses_and_goes_on(tmp_path: Path) -> None:
    """A small file system of its own, where the kernel lets an ordinary user mount one."""
    script = f'mount -t tmpfs -o size=12m tmpfs {tmp_path} && exec {sys.executable} -c "$0" "$@"'
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, "-rm", "true"], capture_output=True).returncode:
        pytest.skip("no user namespaces here")
    helpers = Path(__file__).parents[2] / "helpers"
    command = [unshare, "-rm", "sh", "-c", script, FILL, str(tmp_path / "state"), str(helpers)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["spool_low", "storage_full", "storage_full", "new", "None"]


def test_a_folder_behind_a_link_is_named_as_the_journal_names_it(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "objects").symlink_to(tmp_path / "disk")
    written = Spool(tmp_path / "objects").write(b"", b"pixels")
    assert written.path.parent == tmp_path.resolve() / "objects"
    assert (tmp_path / "disk" / written.path.name).read_bytes() == b"pixels"


def test_the_folder_above_may_be_closed_to_the_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rights do not stop root, so the system's refusal is played."""
    real = os.open

    def opened(path, flags, *mode):
        if Path(path) == tmp_path:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, flags, *mode)

    monkeypatch.setattr(os, "open", opened)
    assert Spool(tmp_path / "state" / "objects").write(b"", b"pixels").path.exists()
    with pytest.raises(StorageError, match="storage_failed"):
        Spool(tmp_path / "objects")


@pytest.mark.parametrize(("quota", "margin"), [(1 * MIB, 4 * MIB), (40 * MIB, 10 * MIB), (1 << 60, None)])
def test_retention_sees_to_a_quarter_of_the_room(tmp_path: Path, quota: int, margin: int | None) -> None:
    spool = Spool(tmp_path / "objects", max_bytes=quota)
    disk = os.statvfs(tmp_path)
    assert spool.margin() == (margin or min(1 << 30, disk.f_blocks * disk.f_frsize // 4))
    assert spool.short_bytes(MIB) == 0
    if margin is not None:
        assert spool.short_bytes(quota + 1) == 1
