"""Writing a bundle: whole, or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from onfh_export.replace_folder import replace_folder
from onfh_runtime.bundle import Bundle, load_bundle, sha256_of
from onfh_runtime.errors import OutputError, UsageError

__all__ = ["new_bundle", "seal_bundle", "validated"]


@contextmanager
def new_bundle(out: Path, *, force: bool = False) -> Iterator[Path]:
    """A temporary folder beside ``out`` that becomes ``out`` when the body ends well.

    On any failure what was at ``out`` is left as it was, and nothing else is left behind.

    Args:
        out: the bundle's folder.
        force: replace a bundle that is already there.

    Raises:
        OutputError: ``bundle_exists`` or ``output_unwritable``.
    """
    out = Path(os.path.realpath(out))  # "." has no name to put a temporary folder beside
    try:
        if out.exists() and not force:
            raise OutputError("bundle_exists", f"{out} is already there.", "Choose another folder, or add --force.")
        if out.exists() and not (out / "bundle.json").is_file() and (not out.is_dir() or any(out.iterdir())):
            raise OutputError("bundle_exists", f"{out} is there and is no bundle.", "Choose another folder.")
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise OutputError("output_unwritable", f"{out.parent} cannot be written ({error.strerror}).") from error
    try:
        temporary.chmod(0o755)
        yield temporary
        try:
            replace_folder(temporary, out)
        except OSError as error:
            raise OutputError("output_unwritable", f"{out} cannot be written ({error.strerror}).") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def seal_bundle(folder: Path, content: dict[str, Any]) -> None:
    """Write bundle.json with the hash of every file of ``folder``, and load the bundle as a runtime would.

    Plans are left out: they are bound to a machine, may be rebuilt, and name their own hash.

    Raises:
        UsageError: ``config_invalid``.
    """
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    named = {file.relative_to(folder).as_posix(): file for file in files}
    hashes = {name: sha256_of(file) for name, file in named.items() if not name.startswith("engines/")}
    text = validated({**content, "files": hashes}).model_dump_json(by_alias=True, indent=1)
    (folder / "bundle.json").write_text(text + "\n", encoding="utf-8")
    load_bundle(folder)


def validated(content: dict[str, Any]) -> Bundle:
    """The content of a bundle.json, checked.

    Raises:
        UsageError: ``config_invalid``, naming every field that is wrong.
    """
    try:
        return Bundle.model_validate(content)
    except ValidationError as error:
        problems = [
            f"{'.'.join(str(part) for part in problem['loc']) or 'top level'}: {problem['msg']}"
            for problem in error.errors()
        ]
        raise UsageError("config_invalid", f"The bundle's configuration is wrong at {'; '.join(problems)}.") from error
