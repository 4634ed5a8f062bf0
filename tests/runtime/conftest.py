"""A bundle small enough to follow by hand, made of real ONNX files; phantoms; a browser."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onfh_runtime.bundle import SCHEMA, LoadedBundle, load_bundle, sha256_of

SIZE = (32, 48)


def _save(path, nodes, constants, inputs, outputs):
    graph = helper.make_graph(
        nodes,
        path.parent.name,
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *shape]) for name, shape in inputs],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *shape]) for name, shape in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)


def write_classifier(path: Path, gain: float = 40.0, level: float = 0.0, size: tuple[int, int] = SIZE) -> None:
    """Logit difference ``gain * (mean of the input - level)``."""
    nodes = [
        helper.make_node("ReduceMean", ["pixel_values"], ["mean"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Unsqueeze", ["mean", "axis"], ["column"]),
        helper.make_node("Gemm", ["column", "weight", "bias"], ["logits"]),
    ]
    constants = {
        "axis": np.array([1], np.int64),
        "weight": np.array([[0.0, gain]], np.float32),
        "bias": np.array([0.0, -gain * level], np.float32),
    }
    _save(path, nodes, constants, [("pixel_values", (1, *size))], [("logits", (2,))])


def write_segmenter(path: Path, gain: float = 80.0, level: float = 0.33, size: tuple[int, int] = SIZE) -> None:
    """Logit difference ``gain * (pixel - level)`` at every pixel."""
    nodes = [helper.make_node("Conv", ["pixel_values", "weight", "bias"], ["logits"])]
    constants = {
        "weight": np.array([0.0, gain], np.float32).reshape(2, 1, 1, 1),
        "bias": np.array([0.0, -gain * level], np.float32),
    }
    _save(path, nodes, constants, [("pixel_values", (1, *size))], [("logits", (2, *size))])


def bundle_document(root: Path, **changes: object) -> dict[str, object]:
    """The content of a valid bundle.json for the two models in ``root``."""
    stage = {
        "input_name": "pixel_values",
        "output_name": "logits",
        "max_batch": 4,
        "input": {
            "size": SIZE,
            "windows": [{"center": 500, "width": 2000}],
            "mean": [0.0],
            "std": [1.0],
            "min_pixel_spacing_mm": 1.5,
        },
    }
    document: dict[str, object] = {
        "schema": SCHEMA,
        "name": "tiny",
        "version": "1",
        "slice_spacing_mm": 3.0,
        "coverage": {"margin_mm": 12.0},
        "classifier": {"architecture": "mean", "models": {"fp32": "classifier/model.onnx"}, **stage},
        "segmenter": {"architecture": "threshold", "models": {"fp32": "segmenter/model.onnx"}, **stage},
        "gate": {"threshold": 0.4},
        "slice_threshold": 0.5,
        "patient_rule": {"k": 3, "threshold": 0.5},
        "minimum_volume_mm3": 50.0,
        "files": {str(path.relative_to(root).as_posix()): sha256_of(path) for path in sorted(root.rglob("*.onnx"))},
    }
    return document | changes


def write_bundle(root: Path, **changes: object) -> Path:
    """Write a whole tiny bundle and return its folder."""
    write_classifier(root / "classifier" / "model.onnx")
    write_segmenter(root / "segmenter" / "model.onnx")
    (root / "bundle.json").write_text(json.dumps(bundle_document(root, **changes)))
    return root


@pytest.fixture
def bundle_folder(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "bundle")


@pytest.fixture
def tiny_bundle(bundle_folder: Path) -> LoadedBundle:
    return load_bundle(bundle_folder)


@pytest.fixture(scope="session")
def write_tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., LoadedBundle]:
    """Makes the tiny bundle with fields of the top level replaced."""

    def written(**changes: object) -> LoadedBundle:
        return load_bundle(write_bundle(tmp_path_factory.mktemp("bundle") / "tiny", **changes))

    return written


@pytest.fixture(scope="session")
def phantom_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A patient with a lesion on the right, small enough for a test: axial, coronal, truth. Do not write to it."""
    from onfh_runtime.phantom import write_demo_study

    folder = tmp_path_factory.mktemp("phantom")
    write_demo_study(folder, slices=100, matrix=192)
    return folder


