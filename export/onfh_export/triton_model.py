"""What ``model.py`` of the python variant of a Triton repository holds: one stage on ONNX Runtime, on the CPU.

The file is copied as it is into ``<model>/1/`` beside ``model.onnx``; it runs inside Triton's Python backend, where
nothing of this project is installed, and so imports nothing of it.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found, unused-ignore]

__all__ = ["TritonPythonModel"]


class TritonPythonModel:
    """One stage, as Triton's Python backend wants it."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open ``model.onnx`` beside this file, unless it is not the file that ``config.pbtxt`` was written for."""
        config = json.loads(args["model_config"])
        path = Path(__file__).with_name("model.onnx")
        if hashlib.sha256(path.read_bytes()).hexdigest() != config["parameters"]["onfh_model_sha256"]["string_value"]:
            raise RuntimeError("model.onnx is not the file that config.pbtxt was written for.")
        self._input: str = config["input"][0]["name"]
        self._output: str = config["output"][0]["name"]
        self._session: Any = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response for each request."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        values = pb_utils.get_input_tensor_by_name(request, self._input).as_numpy()
        # A row alone gives the same bits whatever it came with; in a batch its place decides how products are blocked.
        rows = [self._session.run([self._output], {self._input: row[np.newaxis]})[0] for row in values]
        return pb_utils.InferenceResponse([pb_utils.Tensor(self._output, np.concatenate(rows))])

    def finalize(self) -> None:
        """Drop the session."""
        self._session = None
