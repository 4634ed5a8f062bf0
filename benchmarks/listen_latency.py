"""From the last image of a series to its result, in ``onfh listen``: how long, and how much of it is not engine time.

dcmtk's storescu sends phantom series one after the other to a node that runs as a process of its own and sends results
on to storescp: coronal slices as a scanner's console makes them, or axial ones. At a scanner's pace they come over a
link that lets so many images through in a second; in a burst as fast as both sides can. Stages are

- ``box``: the demo bundle. Stages see the box around the femoral heads, which is known only when all images are here,
  so stage 1 waits for the last one.
- ``whole``: its stages on whole slices, with the gate held to as many slices. Stage 1 sees each native coronal slice
  when it comes. The stages were not trained for that: the work is real, the answer means nothing.
- ``large`` (asked for with ``--large``; needs torch): the same with stages of the size people deploy (large_stages.py).

Complete by ``count`` means that nothing is waited for after the last image; by ``association`` that ``quiet_s`` passes
first, in which the node may catch up. Of each series, in ms:

latency         last image on the disk and in the journal, until result, report, SR and SEG are written and journalled
after_quiet     the same without ``quiet_s``
engine          both stages, as far as they ran after the last image
needed          engine, and writing report, SR and SEG: what can only be done when the last image is here
outside_engine  latency less engine, as the journal has it
over_needed     after_quiet / needed, within one series
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from listen_site import ROOT, Archive, Node, tool, until
from pydicom import Dataset, dcmread

from onfh_runtime.cli.infer import demo_bundle
from onfh_runtime.listen.records import SeriesRow, SeriesState
from onfh_runtime.measure import percentiles
from onfh_runtime.measure.record import record
from onfh_runtime.phantom import axial_grid, coronal_grid, random_spec, render, write_series
from onfh_runtime.result import Timing

QUIET_S = 1.0
GATED = 10
"""Slices that stage 2 sees with ``whole``."""
AXIAL_TO_CORONAL = 2
"""Axial slices for each coronal one: a pelvis has more of them."""
IMAGES_IN_A_SECOND = 10.0
DOES_NOT_MEASURE = (
    "A network, a busy disk, several scanners at once.",
    "The way of a result to a PACS: it starts when the latency ends.",
    "A GPU.",
)


@dataclass(frozen=True)
class Case:
    """What is sent, how, to which stages, and when it is complete."""

    plane: str
    stages: str
    pace: str
    complete: str

    def __str__(self) -> str:
        return f"{self.plane} {self.stages} {self.pace} {self.complete}"


CASES = [
    Case(*words)
    for words in product(("coronal", "axial"), ("whole", "box"), ("scanner", "burst"), ("count", "association"))
    if words[:2] != ("axial", "whole")  # a reformatted slice needs all images: nothing is early
]
LARGE = [Case("coronal", "large", pace, "count") for pace in ("scanner", "burst")]


class Link:
    """Relays one connection after the other to a port, and lets so many bytes a second in."""

    def __init__(self, port: int, bytes_per_s: float) -> None:
        self._to, self._rate = port, bytes_per_s
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Take no further connection."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                inside = self._listener.accept()[0]
                with inside, socket.create_connection(("127.0.0.1", self._to)) as outside:
                    for one in (inside, outside):
                        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
                    back = threading.Thread(target=self._pump, args=(outside, inside, None), daemon=True)
                    back.start()
                    self._pump(inside, outside, self._rate)
                    back.join()

    def _pump(self, source: socket.socket, target: socket.socket, rate: float | None) -> None:
        free_s = time.monotonic()
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 15):
                if rate is not None:
                    free_s = max(free_s, time.monotonic()) + len(data) / rate
                    time.sleep(max(0.0, free_s - time.monotonic()))
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)


def rendered(folder: Path, plane: str, slices: int, matrix: int) -> list[Dataset]:
    """The images of a patient with a lesion on the right; ``matrix`` is the width of an image."""
    spec = random_spec(7, scanner="site_a", lesions="right", implant="none")
    if plane == "axial":
        grid = axial_grid(spec, slices, matrix, matrix)
    else:
        grid = coronal_grid(spec, 3.0, 380.0 / matrix)
        more = slices - grid.shape[0]
        x, y, z = grid.origin
        grid = replace(grid, origin=(x, y - 3.0 * more / 2, z), shape=(slices, *grid.shape[1:]))
    return [dcmread(path) for path in write_series(render(spec, grid), folder / plane)]


def write_copy(images: list[Dataset], folder: Path, number: int) -> str:
    """Write the images as another study and give its Series Instance UID."""
    folder.mkdir()
    series_uid = f"{ROOT}.{number}.1"
    for k, image in enumerate(images, 1):
        image.StudyInstanceUID, image.SeriesInstanceUID = f"{ROOT}.{number}", series_uid
        image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = f"{series_uid}.{k}"
        image.save_as(folder / f"{k:04d}.dcm")
    return series_uid


def bundle_of(stages: str, root: Path) -> Path:
    """The folder of a bundle, made where it is not there."""
    folder = root / f"bundle-{stages}"
    if stages == "box":
        return demo_bundle()
    if folder.exists():
        return folder
    if stages == "large":
        script = Path(__file__).with_name("large_stages.py")
        subprocess.run([sys.executable, str(script), str(folder), str(GATED)], check=True)
        return folder
    shutil.copytree(demo_bundle(), folder)
    path = folder / "bundle.json"
    document = json.loads(path.read_text())
    document["coverage"]["in_plane_mm"] = None
    document["gate"] = {"threshold": 0.0, "max_slices": GATED}
    path.write_text(json.dumps(document))
    return folder


def figures(row: SeriesRow, quiet_s: float) -> dict[str, float]:
    """The figures of one answer, ms; see above. Steps are those of its ``result.json``, ``rest`` is between them."""
    assert row.folder is not None
    assert row.latency_ms is not None
    assert row.outside_engine_ms is not None
    steps = Timing.model_validate(json.loads((row.folder / "result.json").read_text())["timing_ms"])
    after_quiet = row.latency_ms - quiet_s * 1000
    engine = steps.classify + steps.segment
    return {
        "latency": row.latency_ms,
        "after_quiet": after_quiet,
        "engine": engine,
        "needed": engine + steps.write,
        "outside_engine": row.outside_engine_ms,
        "over_needed": after_quiet / (engine + steps.write),
        **{name: float(value) for name, value in steps.model_dump().items() if name != "total"},
        "rest": after_quiet - steps.total,
    }


@contextlib.contextmanager
def running(root: Path, case: Case, bundle: Path, images: int, threads: int) -> Iterator[Node]:
    """A node for a case."""
    root.mkdir()
    rule = {"complete_when": "count", "count": images} if case.complete == "count" else {"quiet_s": QUIET_S}
    archive = Archive(root / "archive").start()
    node = Node(root, archive, series=rule, threads=threads, bundle=str(bundle))
    try:
        node.start()
        yield node
        node.stop()
    finally:
        archive.stop()
        with contextlib.suppress(AssertionError, ProcessLookupError):
            node.kill()


def answer(node: Node, port: int, folder: Path, series_uid: str) -> SeriesRow:
    """Send a series with storescu and wait for its answer."""
    command = [tool("storescu"), "-R", "-aec", "ONFH", "+sd", "127.0.0.1", str(port), str(folder)]
    subprocess.run(command, check=True, timeout=600, stdout=subprocess.DEVNULL)
    with contextlib.closing(node.view()) as journal:

        def answered() -> SeriesRow | None:
            row = journal.series(series_uid)
            return row if row is not None and row.state is SeriesState.ANSWERED else None

        row = until("an answer", answered, 600)
    assert isinstance(row, SeriesRow)
    if row.outcome != "succeeded":
        raise SystemExit(f"a series was not analysed: {row.outcome}")
    return row


def measure(root: Path, case: Case, bundle: Path, images: list[Dataset], series: int, threads: int) -> dict[str, Any]:
    """Send some series, the first of which is not counted; p50, p90, p99 (None of too few series) and max of each."""
    quiet_s = QUIET_S if case.complete == "association" else 0.0
    nbytes = sum(len(image.PixelData) for image in images)
    found: list[dict[str, float]] = []
    with running(root, case, bundle, len(images), threads) as node:
        link = Link(node.port, nbytes / len(images) * IMAGES_IN_A_SECOND)
        port = link.port if case.pace == "scanner" else node.port
        for number in range(1, series + 2):
            folder = root / f"series{number}"
            row = answer(node, port, folder, write_copy(images, folder, number))
            found.append(figures(row, quiet_s))
            shutil.rmtree(folder)
        link.close()
    values = {name: [one[name] for one in found[1:]] for name in found[0]}
    return {name: percentiles(each, (50, 90, 99)) | {"max": max(each)} for name, each in values.items()}


def main() -> int:
    """Measure and print; write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--series", type=int, default=20, help="counted in each case (default: %(default)s)")
    parser.add_argument("--slices", type=int, default=60, help="of a coronal series (default: %(default)s)")
    parser.add_argument("--matrix", type=int, default=512, help="columns of an image (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=0, help="of the node (default: all cores)")
    parser.add_argument("--large", action="store_true", help="only the stages people deploy (half a minute a series)")
    parser.add_argument("--only", nargs="+", default=[], metavar="WORD", help="cases with these words, such as: whole")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    cases = [case for case in (LARGE if options.large else CASES) if set(options.only) <= set(str(case).split())]
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        images = {
            plane: rendered(root, plane, options.slices * (AXIAL_TO_CORONAL if plane == "axial" else 1), options.matrix)
            for plane in {case.plane for case in cases}
        }
        for number, case in enumerate(cases):
            bundle = bundle_of(case.stages, root)
            found = measure(root / str(number), case, bundle, images[case.plane], options.series, options.threads)
            results[str(case)] = found
            print(case)
            for what, each in found.items():
                print(
                    f"  {what:14}"
                    + "".join(f"  {key} {value:9.2f}" for key, value in each.items() if value is not None)
                )
    if options.json:
        words = (" --large" if options.large else "") + (f" --only {' '.join(options.only)}" if options.only else "")
        command = f"python benchmarks/listen_latency.py --series {options.series} --slices {options.slices}{words}"
        settings = {name: getattr(options, name) for name in ("series", "slices", "matrix", "threads")}
        settings |= {"quiet_s": QUIET_S, "images_in_a_second": IMAGES_IN_A_SECOND, "gated_whole": GATED,
                     "unit": "ms"}  # fmt: skip
        document = record(
            "listen-latency", command, settings=settings, results=results, does_not_measure=DOES_NOT_MEASURE
        )
        options.json.write_text(json.dumps(document, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
