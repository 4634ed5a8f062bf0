"""Peer d: both stages in ONNX Runtime with its CUDA provider, from the bundle's graphs, inputs on the GPU already.

``--way fp32`` takes the FP32 graphs, without TF32; ``fp16`` the bundle's FP16 graphs, where the case has them.
"""

from __future__ import annotations

import numpy as np
from common import arguments, case_of, serve, write_answers
from numpy.typing import NDArray

try:
    import onnxruntime as ort
except ImportError:
    raise SystemExit("onnxruntime-gpu is not installed beside the peers") from None

STAGES = ("classifier", "segmenter")


def main() -> None:
    """Offer the tasks ``classifier`` and ``segmenter``: every row of the study, in the bundle's batches."""
    options = arguments(__doc__, "way")
    case = case_of(options.case)
    if "CUDAExecutionProvider" not in ort.get_available_providers():
        raise SystemExit("this ONNX Runtime has no CUDA provider")
    ort.preload_dlls()  # finds CUDA and cuDNN in the wheels that torch brings
    given = np.load(case["answers"])
    tasks = {}
    for stage in STAGES:
        path = case[stage]["onnx_fp16" if options.way == "fp16" else "onnx"]
        if path is None:
            raise SystemExit("the bundle has no FP16 graphs")
        providers = [("CUDAExecutionProvider", {"use_tf32": "0"})]
        session = ort.InferenceSession(path, providers=providers)
        if session.get_providers()[0] != "CUDAExecutionProvider":  # it would go on with the CPU's
            raise SystemExit("ONNX Runtime's CUDA provider does not start")
        values, rows = given[f"{stage}_input"], case[stage]["max_batch"]
        parts = [ort.OrtValue.ortvalue_from_numpy(part, "cuda", 0) for part in batches(values, rows)]
        tasks[stage] = lambda session=session, parts=parts: run(session, parts)
    write_answers(options.out, {stage: task() for stage, task in tasks.items()})
    serve(tasks)


def batches(values: NDArray[np.float32], rows: int) -> list[NDArray[np.float32]]:
    """The rows, so many at a time."""
    return [np.ascontiguousarray(values[start : start + rows]) for start in range(0, len(values), rows)]


def run(session: ort.InferenceSession, parts: list[ort.OrtValue]) -> NDArray[np.float32]:
    """Probabilities of all rows; the logits come back to the host, which waits for them."""
    (given,), (made,) = session.get_inputs(), session.get_outputs()
    logits = []
    for part in parts:
        binding = session.io_binding()
        binding.bind_ortvalue_input(given.name, part)
        binding.bind_output(made.name, "cuda")
        session.run_with_iobinding(binding)
        logits.append(binding.copy_outputs_to_cpu()[0])
    return np.asarray(1 / (1 + np.exp(-np.concatenate(logits)[:, 0].astype(np.float32))))


if __name__ == "__main__":
    main()
