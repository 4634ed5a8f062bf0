from __future__ import annotations

import fcntl
import os
import threading

import pytest

from onfh_runtime.listen.lock import FolderLock, is_locked
from onfh_runtime.listen.records import StorageError


def test_a_folder_has_one_node(tmp_path):
    lock = FolderLock(tmp_path)
    assert is_locked(tmp_path)
    with pytest.raises(StorageError, match="state_dir_in_use"):
        FolderLock(tmp_path)
    lock.release()
    lock.release()
    assert not is_locked(tmp_path)
    FolderLock(tmp_path).release()


def test_who_looks_in_passing_keeps_no_node_from_starting(tmp_path):
    FolderLock(tmp_path).release()
    looking = os.open(tmp_path / "node.lock", os.O_RDONLY)
    fcntl.flock(looking, fcntl.LOCK_SH)
    threading.Timer(0.15, os.close, [looking]).start()
    FolderLock(tmp_path).release()
