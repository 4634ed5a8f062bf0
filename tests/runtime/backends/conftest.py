"""A real Triton server on this machine, and TLS in front of it; TensorRT-RTX, which needs no GPU to build."""

from __future__ import annotations

import json
import os
import shutil
import socket
import ssl
import subprocess
import threading
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import pytest

from onfh_export.triton_repository import write_triton_repository  # noqa: TID251 - the repository is the exporter's
from onfh_runtime.bundle import load_bundle
from onfh_runtime.cli.infer import demo_bundle
from onfh_runtime.engines import flavour
from onfh_runtime.errors import MissingExtraError

ROOT = Path(__file__).resolve().parents[3]
SCHEMES = ("http", "grpc")
ASK = """
import json, onnxruntime, sysconfig
of = [sysconfig.get_path("purelib"), sysconfig.get_config_var("LIBDIR"), sysconfig.get_python_version()]
print(json.dumps([*of, onnxruntime.__version__]))
"""


def absent(what):
    """Skip, or fail where no test may skip for want of a tool."""
    (pytest.fail if os.environ.get("ONFH_REQUIRE_TOOLS") else pytest.skip)(what)


@dataclass
class Installed:
    """A Python with nvidia-pytriton and onnxruntime, and what the server needs of it."""

    python: Path
    packages: Path
    libraries: str
    version: str
    onnxruntime: str


@pytest.fixture(scope="session")
def installed():
    python = Path(os.environ.get("ONFH_TRITON_PYTHON", ROOT / ".venv-triton" / "bin" / "python"))
    if not python.exists():
        absent(f"there is no Python with nvidia-pytriton at {python} (ONFH_TRITON_PYTHON)")
    said = subprocess.run([python, "-c", ASK], capture_output=True, text=True, check=True).stdout
    packages, *rest = json.loads(said)
    return Installed(python, Path(packages), *rest)


@pytest.fixture(scope="session")
def rtx():
    """The TensorRT-RTX flavour."""
    try:
        return flavour("tensorrt-rtx")
    except MissingExtraError as error:
        return absent(str(error))


class Server:
    """A tritonserver of our own on free ports of this machine."""

    def __init__(self, installed, repository, scratch, *options):
        shipped = installed.packages / "pytriton" / "tritonserver"
        backend = scratch / "backends" / "python"
        backend.mkdir(parents=True)
        for file in (shipped / "backends" / "python").iterdir():
            (backend / file.name).symlink_to(file)
        stub = "triton_python_backend_stub"
        shutil.copy(shipped / "python_backend_stubs" / installed.version / stub, backend)
        ports = [free_port(), free_port()]
        self.urls = {scheme: f"{scheme}://127.0.0.1:{port}" for scheme, port in zip(SCHEMES, ports, strict=True)}
        self.log = scratch / "server.log"
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    shipped / "bin" / "tritonserver", f"--model-repository={repository}",
                    f"--backend-directory={backend.parent}", f"--http-port={ports[0]}", f"--grpc-port={ports[1]}",
                    "--http-address=127.0.0.1", "--grpc-address=127.0.0.1", "--allow-metrics=false",
                    "--exit-timeout-secs=1", *options,
                ],
                stdout=log, stderr=subprocess.STDOUT,
                env=os.environ | {
                    "LD_LIBRARY_PATH": f"{installed.libraries}:{installed.packages / 'nvidia_pytriton.libs'}",
                    "PATH": f"{installed.python.parent}:{os.environ['PATH']}",
                },
            )  # fmt: skip

    def wait_until_ready(self):
        for _ in range(300):
            try:
                urllib.request.urlopen(f"{self.urls['http']}/v2/health/ready", timeout=1).close()
                return
            except OSError:
                assert self._process.poll() is None, self.log.read_text()
                time.sleep(0.1)
        raise AssertionError(self.log.read_text())

    def stop(self):
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def serve(installed, tmp_path_factory):
    """Writes a bundle's repository in the python variant and serves it; returns the server and the repository."""
    servers = []

    def served(bundle, *options, **written):
        scratch = tmp_path_factory.mktemp("triton")
        write_triton_repository(bundle, scratch / "repository", platform="python", **written)
        servers.append(Server(installed, scratch / "repository", scratch, *options))
        servers[-1].wait_until_ready()
        return servers[-1], scratch / "repository"

    yield served
    for server in servers:
        server.stop()


@pytest.fixture(scope="module")
def demo():
    return load_bundle(demo_bundle())


@pytest.fixture(scope="module")
def urls(serve, demo):
    """Scheme to address of a server that holds the demo bundle."""
    return serve(demo)[0].urls


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate for 127.0.0.1 that only itself vouches for, and its key."""
    if shutil.which("openssl") is None:
        absent("there is no openssl")
    folder = tmp_path_factory.mktemp("tls")
    command = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1"
    )
    subprocess.run(
        [*command.split(), "-keyout", "key.pem", "-out", "cert.pem"], cwd=folder, check=True, capture_output=True
    )
    return folder / "cert.pem", folder / "key.pem"


@pytest.fixture(scope="module")
def secure_port(urls, certificate):
    """TLS in front of the demo server's HTTP port, as a proxy would give it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    context.set_alpn_protocols(["h2", "http/1.1"])
    listening = socket.create_server(("127.0.0.1", 0))

    def copy(source, target):
        try:
            while block := source.recv(1 << 16):
                target.sendall(block)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def relay(client):
        try:
            outside = context.wrap_socket(client, server_side=True)
        except OSError:
            client.close()
            return
        host, port = urls["http"].split("//")[1].split(":")
        with outside, socket.create_connection((host, int(port))) as inside:
            back = threading.Thread(target=copy, args=(inside, outside))
            back.start()
            copy(outside, inside)
            back.join()

    def accept():
        while True:
            try:
                client, _ = listening.accept()
            except OSError:
                return
            threading.Thread(target=relay, args=(client,)).start()

    thread = threading.Thread(target=accept)
    thread.start()
    yield listening.getsockname()[1]
    listening.shutdown(socket.SHUT_RDWR)
    listening.close()
    thread.join()
