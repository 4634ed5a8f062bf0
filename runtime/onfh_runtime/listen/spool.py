"""The files of received objects: on the disk, with their names, before anybody is told that they are.

Names are made ahead: empty files, with random names, whose folder is flushed once for many of them. So an object costs
one flush of its own, and after a power loss its name is there too (docs/decisions/0007). No name comes from a peer,
nothing is overwritten or renamed, and a file the journal does not list was never acknowledged.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import threading
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from onfh_runtime.listen.records import StorageError

__all__ = ["LEAST_ROOM", "Spool", "SpoolFile", "Written"]

_AHEAD = 4 << 20
"""Bytes an object is granted at a time: more than most CT slices."""

LEAST_ROOM = _AHEAD
"""A spool of fewer bytes takes nothing."""

_LARGEST_MARGIN = 1 << 30

_NAMES = 16
"""Files made ahead: few enough that nobody waits long for them, enough to share the flush of the folder."""

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@dataclass(frozen=True)
class Written:
    """A durable file: its size in bytes, and the SHA-256 of the data set in it."""

    path: Path
    nbytes: int
    sha256: str


class Spool:
    """A folder of received objects with a limit. Every method may be called from any thread."""

    def __init__(self, folder: Path, *, refuse_below_free_bytes: int = 0, max_bytes: int | None = None) -> None:
        """Open or create the folder.

        Args:
            folder: ``state_dir/objects``; nothing else may be in it.
            refuse_below_free_bytes: what must stay free on the disk, whatever is being received.
            max_bytes: the most that may lie in the folder, objects under way included; None for no limit.

        Raises:
            StorageError: ``storage_failed``, ``storage_full``.
        """
        self.folder = folder.parent.resolve() / folder.name  # as the journal names it, also where it is a link
        self._floor = refuse_below_free_bytes
        self._max_bytes = max_bytes
        self._counting = threading.Lock()
        self._granted = 0
        """Bytes granted to open files that are not written yet."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            _sync(self.folder)
            _sync(self.folder.parent)
            with contextlib.suppress(PermissionError):  # the folder above may let the node pass, and no more
                _sync(self.folder.parent.parent)
            self._used = sum(entry.stat().st_size for entry in os.scandir(self.folder))
        except OSError as error:
            raise storage_failure(error, self.folder) from error
        self._naming = threading.Lock()
        self._names: list[Path] = []

    @property
    def used_bytes(self) -> int:
        """Bytes of the files in the folder."""
        return self._used

    def open(self, header: bytes) -> SpoolFile:
        """Begin a file; use it in a ``with`` block, which deletes what is not kept by then.

        Args:
            header: preamble, prefix and file meta information.

        Raises:
            StorageError: ``spool_low``, ``storage_full``, ``storage_failed``.
        """
        return SpoolFile(self, header)

    def write(self, header: bytes, dataset: bytes | memoryview) -> Written:
        """Write an object that lies in memory; see :meth:`open`."""
        with self.open(header) as file:
            file.write(dataset)
            return file.keep()

    def remove(self, path: Path) -> None:
        """Delete a file of the folder; that it is gone already is no error."""
        with contextlib.suppress(OSError), self._counting:
            size = path.stat().st_size
            path.unlink()
            self._used -= size

    def short_bytes(self, room: int = _AHEAD) -> int:
        """How many bytes must go before there is so much room; by default, before another object is taken.

        Raises:
            StorageError: ``storage_failed``.
        """
        with self._counting:
            return max(0, room - self._room())

    def margin(self) -> int:
        """Bytes of room that retention sees to: a quarter of what may be used, 1 GiB at most.

        Raises:
            StorageError: ``storage_failed``.
        """
        disk = self._disk()
        size = disk.f_blocks * disk.f_frsize
        if self._max_bytes is not None:
            size = min(size, self._max_bytes)
        return max(_AHEAD, min(_LARGEST_MARGIN, size // 4))

    def _grant(self, nbytes: int) -> None:
        """Reserve room for bytes to come."""
        with self._counting:
            if self._room() < nbytes:
                raise StorageError(
                    "spool_low",
                    f"The disk of {self.folder} has no room for another object (disk: refuse_below_free_bytes,"
                    " max_spool_bytes).",
                    "Free space, or let retention delete earlier.",
                )
            self._granted += nbytes

    def _room(self) -> int:
        """Bytes that may still be granted; the caller holds ``_counting``."""
        disk = self._disk()
        room = disk.f_bavail * disk.f_frsize - self._floor - self._granted
        if self._max_bytes is not None:
            room = min(room, self._max_bytes - self._used - self._granted)
        return room

    def _disk(self) -> os.statvfs_result:
        try:
            return os.statvfs(self.folder)
        except OSError as error:
            raise storage_failure(error, self.folder) from error

    def _spend(self, nbytes: int) -> None:
        """Granted bytes became bytes of a file."""
        with self._counting:
            self._granted -= nbytes
            self._used += nbytes

    def _return(self, nbytes: int) -> None:
        """Granted bytes are not needed."""
        with self._counting:
            self._granted -= nbytes

    def _take(self) -> tuple[Path, int]:
        """An empty file whose name is durable, and a descriptor to write it; raises ``OSError``."""
        with self._naming:
            while True:
                if not self._names:
                    self._names = self._made()
                path = self._names.pop()
                # Somebody may have tidied the folder up.
                with contextlib.suppress(FileNotFoundError):
                    return path, os.open(path, os.O_WRONLY)

    def _made(self) -> list[Path]:
        paths = [self.folder / f"{secrets.token_hex(8)}.dcm" for _ in range(_NAMES)]
        for path in paths:
            # Others must not read images: the node alone does.
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        _sync(self.folder)
        return paths


class SpoolFile:
    """An object on its way to the disk, from one thread."""

    def __init__(self, spool: Spool, header: bytes) -> None:
        """Made by :meth:`Spool.open`."""
        self._spool = spool
        self._digest = hashlib.sha256()
        self._left = 0
        self._written = 0
        self._descriptor = -1
        self._settled = True
        self._grant(max(1, len(header)))
        try:
            self.path, self._descriptor = spool._take()
            self._settled = False
            self._append(header)
        except OSError as error:
            self.discard()
            raise storage_failure(error, spool.folder) from error

    def __enter__(self) -> SpoolFile:
        """The file itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Delete what was not kept."""
        self.discard()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append bytes of the data set.

        Raises:
            StorageError: ``spool_low``, ``storage_full``, ``storage_failed``; the file is gone then.
        """
        view = memoryview(data)
        try:
            self._grant(view.nbytes)
            self._append(view)
        except OSError as error:
            self.discard()
            raise storage_failure(error, self.path.parent) from error
        except StorageError:
            self.discard()
            raise
        self._digest.update(view)

    def keep(self) -> Written:
        """Make the file durable.

        Raises:
            StorageError: ``storage_full``, ``storage_failed``; the file is gone then.
        """
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            self.discard()
            raise storage_failure(error, self.path.parent) from error
        self._settled = True
        self._close()
        return Written(self.path, self._written, self._digest.hexdigest())

    def discard(self) -> None:
        """Delete the file unless it is kept; a second call does nothing."""
        self._close()
        if not self._settled:
            self._settled = True
            self._spool.remove(self.path)

    def _grant(self, nbytes: int) -> None:
        if nbytes > self._left:
            more = max(nbytes - self._left, _AHEAD)
            self._spool._grant(more)
            self._left += more

    def _append(self, data: bytes | memoryview) -> None:
        view = memoryview(data).cast("B")
        while view.nbytes:
            done = os.write(self._descriptor, view)
            self._written += done
            self._left -= done
            self._spool._spend(done)
            view = view[done:]

    def _close(self) -> None:
        if self._descriptor >= 0:
            with contextlib.suppress(OSError):
                os.close(self._descriptor)
            self._descriptor = -1
        self._spool._return(self._left)
        self._left = 0


def storage_failure(error: OSError, folder: Path) -> StorageError:
    """What an error of the operating system means here."""
    if error.errno in _FULL:
        return StorageError("storage_full", f"The disk of {folder} is full.", "Free space; the sender will try again.")
    return StorageError(
        "storage_failed", f"{folder} cannot be used: {error.strerror}.", "Check the folder's rights and its disk."
    )


def _sync(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
