"""One node per folder: a lock on ``node.lock`` that the system releases with the process, however it ends."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from onfh_runtime.listen.records import StorageError

__all__ = ["FolderLock", "is_locked"]

_NAME = "node.lock"
_LOOKS, _LOOK_S = 5, 0.1


class FolderLock:
    """Holds a folder from now until :meth:`release`.

    Raises:
        StorageError: ``state_dir_in_use``; ``storage_failed``, when the folder cannot be used.
    """

    def __init__(self, folder: Path) -> None:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # images and results name patients
            self._descriptor = os.open(folder / _NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StorageError(
                "storage_failed", f"{folder} cannot be used ({error.strerror}).", "Check its rights and its disk."
            ) from error
        for left in reversed(range(_LOOKS)):  # whoever asks is_locked() holds the lock for a moment
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except OSError as error:
                if not left:
                    os.close(self._descriptor)
                    raise StorageError(
                        "state_dir_in_use",
                        f"Another node works in {folder}.",
                        "Stop it, or give this one its own state_dir.",
                    ) from error
            time.sleep(_LOOK_S)

    def release(self) -> None:
        """Give the folder free; a second call does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def is_locked(folder: Path) -> bool:
    """Whether a node works in a folder; changes nothing."""
    try:
        descriptor = os.open(folder / _NAME, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False
