"""Destinations for results: dcmtk's storescp, and ones that fail in ways of their own."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.events import Event
from scanner import dcmtk

SR = "1.2.840.10008.5.1.4.1.1.88.34"
SEG = "1.2.840.10008.5.1.4.1.1.66.4"
SC = "1.2.840.10008.5.1.4.1.1.7"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def write_object(path: Path, sop_uid: str, sop_class: str = SR, nbytes: int = 1000) -> Path:
    """A DICOM file with enough in it to be stored."""
    data = Dataset()
    data.SOPClassUID, data.SOPInstanceUID = sop_class, sop_uid
    data.StudyInstanceUID, data.SeriesInstanceUID = "1.2.3", "1.2.3.4"
    data.PatientName, data.PatientID = "Doe^Jane", "4711"
    data.add_new(0x00420011, "OB", b"\1" * nbytes)
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)
    return path


class StoreScp:
    """dcmtk's storescp on loopback, while the ``with`` block runs."""

    def __init__(self, folder: Path, *options: object, port: int | None = None) -> None:
        self.folder, self.port = folder, port or free_port()
        self._options = options
        self._tool = dcmtk("storescp")

    def __enter__(self) -> StoreScp:
        self.folder.mkdir(exist_ok=True)
        self._process = subprocess.Popen(
            [self._tool, *map(str, self._options), "-od", str(self.folder), str(self.port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        until = time.monotonic() + 10
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return self
            assert self._process.poll() is None, "storescp ended"
            assert time.monotonic() < until, "storescp does not listen"
            time.sleep(0.02)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.wait(10)

    def uids(self) -> set[str]:
        """SOP Instance UIDs of what it has; storescp names its files by them."""
        return {path.name.partition(".")[2] for path in self.folder.iterdir() if path.is_file()}


class OddScp:
    """A pynetdicom destination that answers each object as it is told, while the ``with`` block runs."""

    def __init__(self, answer: Callable[[Event, str], int], sop_classes: Sequence[str] = (SR, SEG, SC)) -> None:
        """``answer`` is given the event and the SOP Instance UID, and says the status."""
        self.got: list[str] = []
        self.associations = 0
        self.port = free_port()
        self._answer = answer
        self.ae = AE(ae_title="PACS")
        for sop_class in sop_classes:
            self.ae.add_supported_context(sop_class)

    def __enter__(self) -> OddScp:
        handlers = [(evt.EVT_C_STORE, self._store), (evt.EVT_ACCEPTED, self._count)]
        self._server = self.ae.start_server(("127.0.0.1", self.port), block=False, evt_handlers=handlers)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()

    def _count(self, event: Event) -> None:
        self.associations += 1

    def _store(self, event: Event) -> int:
        uid = str(event.request.AffectedSOPInstanceUID)
        self.got.append(uid)
        return self._answer(event, uid)
