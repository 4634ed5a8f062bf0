"""Peer c: both stages in OpenVINO on the CPU, from the bundle's FP32 graphs, on the inputs that this runtime made.

``--way fp32`` or ``default``: by itself OpenVINO takes BF16 on processors that have it for matrices, which changes
answers.
"""

from __future__ import annotations

import numpy as np
import openvino
from common import arguments, case_of, serve, write_answers
from numpy.typing import NDArray

STAGES = ("classifier", "segmenter")


def main() -> None:
    """Offer the tasks ``classifier`` and ``segmenter``: every row of the study, one at a time as onfh does."""
    options = arguments(__doc__, "way")
    case = case_of(options.case)
    given = np.load(case["answers"])
    core = openvino.Core()
    settings = {"PERFORMANCE_HINT": "LATENCY"}
    if options.way == "fp32":
        settings["INFERENCE_PRECISION_HINT"] = "f32"
    tasks = {}
    for stage in STAGES:
        model = core.read_model(case[stage]["onnx"])
        values = given[f"{stage}_input"]
        model.reshape([1, *values.shape[1:]])
        request = core.compile_model(model, "CPU", settings).create_infer_request()
        tasks[stage] = lambda request=request, values=values: run(request, values)
    write_answers(options.out, {stage: task() for stage, task in tasks.items()})
    serve(tasks)


def run(request: openvino.InferRequest, values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Probabilities of all rows."""
    logits = np.stack([request.infer([row[None]])[0][0].copy() for row in values])
    return np.asarray(1 / (1 + np.exp(-logits[:, 0])))


if __name__ == "__main__":
    main()
