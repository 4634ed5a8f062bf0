"""A folder that is whole takes the place of another, which is not lost before."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

__all__ = ["replace_folder"]


def replace_folder(made: Path, out: Path) -> None:
    """Rename ``made`` to ``out``, both in one folder; what was at ``out`` is put back when that fails, else removed.

    Killed between the two renames, it leaves the old folder in ``.<name>.old.*`` beside ``out``, which no later call
    touches: it may be the only copy.

    Raises:
        OSError: from the renames.
    """
    if not out.exists():
        made.rename(out)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{out.name}.old.", dir=out.parent))
    old = aside / out.name
    try:
        out.rename(old)
        made.rename(out)
    except BaseException:
        if old.exists():
            old.rename(out)
        aside.rmdir()
        raise
    shutil.rmtree(aside, ignore_errors=True)
