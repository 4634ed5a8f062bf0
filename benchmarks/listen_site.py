"""A site around ``onfh listen``: phantom series, dcmtk's storescu as scanner, storescp as archive, and a bad network.

Everything is a process or a socket of its own on loopback. What a sender was told of each object is kept, because that
is what the node is held to.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydicom import Dataset, dcmread

from onfh_runtime.listen.journal_view import JournalView
from onfh_runtime.listen.records import SeriesState, StorageError
from onfh_runtime.phantom import coronal_grid, random_spec, render, write_series

ROOT = "1.2.826.0.1.3680043.10.999"
_TOLD = re.compile(r"Sending file: (.+)|Received Store Response \((.+)\)")


def tool(name: str) -> str:
    """A program of dcmtk; pynetdicom installs some of the same names beside Python."""
    ours = Path(sys.executable).parent
    places = [place for place in os.environ["PATH"].split(os.pathsep) if Path(place) != ours]
    found = shutil.which(name, path=os.pathsep.join(places))
    if found is None:
        raise SystemExit(f"{name} is not installed: apt install dcmtk")
    return found


def free_port() -> int:
    """A port of loopback that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(what: str, true: Callable[[], Any], timeout_s: float = 120.0, *, every_s: float = 0.02) -> Any:
    """Wait for something, and give it; raises TimeoutError."""
    end = time.monotonic() + timeout_s
    while not (found := true()):
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {timeout_s:g} s")
        time.sleep(every_s)
    return found


class Scanner:
    """Makes series of one phantom, each of a patient of its own, and knows what was acknowledged of each."""

    def __init__(self, folder: Path, *, spacing_mm: float = 3.0, pixel_mm: float = 4.0) -> None:
        spec = random_spec(7, scanner="site_a", lesions="right", implant="none")
        grid = coronal_grid(spec, spacing_mm, pixel_mm)
        paths = write_series(render(spec, grid), folder / "rendered")
        self._images = [dcmread(path) for path in paths]
        self.folder = folder
        self.statuses: Counter[str] = Counter()
        self._lock = threading.Lock()

    def series(self, number: int, images: int | None = None) -> Series:
        """Write one series, or its first images."""
        folder = self.folder / f"series{number}"
        folder.mkdir()
        uid = f"{ROOT}.{number + 1}.1"
        paths = []
        for k, image in enumerate(self._images[:images]):
            image.StudyInstanceUID, image.SeriesInstanceUID = f"{ROOT}.{number + 1}", uid
            image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = f"{uid}.{k + 1}"
            image.PatientID, image.PatientName = f"SOAK-{number}", f"SOAK^{number}"
            paths.append(folder / f"{k:04d}.dcm")
            image.save_as(paths[-1])
        return Series(uid, str(image.StudyInstanceUID), paths)

    def send(self, port: int, paths: Sequence[Path], series: Series, *, timeout_s: float = 60.0) -> bool:
        """Send with storescu through one association; whether all of the series is acknowledged by now."""
        command = [tool("storescu"), "-v", "-to", "20", "-aec", "ONFH", "127.0.0.1", str(port), *map(str, paths)]
        with subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=os.environ | {"TCP_NODELAY": "1"}
        ) as process:
            try:
                said = process.communicate(timeout=timeout_s)[1]
            except subprocess.TimeoutExpired:
                process.kill()
                said = process.communicate()[1]
        path = None
        for sent, status in _TOLD.findall(said):
            if sent:
                path = Path(sent)
            elif path is not None:
                with self._lock:
                    self.statuses[status] += 1
                if status == "Success":
                    series.acknowledged.add(path)
        return series.done


@dataclass
class Series:
    """A series and the files of it that the node said it has."""

    uid: str
    study_uid: str
    paths: list[Path]
    acknowledged: set[Path] = field(default_factory=set)

    @property
    def done(self) -> bool:
        """Whether the node has all of it."""
        return len(self.acknowledged) == len(self.paths)

    @property
    def rest(self) -> list[Path]:
        """What is not acknowledged."""
        return [path for path in self.paths if path not in self.acknowledged]


class Archive:
    """dcmtk's storescp. Every object is kept under a name of its own, so that one that comes twice is seen."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        folder.mkdir()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Archive:
        """Listen."""
        command = [tool("storescp"), "+uf", "-pdu", "131072", "-od", str(self.folder), str(self.port)]
        self._process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ | {"TCP_NODELAY": "1"}
        )
        until("storescp", lambda: _listens(self.port))
        return self

    def stop(self) -> None:
        """Be down."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def objects(self) -> list[Dataset]:
        """All that was ever received, in no order."""
        return [dcmread(path) for path in self.folder.iterdir()]


