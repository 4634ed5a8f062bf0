"""What mixing channels before upsampling saves: UperNet-Swin-T at 512, ONNX Runtime's CPU provider, batch 1.

Both graphs are open in one process and run in turn, so whatever else the machine does meets both alike: the ratio is
of neighbouring runs, medians are quoted with their spread. The weights are seeded, not trained; the work is the same.

Not measured: a GPU, other batch sizes, what half precision changes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from large_stages import large_networks

from onfh_export.graph.facts import graph_facts
from onfh_export.graph.upernet import mix_channels_early
from onfh_export.onnx_export import onnx_from_network
from onfh_runtime.cpu import cpu_name


def spread(values: list[float]) -> dict[str, float]:
    """Minimum, median and maximum."""
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


def measure(model: onnx.ModelProto, runs: int) -> dict[str, object]:
    """Rewrite the model, then run both in turn: a warm-up and ``runs`` counted pairs."""
    start = time.perf_counter()
    rewritten, lines = mix_channels_early(model)
    seconds = time.perf_counter() - start
    facts = [graph_facts(each) for each in (model, rewritten)]
    sessions = [
        onnxruntime.InferenceSession(each.SerializeToString(), providers=["CPUExecutionProvider"])
        for each in (model, rewritten)
    ]
    name, shape = sessions[0].get_inputs()[0].name, sessions[0].get_inputs()[0].shape
    feed = {name: np.random.default_rng(0).standard_normal((1, *shape[1:])).astype(np.float32)}
    before, after = (session.run(None, feed)[0] for session in sessions)
    times: list[list[float]] = [[], []]
    for _ in range(runs):
        for session, taken in zip(sessions, times, strict=True):
            start = time.perf_counter()
            session.run(None, feed)
            taken.append(time.perf_counter() - start)
    return {
        "runs": runs,
        "rewritten": lines,
        "rewrite_s": seconds,
        "gmac": [each.gmac for each in facts],
        "nodes": [each.nodes for each in facts],
        "before_s": spread(times[0]),
        "after_s": spread(times[1]),
        "speed_up": spread([a / b for a, b in zip(*times, strict=True)]),
        "largest_difference": float(np.abs(after - before).max()),
        "largest_logit": float(np.abs(before).max()),
    }


def main() -> int:
    """Measure and print; write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=7, help="counted pairs (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    model = onnx_from_network(large_networks()["segmenter"], (3, 512, 512))
    load = os.getloadavg()
    figures = measure(model, options.runs)
    for line in figures["rewritten"]:  # type: ignore[attr-defined]
        print(line)
    print("whole model: {:.1f} to {:.1f} GMAC, {} to {} nodes".format(*figures["gmac"], *figures["nodes"]))  # type: ignore[misc]
    for key in ("before_s", "after_s", "speed_up"):
        low, mid, high = (figures[key][which] for which in ("min", "median", "max"))  # type: ignore[index]
        print(f"  {key:10} {mid:7.3f}  ({low:.3f} to {high:.3f})")
    print(f"  largest difference {figures['largest_difference']:.1e}, largest logit {figures['largest_logit']:.2f}")
    if options.json:
        figures["machine"] = {
            "cpu": cpu_name(),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "onnxruntime": version("onnxruntime"),
            "load_before": load,
        }
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
