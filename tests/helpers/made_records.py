"""Records of suites that nobody took, for the tests of plots and tables."""

from __future__ import annotations

import json

MACHINE = {
    "cpu": {"name": "Made CPU", "cores_usable": 2},
    "gpus": [],
    "python": "3.11.7",
    "packages": {"numpy": "2.4.6", "onnxruntime": "1.32.0"},
    "commit": "0123456789abcdef",
    "changed": False,
}


def record(name, results):
    made = {"schema": "onfh-benchmark/1", "name": name, "created": "2026-01-02T03:04:05Z", "command": "none"}
    return {**made, "machine": MACHINE, "settings": {}, "results": results, "does_not_measure": ["anything"]}


def seconds(median):
    return {"min": 0.95 * median, "low": 0.98 * median, "median": median, "high": 1.02 * median, "max": 1.1 * median}


def study(median, studies=1, **more):
    steps = {"read": 300.0, "preprocess": 350.0, "classify": 150.0, "segment": 90.0, "postprocess": 12.0}
    calls = {"calls_s": 0.3 * median, "over_calls": seconds(1 / 0.3), "over_calls_alone": seconds(4.0)}
    return {"seconds": seconds(median), "studies": studies, **calls, "step_ms": steps, **more}


def backends():
    calls = {("demo", "classifier"): 0.004, ("demo", "segmenter"): 0.02, ("large", "classifier"): 0.3}
    calls["large", "segmenter"] = 1.5
    return {
        f"run[{bundle}-{rows}-onnxruntime-{stage}]": {
            "seconds": seconds(each * rows**0.9),
            "bundle": bundle,
            "stage": stage,
            "rows": rows,
        }
        for (bundle, stage), each in calls.items()
        for rows in (1, 2, 4, 8)
    }


def pipeline():
    found = {
        "single[demo]": study(0.9),
        "row[demo]": study(12.0, studies=20),
        "single[large]": study(30.0),
        "row[large]": study(590.0, studies=20),
    }
    found |= {f"in_flight[{n}]": study(0.9 * n**0.8, studies=n) for n in (1, 2, 4, 8, 16)}
    for slices, matrix in ((100, 256), (200, 256), (100, 512), (200, 512), (300, 512), (400, 512)):
        voxels = slices * matrix**2 / 1e6
        volume = {"volume": [slices, matrix, matrix], "million_voxels": voxels}
        found[f"volume[{slices}x{matrix}]"] = study(0.4 + voxels / 90, **volume)
    found |= {f"slices[{n}]": study(0.6 + n / 60, coronal_slices=n) for n in (15, 25, 40, 55, 66)}
    return found


def peers():
    whole = {"answers": {"within_limits": True}, "wall_over_onfh": seconds(3.3), "onfh_peak_over_it": seconds(0.4)}
    refused = {"answers": {"within_limits": False}, "ratios": "refused: other answers"}
    stages = {
        "onfh": {"seconds": {}},
        "OpenVINO FP32": {"classifier_over_onfh": seconds(0.9), "segmenter_over_onfh": seconds(1.1)},
        "torch.compile": {"left_out": "RuntimeError: no compiler"},
    }
    steady = {"onfh": {}, "monai_torch_usual": refused}
    demo = {"whole_process": {"onfh": {}, "monai_torch_usual": whole}, "steady_state": steady, "stages": stages}
    return {"left_out": {}, "demo": demo}


def write_all(folder):
    folder.mkdir(parents=True, exist_ok=True)
    for suite, results in (("backends", backends()), ("pipeline", pipeline())):
        (folder / f"bench-{suite}-2-core-cpu.json").write_text(json.dumps(record(f"bench-{suite}", results)))
    beside = record("peers", peers()) | {"peers": {"monai": "1.6.1"}}
    (folder / "peers-2-core-cpu.json").write_text(json.dumps(beside))
