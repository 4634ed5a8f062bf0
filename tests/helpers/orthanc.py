"""A real archive: Debian's Orthanc on loopback, with a folder and ports of its own."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.request import ProxyHandler, build_opener

import pytest
from scanner import free_port

_START_S = 60.0
_open = build_opener(ProxyHandler({})).open  # whatever proxy this machine has, this stays on the loopback


class Orthanc:
    """An archive that hears the loopback only, and one AE title. It may be down and come up again with what it has."""

    def __init__(self, folder: Path, sender: str) -> None:
        self.http, self.dicom = free_port(), free_port()
        modality = {"AET": sender, "Host": "127.0.0.1", "Port": 104, "AllowEcho": True, "AllowStore": True}
        others = dict.fromkeys(("Echo", "Find", "FindWorklist", "Get", "Move", "Store"), False)
        configuration = {
            "StorageDirectory": str(folder / "storage"),
            "IndexDirectory": str(folder / "storage"),
            "HttpPort": self.http,
            "DicomPort": self.dicom,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "DicomCheckModalityHost": True,
            "DicomModalities": {"sender": modality},
            **{f"DicomAlwaysAllow{what}": allowed for what, allowed in others.items()},
            "Plugins": [],
            "LuaScripts": [],
        }
        (folder / "orthanc.json").write_text(json.dumps(configuration))
        self.folder = folder
        self._log = folder / "log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> bool:
        """Whether it answers; False when it ended, as it does when another program took a port."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [shutil.which("Orthanc") or "", str(self.folder / "orthanc.json")],
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
            )
        for _ in range(int(_START_S / 0.05)):
            if self._process.poll() is not None:
                return False
            with suppress(OSError):
                self.get("system")
                return True
            time.sleep(0.05)
        return False

    def stop(self) -> None:
        """Be down."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def log(self) -> str:
        """All it ever said."""
        return self._log.read_text(errors="replace")

    def get(self, what: str) -> bytes:
        with _open(f"http://127.0.0.1:{self.http}/{what}", timeout=30) as answer:
            return bytes(answer.read())

    def json(self, what: str) -> Any:
        return json.loads(self.get(what))


@contextmanager
def running_orthanc(new_folder: Callable[[], Path], sender: str) -> Iterator[Orthanc]:
    """An archive that takes what ``sender`` stores; skips where there is none."""
    if shutil.which("Orthanc") is None:
        pytest.skip("Orthanc is not installed: apt install orthanc")
    for _ in range(3):
        archive = Orthanc(new_folder(), sender)
        if archive.start():
            break
        archive.stop()
    else:
        pytest.fail(f"Orthanc does not start: {archive.log()}")
    try:
        yield archive
    finally:
        archive.stop()
