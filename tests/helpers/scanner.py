"""What sends to a node in tests: dcmtk's tools, and a peer of bytes that may break any rule."""

from __future__ import annotations

import os
import shutil
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset

CT = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
VERIFICATION = "1.2.840.10008.1.1"


def dcmtk(tool: str) -> str:
    """Path of a tool of dcmtk; pynetdicom installs programs of the same names beside Python."""
    ours = Path(sys.executable).parent
    places = [place for place in os.environ.get("PATH", os.defpath).split(os.pathsep) if Path(place) != ours]
    found = shutil.which(tool, path=os.pathsep.join(places))
    if found is None:
        pytest.skip(f"{tool} is not installed: apt install dcmtk")
    return found


def send(port: int, *paths: Path, options: tuple[str, ...] = (), timeout_s: float = 60) -> subprocess.CompletedProcess:
    """Send files or folders with storescu, verbosely."""
    return subprocess.run(
        [dcmtk("storescu"), "-v", "+sd", "-aec", "ONFH", *options, "127.0.0.1", str(port), *map(str, paths)],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def echo(port: int, *options: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [dcmtk("echoscu"), "-v", "-to", "10", "-aec", "ONFH", *options, "127.0.0.1", str(port)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def item(kind: int, content: bytes) -> bytes:
    return struct.pack(">BBH", kind, 0, len(content)) + content


def pdu(kind: int, content: bytes) -> bytes:
    return struct.pack(">BBI", kind, 0, len(content)) + content


def pdv(context: int, control: int, data: bytes) -> bytes:
    return struct.pack(">IBB", len(data) + 2, context, control) + data


def element(group: int, number: int, value: bytes) -> bytes:
    """In implicit VR, little endian."""
    return struct.pack("<HHI", group, number, len(value)) + value


def even(text: str) -> bytes:
    return text.encode("latin-1") + b"\0" * (len(text) % 2)


def request(contexts, called="ONFH", calling="SCANNER", max_pdu=16384) -> bytes:
    """A-ASSOCIATE-RQ for (SOP class, transfer syntaxes), with the context IDs 1, 3, 5, ..."""
    items = item(0x10, b"1.2.840.10008.3.1.1.1")
    for number, (sop_class, syntaxes) in enumerate(contexts):
        inner = item(0x30, sop_class.encode()) + b"".join(item(0x40, syntax.encode()) for syntax in syntaxes)
        items += item(0x20, bytes([2 * number + 1, 0, 0, 0]) + inner)
    items += item(0x50, item(0x51, struct.pack(">I", max_pdu)) + item(0x52, b"1.2.826.0.1.3680043.10.999"))
    head = (
        struct.pack(">HH", 1, 0) + called.encode("latin-1").ljust(16) + calling.encode("latin-1").ljust(16) + bytes(32)
    )
    return pdu(1, head + items)


def store_command(sop_uid: str, sop_class: str = CT, message: int = 1, field: int = 1, data_set: int = 1) -> bytes:
    body = element(0, 2, even(sop_class)) + element(0, 0x100, struct.pack("<H", field))
    body += element(0, 0x110, struct.pack("<H", message)) + element(0, 0x700, b"\0\0")
    body += element(0, 0x800, struct.pack("<H", data_set)) + element(0, 0x1000, even(sop_uid))
    return element(0, 0, struct.pack("<I", len(body))) + body


class RawPeer:
    """A connection that says what it is told to."""

    def __init__(self, port: int, source: str = "127.0.0.1") -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=20, source_address=(source, 0))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def associate(self, contexts=((CT, (EXPLICIT,)), (VERIFICATION, (EXPLICIT,))), **names) -> tuple[int, bytes]:
        """Type and content of the answer: 2 is accepted, 3 rejected."""
        self.socket.sendall(request(contexts, **names))
        return self.receive()

    def receive(self) -> tuple[int, bytes]:
        """The next PDU; (0, b"") when the node hung up."""
        head = self._exactly(6)
        if len(head) < 6:
            return 0, b""
        kind, _, length = struct.unpack(">BBI", head)
        return kind, self._exactly(length)

    def store(self, data: bytes, sop_uid: str, *, context: int = 1, piece: int = 16000, **command) -> tuple[int, str]:
        """Send an object; status and comment of the answer."""
        self.socket.sendall(pdu(4, pdv(context, 3, store_command(sop_uid, **command))))
        pieces = [data[at : at + piece] for at in range(0, len(data), piece)]
        for number, part in enumerate(pieces):
            self.socket.sendall(pdu(4, pdv(context, 2 if number == len(pieces) - 1 else 0, part)))
        return self.status()

    def status(self) -> tuple[int, str]:
        kind, content = self.receive()
        assert kind == 4, f"PDU of type {kind} instead of an answer"
        answer = read_dataset(DicomBytesIO(content[6:]), True, True)
        assert answer.CommandField in (0x8001, 0x8030)
        assert answer.CommandGroupLength == len(content) - 6 - 12
        return answer.Status, answer.get("ErrorComment", "")

    def release(self) -> int:
        self.socket.sendall(pdu(5, bytes(4)))
        return self.receive()[0]

    def hung_up(self) -> bool:
        """Whether the node ends the connection, with or without an abort."""
        while True:
            try:
                kind, _ = self.receive()
            except ConnectionError:
                return True
            if kind == 0:
                return True
            assert kind == 7, f"PDU of type {kind} instead of the end"

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            more = self.socket.recv(count - len(data))
            if not more:
                break
            data += more
        return data
