"""TLS of the receiving side, with openssl's certificates and dcmtk as the peer."""

from __future__ import annotations

import shutil
import ssl
import subprocess
import time

import pytest
from receiving import ReceivingNode
from scanner import RawPeer, echo, free_port

from onfh_runtime.errors import UsageError
from onfh_runtime.listen import association, receive, server
from onfh_runtime.listen.config import Tls
from onfh_runtime.listen.tls import client_context, server_context


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """Folder with ca.pem, which signed node.pem and scanner.pem, and other-ca.pem, which signed stranger.pem."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("tls")

    def run(*arguments: str) -> None:
        subprocess.run([openssl, *arguments], cwd=folder, capture_output=True, check=True)

    for ca, names in (("ca", ("node", "scanner")), ("other-ca", ("stranger",))):
        key = ["-newkey", "rsa:2048", "-nodes"]
        run("req", "-x509", *key, "-keyout", f"{ca}.key", "-out", f"{ca}.pem", "-days", "2", "-subj", f"/CN={ca}")
        for name in names:
            run("req", *key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
            (folder / "names").write_text("subjectAltName=IP:127.0.0.1")
            signed = ["-CA", f"{ca}.pem", "-CAkey", f"{ca}.key", "-CAcreateserial", "-days", "2", "-extfile", "names"]
            run("x509", "-req", "-in", f"{name}.csr", *signed, "-out", f"{name}.pem")
    run("rsa", "-aes256", "-passout", "pass:secret", "-in", "node.key", "-out", "locked.key")
    return folder


@pytest.fixture
def tls(certificates):
    return {name: str(certificates / file) for name, file in (("certificate", "node.pem"), ("key", "node.key"))} | {
        "ca": str(certificates / "ca.pem")
    }


def called(node, certificates, name, ca="ca"):
    files = (str(certificates / f"{name}.key"), str(certificates / f"{name}.pem"))
    return echo(node.port, "+tls", *files, "+cf", str(certificates / f"{ca}.pem"))


def test_only_a_peer_with_a_trusted_certificate_gets_in(tmp_path, certificates, tls, caplog):
    with ReceivingNode(tmp_path / "state", node={"port": free_port(), "tls": tls}) as node:
        done = called(node, certificates, "scanner")
        assert done.returncode == 0, done.stderr
        assert called(node, certificates, "stranger").returncode != 0
        assert echo(node.port, "+tla", "-ic").returncode != 0
        assert echo(node.port).returncode != 0
        assert called(node, certificates, "scanner", ca="other-ca").returncode != 0  # it does not trust the node
        assert called(node, certificates, "scanner").returncode == 0
    assert caplog.text.count("A TLS connection from 127.0.0.1 failed") == 4
    assert "CERTIFICATE_VERIFY_FAILED" in caplog.text


def test_a_client_certificate_need_not_be_asked_for(tmp_path, certificates, tls):
    with ReceivingNode(tmp_path / "state", node={"port": free_port(), "tls": tls | {"require_client": False}}) as node:
        assert echo(node.port, "+tla", "+cf", tls["ca"]).returncode == 0
        assert echo(node.port).returncode != 0


def test_a_peer_that_stalls_in_the_handshake_holds_nobody_up(tmp_path, certificates, tls, monkeypatch):
    for module in (association, receive, server):
        monkeypatch.setattr(module, "REQUEST_S", 1.0)
    with (
        ReceivingNode(tmp_path / "state", node={"port": free_port(), "tls": tls}) as node,
        RawPeer(node.port) as silent,
        RawPeer(node.port) as half,
    ):
        half.socket.sendall(b"\x16\x03\x01\x02\x00")
        assert called(node, certificates, "scanner").returncode == 0
        assert silent.hung_up()
        assert half.hung_up()


def test_stopping_ends_a_handshake(tmp_path, certificates, tls):
    with (
        ReceivingNode(tmp_path / "state", node={"port": free_port(), "tls": tls}) as node,
        RawPeer(node.port) as silent,
    ):
        time.sleep(0.3)
        start = time.monotonic()
        node.receiver.stop()
        assert silent.hung_up()
        assert time.monotonic() - start < 3


def test_old_versions_are_not_spoken(certificates, tls):
    files = Tls.model_validate(tls)
    for context in (server_context(files), client_context(files)):
        assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert server_context(files).verify_mode == ssl.CERT_REQUIRED
    assert client_context(files).check_hostname
    assert client_context(files).verify_mode == ssl.CERT_REQUIRED


def test_the_two_sides_fit(certificates, tls):
    inner, outer = ssl.MemoryBIO(), ssl.MemoryBIO()
    files = Tls.model_validate(tls)
    node = server_context(files).wrap_bio(inner, outer, server_side=True)
    peer = client_context(files).wrap_bio(outer, inner, server_hostname="127.0.0.1")
    done = set()
    for _ in range(6):
        for side in (peer, node):
            try:
                side.do_handshake()
                done.add(side)
            except ssl.SSLWantReadError:
                pass
    assert done == {node, peer}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"certificate": "absent.pem"}, "absent.pem"),
        ({"key": "absent.key"}, "cannot be read"),
        ({"key": "scanner.key"}, "KEY_VALUES_MISMATCH"),
        ({"key": "locked.key"}, "cannot be used"),
        ({"certificate": "node.key"}, "cannot be used"),
        ({"ca": "node.key"}, "cannot be used"),
        ({"ca": None}, "require_client"),
    ],
)
def test_files_that_do_not_do_are_named(certificates, tls, change, words):
    changed = {name: value and str(certificates / value) for name, value in change.items()}
    with pytest.raises(UsageError) as caught:
        server_context(Tls.model_validate(tls | changed))
    assert caught.value.code == "tls_unusable"
    assert words in caught.value.text
