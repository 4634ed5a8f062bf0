"""What it costs to keep a received object before it is acknowledged (docs/decisions/0007).

Writes objects of 0.5 MB (a 512 x 512 CT slice) into a folder of this disk and records each in a journal, in several
forms that differ in what a power loss may take. The forms take turns within every round; the figure is wall time over
objects, the median of the rounds with its spread, and beside it how long one call took.

Not measured: other disks and file systems (a drive with a write cache that survives a power loss answers a flush at
once), a disk that is busy with something else, the network.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import secrets
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from onfh_runtime.listen.config_checks import file_system_of
from onfh_runtime.listen.journal import Journal
from onfh_runtime.listen.records import ObjectRow
from onfh_runtime.listen.spool import Spool
from onfh_runtime.measure import machine_fingerprint

Write = Callable[[Path, Spool, bytes], Path]


def renamed(folder: Path, spool: Spool, data: bytes) -> Path:
    """A temporary name, a flush, the final name, a flush of the folder."""
    path = folder / f"{secrets.token_hex(8)}.dcm"
    temporary = path.with_suffix(".tmp")
    flushed(temporary, data, os.fsync)
    temporary.rename(path)
    descriptor = os.open(folder, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
    return path


def nameless(folder: Path, spool: Spool, data: bytes) -> Path:
    """The final name and the data; the folder was flushed once, when it was made."""
    path = folder / f"{secrets.token_hex(8)}.dcm"
    flushed(path, data, os.fdatasync)
    return path


def together(folder: Path, spool: Spool, data: bytes) -> Path:
    """What the node does."""
    return spool.write(b"", data).path


def unflushed(folder: Path, spool: Spool, data: bytes) -> Path:
    """The data only reaches the page cache: not durable, the floor of what writing costs."""
    path = folder / f"{secrets.token_hex(8)}.dcm"
    flushed(path, data, lambda descriptor: None)
    return path


def flushed(path: Path, data: bytes, flush: Callable[[int], None]) -> None:
    """Write a new file, take its digest as the node does, and flush it."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    os.write(descriptor, data)
    hashlib.sha256(data).hexdigest()
    flush(descriptor)
    os.close(descriptor)


FORMS: dict[str, Write] = {
    "a: fsync, rename, fsync of the folder, commit": renamed,
    "b: fdatasync, commit (a power loss may take the name)": nameless,
    "c: a name made ahead, fsync, shared commit": together,
    "not durable: write, commit": unflushed,
}


def milliseconds(write: Write, root: Path, threads: int, objects: int, data: bytes) -> tuple[float, list[float]]:
    """Wall time per object, and the time of each call, with an empty spool and journal."""
    with tempfile.TemporaryDirectory(dir=root) as name:
        folder = Path(name).resolve() / "objects"
        spool = Spool(folder)
        journal = Journal(folder.parent / "journal.sqlite")

        def keep(number: int) -> float:
            began = time.perf_counter()
            path = write(folder, spool, data)
            row = ObjectRow(
                f"1.{number}", "1.2", "1.1", path, len(data), str(number), time.time(), "", "", "peer", "route"
            )
            journal.record_object(row)
            return (time.perf_counter() - began) * 1e3

        began = time.perf_counter()
        with ThreadPoolExecutor(threads) as pool:
            calls = list(pool.map(keep, range(objects)))
        wall = (time.perf_counter() - began) * 1e3
        journal.close()
    return wall / objects, calls


def main() -> None:
    """Measure and print, or write as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path(), help="on the disk to measure (default: here)")
    parser.add_argument("--objects", type=int, default=200)
    parser.add_argument("--kib", type=int, default=514)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    data = os.urandom(options.kib << 10)
    walls: dict[tuple[str, int], list[float]] = {}
    calls: dict[tuple[str, int], list[float]] = {}
    for _ in range(options.rounds):
        for threads in (1, 8):
            for form, write in FORMS.items():
                wall, took = milliseconds(write, options.folder, threads, options.objects, data)
                walls.setdefault((form, threads), []).append(wall)
                calls.setdefault((form, threads), []).extend(took)
    rows = []
    for (form, threads), each in walls.items():
        tail = statistics.quantiles(calls[form, threads], n=20)[18]
        rows.append(
            {
                "form": form,
                "threads": threads,
                "ms_per_object": round(statistics.median(each), 2),
                "least": round(min(each), 2),
                "most": round(max(each), 2),
                "call_ms_p50": round(statistics.median(calls[form, threads]), 2),
                "call_ms_p95": round(tail, 2),
            }
        )
        print(
            f"{threads} thread(s)  {form:55} {rows[-1]['ms_per_object']:6.2f} ms an object"
            f" ({rows[-1]['least']:.2f} to {rows[-1]['most']:.2f}), a call p50 {rows[-1]['call_ms_p50']:.2f}"
            f" p95 {rows[-1]['call_ms_p95']:.2f}"
        )
    if options.out:
        about = {"machine": machine_fingerprint(), "file_system": file_system_of(options.folder.resolve())}
        about |= {"kib": options.kib, "objects": options.objects, "rounds": options.rounds, "rows": rows}
        options.out.write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main()