class Node:
    """``onfh listen`` in a process group of its own, on one folder, however often it is killed and started."""

    def __init__(self, root: Path, archive: Archive, *, state_dir: Path | None = None, **config: Any) -> None:
        self.state_dir = state_dir or root / "state"
        self.port, self.http_port = free_port(), free_port()
        self.starts = 0
        self._log = root / "node.log"
        self._file = root / "listen.yaml"
        node = {"port": self.port} | config.pop("node", {})
        retry = {"first_s": 0.2, "most_s": 1.0}
        pacs = {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": archive.port, "retry": retry}
        self.config = {
            "state_dir": str(self.state_dir),
            "threads": 1,
            "node": node,
            "http": {"port": self.http_port},
            "series": {"quiet_s": 0.4},
            # A kill counts as a try, and here one series may see many.
            "tries": {"analysis": 50, "backoff_s": [0.5]},
            "routes": [{"name": "default", "destinations": ["pacs"]}],
            "destinations": [pacs],
            "disk": {"refuse_below_free_bytes": 0},
            **config,
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *, wait: bool = True) -> None:
        """Start, and wait until it answers."""
        self._file.write_text(json.dumps(self.config))  # which is YAML too
        command = [sys.executable, "-m", "onfh_runtime.cli.main", "listen", "--config", str(self._file)]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        self.starts += 1
        if wait:
            until("the node", lambda: self._is_up())

    def kill(self) -> None:
        """``kill -9`` of the whole process group."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def stop(self) -> None:
        """End in order; raises RuntimeError when it does not."""
        assert self._process is not None
        self._process.terminate()
        if self._process.wait(60) != 0:
            raise RuntimeError(f"the node ended with {self._process.returncode}: {self.log()[-2000:]}")

    def view(self) -> JournalView:
        """The journal, to be closed."""
        return JournalView(self.state_dir / "journal.sqlite")

    def counts(self) -> dict[str, int]:
        """See JournalView.counts; empty while there is none."""
        try:
            with contextlib.closing(self.view()) as journal:
                return journal.counts()
        except StorageError:
            return {}

    def is_at(self, state: str, timeout_s: float) -> bool:
        """Wait until the journal counts something in a state; whether it did in time."""
        end = time.monotonic() + timeout_s
        with contextlib.closing(self.view()) as journal:
            while time.monotonic() < end:
                if journal.counts()[state]:
                    return True
                time.sleep(0.002)
        return False

    def rest(self, answered: int, timeout_s: float = 180.0) -> None:
        """Wait until so many series are answered, and nothing is left to do or to send."""

        def at_rest() -> bool:
            counts = self.counts()
            waits = ("receiving", "ready", "working", "deliveries_pending")
            return bool(counts) and not any(counts[name] for name in waits) and counts["answered"] >= answered

        try:
            until("answers and deliveries", at_rest, timeout_s, every_s=0.1)
        except TimeoutError as error:
            raise TimeoutError(f"{error}; the journal says {self.counts()}; {self.log()[-3000:]}") from None

    def state_of(self, series: Series) -> SeriesState | None:
        """Where a series stands."""
        with contextlib.closing(self.view()) as journal:
            row = journal.series(series.uid)
        return None if row is None else row.state

    def health(self) -> tuple[int, str]:
        """Status and body of ``/health``."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}/health", timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def resources(self) -> dict[str, int]:
        """Resident kB, threads and open files, as the system counts them."""
        assert self._process is not None
        place = Path(f"/proc/{self._process.pid}")
        status = dict(line.split(":", 1) for line in (place / "status").read_text().splitlines())
        return {
            "rss_kb": int(status["VmRSS"].split()[0]),
            "threads": int(status["Threads"]),
            "open_files": len(list((place / "fd").iterdir())),
        }

    def log(self) -> str:
        """All it ever said."""
        return self._log.read_text(errors="replace")

    def _is_up(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise RuntimeError(f"the node ended with {self._process.returncode}: {self.log()[-2000:]}")
        return _listens(self.port)


class BadNetwork:
    """Relays connections to a port until so many bytes went in, and then hangs up, or says nothing any more."""

    def __init__(self, port: int, after_bytes: int, *, stall: bool = False) -> None:
        self._to, self._left, self._stall = port, after_bytes, stall
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Hang up."""
        self._ended.set()
        self._listener.shutdown(socket.SHUT_RDWR)  # which ends the wait for a caller; closing does not
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError), contextlib.ExitStack() as opened:
            inside = opened.enter_context(self._listener.accept()[0])
            outside = opened.enter_context(socket.create_connection(("127.0.0.1", self._to)))
            for one in (inside, outside):
                one.settimeout(0.01)
            while not self._ended.is_set() and self._left > 0:
                if not (self._pump(inside, outside, counted=True) and self._pump(outside, inside)):
                    return
            while self._stall and not self._ended.wait(0.02):
                pass

    def _pump(self, source: socket.socket, target: socket.socket, *, counted: bool = False) -> bool:
        try:
            data = source.recv(min(self._left, 1 << 16) if counted else 1 << 16)
        except TimeoutError:
            return True
        if counted:
            self._left -= len(data)
        target.sendall(data)
        return bool(data)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
