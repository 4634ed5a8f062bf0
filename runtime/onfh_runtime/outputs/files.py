"""Writing so that a killed process leaves whole files or none."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from onfh_runtime.errors import OutputError

__all__ = ["ensure_writable", "write_atomically"]


def write_atomically(path: Path, data: bytes | Callable[[BinaryIO], None]) -> None:
    """Write a file under a temporary name beside its target, flush it to the disk, then rename it.

    Args:
        path: the file to make or replace; its folder must exist.
        data: the content, or a function that writes it to the open binary file it is given.

    Raises:
        OutputError: ``output_unwritable``, when the operating system refuses (rights, full disk, missing folder).
            Whatever ``data`` itself raises passes through. In both cases the old file, if any, is untouched and no
            temporary file stays.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        try:
            # "x" honours the umask, which tempfile's fixed mode 0600 would not: others must be able to read a report.
            with temporary.open("xb") as file:
                if callable(data):
                    data(file)
                else:
                    file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise _unwritable(path.parent, error) from error
    _sync_folder(path.parent)


def ensure_writable(folder: Path) -> None:
    """Create ``folder`` (and its parents), durably, and prove that a file can be written in it.

    Raises:
        OutputError: ``output_unwritable``.
    """
    probe = folder / f".{secrets.token_hex(8)}.tmp"
    try:
        made = [folder, *folder.parents]
        made = made[: next(i for i, parent in enumerate(made) if parent.exists())]
        folder.mkdir(parents=True, exist_ok=True)
        for new in made:
            _sync_folder(new.parent)
        try:
            probe.write_bytes(b"probe")
        finally:
            probe.unlink(missing_ok=True)
    except OSError as error:
        raise _unwritable(folder, error) from error


def _unwritable(folder: Path, error: OSError) -> OutputError:
    return OutputError(
        "output_unwritable",
        f"Cannot write to the folder {folder}: {error.strerror or error}.",
        "Choose another folder with --out, or free space and check its permissions.",
    )


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable where the system can open a folder (not on Windows, not on every network disk)."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
