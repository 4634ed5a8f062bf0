"""How fast the node receives CT images, beside dcmtk's storescp: the same sender, the same data, in turns.

Writes axial series of a phantom (512 x 512, 0.5 MB an object) and sends them with dcmtk's storescu over loopback, first
one after the other through one association, then through eight at once, to

- ``node``: the receiver of ``onfh listen``. Every object is on the disk and in the journal before it is acknowledged.
- ``storescp``: dcmtk's, with the environment variable TCP_NODELAY=1 and its largest PDU. It flushes nothing.
- ``storescp as shipped``: the same with its defaults, which wait for delayed acknowledgements of TCP.
- ``pynetdicom``: a handler in a dozen lines that writes the file and flushes nothing.

The receivers take turns within every run and start afresh, so that each object is new to them; the median of the runs
is quoted with its spread, and each ratio is of two receivers within one run. Processor time is that of the receiver and
its children.

storescu proposes only what it needs (-R): pynetdicom takes 20 ms of processor time to judge the 128 contexts it would
propose otherwise, once for each association.

What bounds the node is printed beside it: two flushes of this disk for each object, one of its bytes and one of the
journal, one after the other. With several associations flushes run at once and commits are shared.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from onfh_runtime.measure.record import record

SERIES = 8
RENDERED = 12
"""Slices of the phantom that differ; a longer series repeats them under other UIDs."""
RECEIVERS = ("node", "storescp", "storescp as shipped", "pynetdicom")
DOES_NOT_MEASURE = (
    "A network: loopback has no latency and no loss.",
    "A slow disk, a disk that is busy with something else, TLS, analysis beside it.",
    "What storescp would take if it flushed what it keeps: it has no such option.",
)


def tool(name: str) -> str:
    """A program of dcmtk; pynetdicom installs some of the same names beside Python."""
    ours = Path(sys.executable).parent
    places = [place for place in os.environ["PATH"].split(os.pathsep) if Path(place) != ours]
    found = shutil.which(name, path=os.pathsep.join(places))
    if found is None:
        raise SystemExit(f"{name} is not installed: apt install dcmtk")
    return found


def write_objects(folder: Path, objects: int, matrix: int) -> list[Path]:
    """Write ``objects`` in as many folders as there are associations, one series each."""
    from pydicom import dcmread

    from onfh_runtime.phantom import axial_grid, random_spec, render, write_series

    spec = random_spec(7)
    phantom = render(spec, axial_grid(spec, RENDERED, matrix, matrix))
    images = [dcmread(path) for path in write_series(phantom, folder / "rendered")]
    shutil.rmtree(folder / "rendered")
    folders = [folder / f"series{number}" for number in range(SERIES)]
    for number in range(objects):
        image, into = images[number % RENDERED], folders[number % SERIES]
        into.mkdir(exist_ok=True)
        image.SeriesInstanceUID = f"1.2.826.0.1.3680043.10.999.{number % SERIES + 1}"
        image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = f"{image.SeriesInstanceUID}.{number + 1}"
        image.save_as(into / f"{number}.dcm")
    return folders


def serve_node(port: int, folder: Path) -> None:
    """Run the receiver until a signal comes."""
    from onfh_runtime.listen.config import ListenConfig
    from onfh_runtime.listen.journal import Journal
    from onfh_runtime.listen.receive import Receiver
    from onfh_runtime.listen.spool import Spool

    config = ListenConfig.model_validate({"state_dir": folder, "node": {"port": port}})
    spool = Spool(folder / "objects")
    journal = Journal(folder / "journal.sqlite", remove=spool.remove)
    nobody = dict.fromkeys(("on_object", "on_released", "on_refused"), lambda what: None)
    receiver = Receiver(config, spool, journal, **nobody)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    receiver.start()
    stop.wait()
    receiver.stop()
    journal.close()


def serve_pynetdicom(port: int, folder: Path) -> None:
    """What pynetdicom's documentation shows, without its log."""
    from pynetdicom import AE, _config, evt
    from pynetdicom.sop_class import CTImageStorage, Verification

    def handle_store(event: Any) -> int:
        path = folder / f"{event.request.AffectedSOPInstanceUID}.dcm"
        path.write_bytes(event.encoded_dataset())
        return 0

    _config.LOG_HANDLER_LEVEL = "none"
    ae = AE("ONFH")
    ae.maximum_pdu_size = 131072
    ae.add_supported_context(CTImageStorage)
    ae.add_supported_context(Verification)
    ae.start_server(("127.0.0.1", port), evt_handlers=[(evt.EVT_C_STORE, handle_store)])


