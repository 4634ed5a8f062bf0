"""A bundle small enough to follow by hand, made of real ONNX files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

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
