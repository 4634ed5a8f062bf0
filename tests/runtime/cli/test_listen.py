from __future__ import annotations

import ctypes
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
from importlib.resources import files
from pathlib import Path

import pytest
from listen_room import Room, refusing

from onfh_runtime.cli.main import main


@pytest.fixture
def state_dir(tmp_path):
    return tmp_path / "state"


@pytest.fixture
def config(state_dir, bundle_folder, tmp_path):
    path = tmp_path / "listen.yaml"
    ports = []
    for _ in range(2):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            ports.append(free.getsockname()[1])
    path.write_text(
        f"state_dir: {state_dir}\nbundle: {bundle_folder}\nthreads: 1\nnode: {{port: {ports[0]}}}\n"
        f"http: {{port: {ports[1]}}}\ndisk: {{refuse_below_free_bytes: 0}}\n"
    )
    return path


def run(capsys, *arguments):
    code = main(["listen", *map(str, arguments)])
    return code, capsys.readouterr()


def test_a_configuration_in_order(config, capsys):
    code, said = run(capsys, "--config", config, "--check-config")
    assert code == 0
    assert "is in order. Bundle: tiny 1." in said.out
    assert "peers is empty" in said.out


def test_a_configuration_that_is_wrong_says_where(config, state_dir, capsys):
    config.write_text(config.read_text() + "routes:\n  - {name: a, destinations: [nowhere]}\n")
    code, said = run(capsys, "--config", config, "--check-config")
    assert code == 2
    assert "nowhere" in said.err
    assert not state_dir.exists()  # nothing was started


def test_a_bundle_that_is_damaged_is_found_before_the_start(config, bundle_folder, capsys):
    (bundle_folder / "segmenter" / "model.onnx").write_bytes(b"damaged")
    code, _ = run(capsys, "--config", config, "--check-config")
    assert code == 2


def test_status(config, state_dir, tiny_bundle, phantom_study, capsys):
    room = Room(state_dir, tiny_bundle)
    room.analyse = refusing(tiny_bundle, [])
    row = room.answer(sorted((phantom_study / "axial").glob("*.dcm"))[:4])
    room.close()
    code, said = run(capsys, "--config", config, "--status")
    assert code == 0
    assert "is not running." in said.out
    assert "1 answered" in said.out
    assert re.search(r"last image to result 5\.00 s, 5\.00 s, 5\.00 s", said.out)
    assert f"{row.series_uid}  4 images  not analysed in 5.00 s" in said.out
    assert "PHANTOM" not in said.out


def test_status_of_a_node_that_never_was(config, capsys):
    code, said = run(capsys, "--config", config, "--status")
    assert code == 2
    assert "storage_failed" in said.err


def wait_for(condition):
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)


def tell_another_thread(process, number):
    """As the system may do: a signal to a process is handled by any one of its threads."""
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "tgkill"):
        pytest.skip("this C library has no tgkill")
    other = next(
        int(path.name) for path in Path(f"/proc/{process.pid}/task").iterdir() if int(path.name) != process.pid
    )
    assert libc.tgkill(process.pid, other, number) == 0


@pytest.mark.parametrize("tell", [subprocess.Popen.send_signal, tell_another_thread])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_node_runs_until_it_is_told_to_stop(config, number, tell, capsys):
    command = [sys.executable, "-m", "onfh_runtime.cli.main", "listen", "--config", str(config)]
    places = [str(Path(str(files("onfh_runtime"))).parent), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(places)}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as node:
        try:
            lines = []
            for line in node.stderr:
                lines.append(json.loads(line))
                if lines[-1]["event"] == "listening":
                    break
            assert run(capsys, "--config", config, "--status")[1].out.splitlines()[0].endswith("is running.")
            tell(node, number)
            until = threading.Timer(30, node.kill)
            until.start()
            lines += [json.loads(line) for line in node.stderr]
            until.cancel()
            assert node.wait(30) == 0
        finally:
            node.kill()
    assert [line["event"] for line in lines] == ["recovered", "listening", "stopping", "stopped"]


def test_the_unit_for_systemd_leaves_little_open(tmp_path):
    tool = shutil.which("systemd-analyze")
    if tool is None:
        pytest.skip("systemd-analyze is not installed")
    unit = tmp_path / "onfh-edge.service"
    source = Path(str(files("onfh_runtime"))) / "data" / "onfh-edge.service"
    unit.write_text(source.read_text().replace("/usr/local/bin/onfh", sys.executable))
    checked = subprocess.run([tool, "verify", str(unit)], capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")
    said = subprocess.run(
        [tool, "security", "--offline=yes", "--threshold=25", str(unit)], capture_output=True, text=True, check=False
    )
    assert said.returncode == 0, said.stdout + said.stderr