class Running:
    """A receiver in a process of its own; use it in a ``with`` block."""

    def __init__(self, name: str, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        environment = dict(os.environ)
        if name.startswith("storescp"):
            fast = name == "storescp"
            command = [tool("storescp"), "--fork", *(["-pdu", "131072"] if fast else []), "-od", str(folder)]
            command.append(str(self.port))
            environment |= {"TCP_NODELAY": "1"} if fast else {}
        else:
            environment["PYTHONPATH"] = os.pathsep.join(sys.path)
            command = [sys.executable, __file__, "--child", name, "--port", str(self.port), "--folder", str(folder)]
        self.process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def __enter__(self) -> Running:
        for _ in range(200):
            if subprocess.run([tool("echoscu"), "-aec", "ONFH", "127.0.0.1", str(self.port)], check=False,
                              capture_output=True).returncode == 0:  # fmt: skip
                return self
            time.sleep(0.05)
        raise SystemExit("a receiver did not start")

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait()

    def cpu_s(self) -> float:
        """Processor seconds of the receiver and of its children that ended."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")

    def kept_bytes(self) -> int:
        """Bytes of the objects it keeps."""
        below = self.folder / "objects" if (self.folder / "objects").is_dir() else self.folder
        return sum(path.stat().st_size for path in below.iterdir() if path.suffix not in (".sqlite",))


def send(port: int, groups: list[list[Path]]) -> float:
    """Seconds until every group of folders is sent, each through an association of its own."""
    command = [tool("storescu"), "-R", "-aec", "ONFH", "+sd", "127.0.0.1", str(port)]
    start = time.perf_counter()
    senders = [subprocess.Popen([*command, *map(str, group)], stderr=subprocess.PIPE) for group in groups]
    for sender in senders:
        _, said = sender.communicate()
        if sender.returncode:
            raise SystemExit(f"storescu failed: {said.decode(errors='replace')}")
    return time.perf_counter() - start


def spread(values: list[float]) -> dict[str, float]:
    """Minimum, median and maximum."""
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


def measure(
    root: Path, folders: list[Path], associations: int, runs: int, receivers: tuple[str, ...]
) -> dict[str, Any]:
    """Send everything to every receiver, in turns."""
    groups = [folders[number::associations] for number in range(associations)]
    paths = [path for folder in folders for path in folder.iterdir()]
    sent_bytes = sum(path.stat().st_size for path in paths)
    seconds: dict[str, list[float]] = {name: [] for name in receivers}
    cpu: dict[str, list[float]] = {name: [] for name in receivers}
    for run in range(runs):
        for name in receivers[run % len(receivers) :] + receivers[: run % len(receivers)]:
            state = root / "state"
            with Running(name, state) as running:
                before = running.cpu_s()
                seconds[name].append(send(running.port, groups))
                time.sleep(0.2)  # children that served an association are counted when they ended
                cpu[name].append(running.cpu_s() - before)
                kept = running.kept_bytes()
            assert abs(kept / sent_bytes - 1) < 0.01, f"{name} keeps {kept} of {sent_bytes} bytes"
            shutil.rmtree(state)
    print(f"{associations} association(s), {len(paths)} objects, {sent_bytes / 1e6:.0f} MB")
    figures: dict[str, Any] = {"objects": len(paths), "bytes": sent_bytes, "receivers": {}}
    for name in receivers:
        ratios = [theirs / ours for ours, theirs in zip(seconds["node"], seconds[name], strict=True)]
        figures["receivers"][name] = {
            "seconds": spread(seconds[name]),
            "node_rate_over_this": spread(ratios),
            "cpu_ms_an_object": spread([1000 * value / len(paths) for value in cpu[name]]),
        }
        wall, ratio = figures["receivers"][name]["seconds"], figures["receivers"][name]["node_rate_over_this"]
        print(
            f"  {name:20} {len(paths) / wall['median']:7.1f} objects/s  {sent_bytes / 1e6 / wall['median']:6.1f} MB/s  "
            f"processor {figures['receivers'][name]['cpu_ms_an_object']['median']:5.2f} ms an object   "
            f"node's rate is {ratio['median']:5.2f} x ({ratio['min']:.2f} to {ratio['max']:.2f})"
        )
    return figures


def flush_ms(folder: Path, times: int = 30) -> dict[str, float]:
    """Milliseconds to write half a megabyte and flush it to this disk."""
    taken, data = [], os.urandom(1 << 19)
    for _ in range(times):
        start = time.perf_counter()
        with (folder / "probe").open("wb") as file:
            file.write(data)
            os.fsync(file.fileno())
        taken.append(1000 * (time.perf_counter() - start))
    (folder / "probe").unlink()
    return spread(taken)


def dcmtk_version() -> str:
    """What dcmtk says of itself."""
    said = subprocess.run([tool("storescp"), "--version"], capture_output=True, text=True, check=False).stdout
    return next(iter(said.splitlines()), "")


def main() -> int:
    """Measure and print everything; write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=7, help="counted runs (default: %(default)s)")
    parser.add_argument("--objects", type=int, default=400, help="sent in each (default: %(default)s)")
    parser.add_argument("--matrix", type=int, default=512, help="rows and columns (default: %(default)s)")
    parser.add_argument("--disk", type=Path, help="folder on the disk to measure (default: a temporary one)")
    parser.add_argument("--only", nargs="+", choices=RECEIVERS, help="these receivers, beside the node")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--child", choices=("node", "pynetdicom"), help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        (serve_node if options.child == "node" else serve_pynetdicom)(options.port, options.folder)
        return 0
    receivers = tuple(name for name in RECEIVERS if name == "node" or not options.only or name in options.only)
    figures: dict[str, Any] = {"load_before": os.getloadavg()}
    with tempfile.TemporaryDirectory(dir=options.disk) as name:
        root = Path(name)
        folders = write_objects(root, options.objects, options.matrix)
        figures["flush_ms"] = flush_ms(root)
        print(
            "half a megabyte written and flushed: {median:.2f} ms ({min:.2f} to {max:.2f})".format(
                **figures["flush_ms"]
            )
        )
        for associations in (1, SERIES):
            figures[f"associations_{associations}"] = measure(root, folders, associations, options.runs, receivers)
        figures["flush_ms_after"] = flush_ms(root)
    figures["load_after"] = os.getloadavg()
    if options.json:
        settings = {name: getattr(options, name) for name in ("runs", "objects", "matrix")}
        settings |= {"receivers": receivers, "pynetdicom": version("pynetdicom"), "dcmtk": dcmtk_version()}
        command = f"python benchmarks/receive.py --runs {options.runs} --objects {options.objects}"
        document = record(
            "listen-receive", command, settings=settings, results=figures, does_not_measure=DOES_NOT_MEASURE
        )
        options.json.write_text(json.dumps(document, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
