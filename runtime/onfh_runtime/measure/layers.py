"""What each layer of a stage takes, where the engine says so: ONNX Runtime on the CPU, and TensorRT.

Either profiler belongs to what is opened with it, so a stage is opened once more for this, and fed noise.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onfh_runtime.backends.ort_backend import session_options
from onfh_runtime.bundle import LoadedBundle, StageName

if TYPE_CHECKING:
    from onfh_runtime.backends.trt_backend import TrtBackend
    from onfh_runtime.device import Device, Stream

__all__ = ["layers_from_events", "ort_layers", "tensorrt_layers"]

_SUFFIX = "_kernel_time"
_WARM_UP, _RUNS, _MOST = 2, 10, 15


def ort_layers(bundle: LoadedBundle, stage: StageName, *, threads: int = 0, runs: int = _RUNS) -> dict[str, Any]:
    """Times of a stage's nodes by ONNX Runtime's own profiler, for one row.

    Args:
        bundle: the checked bundle.
        stage: which of its networks; the graph that a CPU runs.
        threads: threads for one operator, 0 for every core.
        runs: runs that count, after a warm-up.

    Returns:
        See :func:`layers_from_events`.
    """
    import onnxruntime as ort

    spec = bundle.content.classifier if stage == "classifier" else bundle.content.segmenter
    values = _noise((1, len(spec.input.windows), *spec.input.size))
    with tempfile.TemporaryDirectory() as folder:
        options = session_options(threads)
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = ort.InferenceSession(
            str(bundle.model_path(stage, bundle.cpu_precision(stage))), options, providers=["CPUExecutionProvider"]
        )
        for _ in range(_WARM_UP + runs):
            session.run([spec.output_name], {spec.input_name: values})
        events = json.loads(Path(session.end_profiling()).read_text())
    return {"rows": 1, **layers_from_events(events, skipped=_WARM_UP)}


def tensorrt_layers(
    backend: TrtBackend, rows: int, *, device: Device, stream: Stream, runs: int = _RUNS
) -> dict[str, Any]:
    """Times of a plan's layers by TensorRT's own profiler.

    Args:
        backend: opened for this alone, without graphs.
        rows: of the batch; the least bucket that holds them is run, or the largest.
        device: the backend's.
        stream: the backend's.
        runs: runs that count, after a warm-up.

    Returns:
        As :func:`ort_layers`, but that TensorRT's layers are what it made of many nodes, so there are no operators; no
        ``nodes`` where this TensorRT tells of none.

    Raises:
        BackendError: as the backend's ``run``.
    """
    bucket = next((each for each in backend.buckets if each >= rows), backend.buckets[-1])
    given, made = backend.inputs[0], backend.outputs[0]
    workspace = device.workspace()
    try:
        host = workspace.pinned("noise", (bucket, *given.shape), given.dtype)
        host[:] = _noise(host.shape)
        values = workspace.device("values", host.shape, given.dtype)
        logits = workspace.device("logits", (bucket, *made.shape), made.dtype)
        stream.upload(values, host)
        spent: defaultdict[str, float] = defaultdict(float)
        for number in range(_WARM_UP + runs):
            told = backend.layer_times({given.name: values}, {made.name: logits}, stream=stream)
            if number >= _WARM_UP:
                for name, ms in told:
                    spent[name] += ms
    finally:
        stream.synchronize()
        workspace.close()
    total = sum(spent.values())
    costliest = sorted(spent.items(), key=lambda layer: layer[1], reverse=True)[:_MOST]
    nodes = [{"node": name, "ms": ms / runs, "share": ms / total} for name, ms in costliest if total]
    return {"rows": bucket, "runs": runs, "kernels_ms": total / runs, "operators": [], "nodes": nodes}


def _noise(shape: tuple[int, ...]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """What a GPU's clock under load depends on: zeros would take less power."""
    return np.random.default_rng(0).random(shape, np.float32)


def layers_from_events(events: Iterable[Mapping[str, Any]], *, skipped: int = 0, most: int = _MOST) -> dict[str, Any]:
    """Sum up a profile of ONNX Runtime.

    Args:
        events: its JSON.
        skipped: runs at the beginning that do not count.
        most: nodes to name.

    Returns:
        ``runs``; ``kernels_ms`` of one run; ``operators`` and ``nodes``, the costliest first, each with its ms of one
        run and its share; of operators also how many nodes.
    """
    seen: Counter[str] = Counter()
    nodes: Counter[str] = Counter()
    kinds: dict[str, str] = {}
    for event in events:
        name = str(event.get("name", ""))
        if event.get("cat") != "Node" or not name.endswith(_SUFFIX):
            continue
        node = name.removesuffix(_SUFFIX)
        seen[node] += 1
        if seen[node] > skipped:
            nodes[node] += event["dur"]
            kinds[node] = event["args"]["op_name"]
    runs = max(seen.values(), default=skipped) - skipped
    if not nodes or runs < 1:
        return {"runs": 0, "kernels_ms": 0.0, "operators": [], "nodes": []}
    total = sum(nodes.values())
    operators: Counter[str] = Counter()
    for node, spent in nodes.items():
        operators[kinds[node]] += spent
    counts = Counter(kinds.values())

    def row(spent: int) -> dict[str, float]:
        return {"ms": spent / runs / 1e3, "share": spent / max(1, total)}

    return {
        "runs": runs,
        "kernels_ms": total / runs / 1e3,
        "operators": [{"operator": kind, "nodes": counts[kind], **row(each)} for kind, each in operators.most_common()],
        "nodes": [{"node": node, "operator": kinds[node], **row(each)} for node, each in nodes.most_common(most)],
    }