@pytest.fixture(scope="session")
def open_gate(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., LoadedBundle]:
    """Makes the demo bundle with the gate forced open and every patient positive: stage 2 sees every slice."""
    from onfh_runtime.cli.infer import demo_bundle

    def opened(**changes: object) -> LoadedBundle:
        folder = tmp_path_factory.mktemp("bundle") / "open"
        shutil.copytree(demo_bundle(), folder)
        path = folder / "bundle.json"
        document = json.loads(path.read_text()) | {"minimum_volume_mm3": 0.0} | changes
        document["gate"]["threshold"] = 0.0
        document["patient_rule"]["threshold"] = 0.0
        path.write_text(json.dumps(document))
        return load_bundle(folder)

    return opened


@pytest.fixture
def errors_of() -> Callable[[Path], list[str]]:
    """What dciodvfy (dicom3tools) calls an error in a file."""
    validator = shutil.which("dciodvfy")
    if validator is None:
        pytest.skip("dciodvfy is not installed: apt install dicom3tools")

    def check(path: Path) -> list[str]:
        done = subprocess.run([validator, str(path)], capture_output=True, text=True, check=False)
        assert path.stat().st_size > 1000
        lines = (done.stdout + done.stderr).splitlines()
        assert any(kind in line for line in lines for kind in ("SR", "Segmentation", "SCImage")), lines
        return [line for line in lines if line.startswith("Error")]

    return check


CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
KEYS = {"Home": "\ue011", "End": "\ue010", "Left": "\ue012", "Right": "\ue014", "Tab": "\ue004"}


class Browser:
    """One session of a headless Chromium, driven through chromedriver's W3C WebDriver protocol."""

    def __init__(self, base: str, profile: Path) -> None:
        options = {"binary": CHROMIUM, "args": [*FLAGS, f"--user-data-dir={profile}"]}
        wanted = {"browserName": "chrome", "goog:loggingPrefs": {"browser": "ALL"}, "goog:chromeOptions": options}
        self._base = base
        session = self.call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self._base = f"{base}/session/{session['sessionId']}"

    def call(self, method: str, path: str, body: object = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._base + path, data, {"Content-Type": "application/json"}, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["value"]

    def js(self, script: str) -> Any:
        return self.call("POST", "/execute/sync", {"script": script, "args": []})

    def cdp(self, command: str, **parameters: object) -> Any:
        return self.call("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def open(self, path: Path, *, width: int = 1280, scheme: str = "light") -> None:
        self.cdp("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        self.cdp("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.call("POST", "/url", {"url": path.as_uri()})

    def press(self, *keys: str) -> None:
        strokes = [{"type": kind, "value": KEYS.get(key, key)} for key in keys for kind in ("keyDown", "keyUp")]
        self.call("POST", "/actions", {"actions": [{"type": "key", "id": "keys", "actions": strokes}]})

    def click(self, element_id: str) -> None:
        found = self.call("POST", "/element", {"using": "css selector", "value": f"#{element_id}"})
        self.call("POST", f"/element/{next(iter(found.values()))}/click", {})

    def text(self, element_id: str) -> str:
        return str(self.js(f"return document.getElementById('{element_id}').innerText"))

    def wait_for(self, condition: Any) -> None:
        deadline = time.monotonic() + 10
        while not condition():
            assert time.monotonic() < deadline, "the page never changed"
            time.sleep(0.02)

    def errors(self) -> list[Any]:
        """Console entries since the last call, less Chromium's advice about these tests' own reading of pixels."""
        log = self.call("POST", "/se/log", {"type": "browser"})
        return [entry for entry in log if "Multiple readback operations" not in entry["message"]]


@pytest.fixture
def browser(chromium: Browser) -> Iterator[Browser]:
    """The browser, on an empty page afterwards: a page of one test must not go on in the next."""
    yield chromium
    chromium.call("POST", "/url", {"url": "about:blank"})
    chromium.errors()


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    for tool, path in (("chromium", CHROMIUM), ("chromedriver", DRIVER)):
        if path is None:
            pytest.skip(f"{tool} is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    profile = tmp_path_factory.mktemp("profile")
    with subprocess.Popen(
        [str(DRIVER), f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as driver:
        session = None
        try:
            for _ in range(100):
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.1)
            session = Browser(f"http://127.0.0.1:{port}", profile)
            yield session
        finally:
            if session is not None:
                session.call("DELETE", "")
            driver.terminate()
