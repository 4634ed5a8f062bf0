"""Associations with a destination: TLS, and peers that stand still."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pacs import SEG, SR, OddScp, StoreScp, write_object
from pydicom import dcmread

from onfh_runtime.listen import store_scu
from onfh_runtime.listen.config import Destination, Tls
from onfh_runtime.listen.store_scu import StoreScu, UnreachableError

pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
"""pynetdicom leaves it to the garbage collector to close a socket that could not be connected."""


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ca, other (another authority), server and client, each as .pem and .key."""
    folder = tmp_path_factory.mktemp("certificates")

    def openssl(*words: object) -> None:
        subprocess.run(["openssl", *map(str, words)], cwd=folder, check=True, capture_output=True)

    new = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2")
    for name in ("ca", "other"):
        openssl("req", "-x509", *new, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.pem")
    for name in ("server", "client"):
        alternative = "subjectAltName=DNS:localhost,IP:127.0.0.1"
        signed = ("-CA", "ca.pem", "-CAkey", "ca.key", "-addext", alternative)
        openssl("req", "-x509", *new, *signed, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.pem")
    return folder


def to(port: int, tls: Tls | None = None, host: str = "127.0.0.1") -> Destination:
    return Destination(name="pacs", ae_title="PACS", host=host, port=port, tls=tls)


def tls_of(certificates: Path, ca: str) -> Tls:
    return Tls(certificate=certificates / "client.pem", key=certificates / "client.key", ca=certificates / f"{ca}.pem")


@pytest.fixture
def secure(tmp_path: Path, certificates: Path) -> Iterator[StoreScp]:
    """dcmtk's storescp that wants a certificate of the authority."""
    options = ("+tls", certificates / "server.key", certificates / "server.pem", "+cf", certificates / "ca.pem", "-rc")
    with StoreScp(tmp_path / "pacs", *options) as pacs:
        yield pacs


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_tls_with_a_certificate_of_both_sides(secure: StoreScp, certificates: Path, tmp_path: Path, host: str) -> None:
    scu = StoreScu(to(secure.port, tls_of(certificates, "ca"), host), "ONFH")
    path = write_object(tmp_path / "sr.dcm", "1.2.1")
    with scu.association({SR}):
        assert scu.store(dcmread(path), 1000) is None
    assert secure.uids() == {"1.2.1"}


def test_an_untrusted_destination_gets_nothing(secure: StoreScp, certificates: Path) -> None:
    scu = StoreScu(to(secure.port, tls_of(certificates, "other")), "ONFH")
    with pytest.raises(UnreachableError, match="certificate is not trusted"), scu.association({SR}):
        pass
    assert secure.uids() == set()


def test_a_certificate_for_another_host_is_not_trusted(secure: StoreScp, certificates: Path) -> None:
    scu = StoreScu(to(secure.port, tls_of(certificates, "ca"), "127.0.0.2"), "ONFH")
    with pytest.raises(UnreachableError), scu.association({SR}):
        pass


def test_no_clear_text_where_tls_is_asked_for(certificates: Path) -> None:
    with OddScp(lambda event, uid: 0) as pacs:
        scu = StoreScu(to(pacs.port, tls_of(certificates, "ca")), "ONFH")
        with pytest.raises(UnreachableError), scu.association({SR}):
            pass
        assert pacs.associations == 0


def test_nobody_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening
        scu = StoreScu(to(taken.getsockname()[1]), "ONFH")
        with pytest.raises(UnreachableError, match="cannot be reached"), scu.association({SR}):
            pass


def test_a_destination_that_takes_nothing_is_there_all_the_same(tmp_path: Path) -> None:
    data = dcmread(write_object(tmp_path / "sr.dcm", "1.2.1"))
    with OddScp(lambda event, uid: 0, sop_classes=(SEG,)) as pacs:
        scu = StoreScu(to(pacs.port), "ONFH")
        with scu.association({SR}):
            assert scu.store(data, 1000) == f"pacs takes no objects of SOP class {SR}."


def test_a_peer_that_accepts_a_connection_and_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_scu, "_ASSOCIATE_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        scu = StoreScu(to(silent.getsockname()[1]), "ONFH")
        started = time.monotonic()
        with pytest.raises(UnreachableError), scu.association({SR}):
            pass
        assert time.monotonic() - started < 5


class Clogged:
    """Stands before a destination and stops reading from the caller after a few bytes."""

    def __init__(self, port: int, after: int) -> None:
        self._port, self._after = port, after
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listening.getsockname()[1])
        self._over = threading.Event()
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        caller, _ = self._listening.accept()
        with caller, socket.create_connection(("127.0.0.1", self._port)) as behind:
            threading.Thread(target=self._back, args=(behind, caller), daemon=True).start()
            passed = 0
            while passed < self._after and (block := caller.recv(4096)):
                behind.sendall(block)
                passed += len(block)
            self._over.wait(20)
            for end in (caller, behind):  # closing alone would not end a read that another thread is in
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def _back(self, behind: socket.socket, caller: socket.socket) -> None:
        try:
            while block := behind.recv(4096):
                caller.sendall(block)
        except OSError:
            return

    def close(self) -> None:
        self._over.set()
        self._listening.close()


def test_a_peer_that_stops_reading_is_left(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(store_scu, "_ASSOCIATE_S", 0.5)
    monkeypatch.setattr(store_scu, "_ANSWER_S", 0.5)
    monkeypatch.setattr(store_scu, "_SLOWEST_BYTES_PER_S", 1 << 30)
    large = write_object(tmp_path / "seg.dcm", "1.2.1", SEG, nbytes=32 << 20)
    with OddScp(lambda event, uid: 0) as pacs:
        clogged = Clogged(pacs.port, after=100_000)
        scu = StoreScu(to(clogged.port), "ONFH")
        started = time.monotonic()
        with pytest.raises(UnreachableError), scu.association({SEG}):
            scu.store(dcmread(large), 32 << 20)
        assert time.monotonic() - started < 10
        assert pacs.got == []
        clogged.close()


def test_many_classes_fit_into_one_association() -> None:
    classes = {f"1.2.3.{i}" for i in range(200)}
    with (
        OddScp(lambda event, uid: 0, sop_classes=sorted(classes)[:10]) as pacs,
        StoreScu(to(pacs.port), "ONFH").association(classes),
    ):
        assert pacs.associations == 1


def test_a_host_that_nobody_knows_cannot_be_reached() -> None:
    """As when the name server is away; "a..b" is a name that cannot even be asked for."""
    for host in ("a..b", "no-such-host.invalid"):
        destination = to(1).model_copy(update={"host": host})
        scu = StoreScu(destination, "ONFH")
        with pytest.raises(UnreachableError, match="The host of pacs is not known"), scu.association({SR}):
            pass
