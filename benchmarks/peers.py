"""How long a study takes beside what others would build of the same parts: `make bench-peers`.

Same weights, same study, same machine, in turns. The answers are compared before any time is: beyond the limits below
no ratio is printed. Whole processes are measured from their start to their end, with a warm page cache; kept processes
do the same study again and again, so that neither imports nor opening the networks is in it.

a   pydicom + MONAI + torch eager, by the route of MONAI's bundles and by the fastest route found (peers/monai_torch.py)
b   SimpleITK: read, and read and resample (peers/simpleitk_read.py)
c   the stages in OpenVINO, torch eager and torch.compile on the CPU (peers/openvino_stages.py, torch_stages.py)
d   on a GPU, the stages in torch.compile FP16 and ONNX Runtime's CUDA provider
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from peer_answers import StageLimits, StudyLimits, stack_differs, stages_differ, study_differs
from peer_cases import Case, write_case, write_study
from processes import Kept, run_whole
from records import command_line

from onfh_runtime.measure.record import record
from onfh_runtime.measure.statistics import paired_ratio, spread

ROOT = Path(__file__).resolve().parents[1]
PEERS = ROOT / "benchmarks" / "peers"
PEERS_PYTHON = ROOT / ".venv-peers" / "bin" / "python"
ROUTES = ("usual", "tuned")
STUDY_LIMITS = {
    # Slices are interpolated in another way, so a slice between two classes moves.
    "demo": StudyLimits(probability=0.1, dice=0.95),
    # Seeded weights: see `peer_cases`.
    "large": StudyLimits(probability=0.02, dice=0.95),
}
STAGE_WAYS: dict[str, tuple[str, str, StageLimits]] = {
    "torch eager": ("torch_stages.py", "eager", StageLimits(1e-4)),
    "torch.compile": ("torch_stages.py", "compiled", StageLimits(1e-4)),
    "OpenVINO FP32": ("openvino_stages.py", "fp32", StageLimits(1e-4)),
    "OpenVINO as it comes": ("openvino_stages.py", "default", StageLimits(0.05)),
    "torch.compile FP16, GPU": ("torch_stages.py", "compiled-fp16", StageLimits(0.02)),
    "ONNX Runtime CUDA FP32": ("ort_cuda_stages.py", "fp32", StageLimits(1e-3)),
    "ONNX Runtime CUDA FP16": ("ort_cuda_stages.py", "fp16", StageLimits(0.02)),
}
NOT_MEASURED = (
    "A cold page cache: an uncounted run of each side warms it.",
    "The search for the femoral heads by a peer: peers are told which slices and which box the stages see.",
    "Writing SEG, SR, result.json and the report by a peer: onfh does all of it inside its time, peers keep a mask.",
    "Quality: weights of the large stages are seeded, those of the demo bundle know phantoms.",
    "Other CPUs, more cores, and several studies at once.",
)


def whole(case: Case, pairs: int, routes: Sequence[str], folder: Path) -> dict[str, Any]:
    """Whole processes in turns: `onfh infer`, then each route of peer a."""
    series = json.loads(case.path.read_text())["series"]
    commands: dict[str, list[str | Path]] = {
        "onfh": [
            *(sys.executable, "-m", "onfh_runtime.cli.main", "infer", series),
            *("--bundle", case.bundle.root, "--out", folder / "out", "--backend", "onnxruntime"),
        ]
    }
    for route in routes:
        commands[route] = _peer("monai_torch.py", case, folder / f"{route}.npz", "--route", route)
    runs: dict[str, list[Any]] = {name: [] for name in commands}
    differences: dict[str, Any] = {}
    for turn in range(pairs + 1):
        for name, command in commands.items():
            run = run_whole(command)
            if turn:  # the first warms the page cache
                runs[name].append(run)
            elif name != "onfh":
                differences[name] = study_differs(case.answers, folder / f"{name}.npz", STUDY_LIMITS[case.name])
    wall = {name: [run.wall_s for run in taken] for name, taken in runs.items()}
    figures: dict[str, Any] = {"onfh": {"wall_s": spread(wall["onfh"]), "peak_mb": _peaks(runs["onfh"])}}
    for route in routes:
        figures[f"monai_torch_{route}"] = {"wall_s": spread(wall[route]), "peak_mb": _peaks(runs[route])} | _compared(
            differences[route],
            wall_over_onfh=paired_ratio(wall[route], wall["onfh"]),
            onfh_peak_over_it=paired_ratio([run.peak_mb for run in runs["onfh"]], [run.peak_mb for run in runs[route]]),
        )
    return figures


def in_turns(case: Case, ours: str, peers: dict[str, list[str | Path]], rounds: int, folder: Path) -> dict[str, Any]:
    """Kept processes in turns: seconds of each task, and the ratio of each to ours.

    Args:
        case: what they work on.
        ours: tasks of ``onfh_side.py``, with a comma between them.
        peers: names and commands; one that does not start is left out by its reason.
        rounds: how often every task is done; each process has done it once before it is ready.
        folder: for answers and logs.
    """
    figures: dict[str, Any] = {}
    with ExitStack() as opened:
        command = [*_ours(case, folder / "onfh_side.npz"), "--tasks", ours]
        kept = {"onfh": opened.enter_context(Kept(command, folder / "onfh.log"))}
        for name, words in peers.items():
            try:
                kept[name] = opened.enter_context(Kept(words, folder / f"{name}.log"))
            except RuntimeError as error:
                figures[name] = {"left_out": _reason(str(error))}
                print(f"{name} is left out: {figures[name]['left_out']}")
        times: dict[str, dict[str, list[float]]] = {n: {t: [] for t in k.tasks} for n, k in kept.items()}
        for _ in range(rounds):
            for name, process in kept.items():
                for task in process.tasks:
                    times[name][task].append(process.seconds(task))
        for name, process in kept.items():
            figures[name] = {"seconds": {t: spread(s) for t, s in times[name].items()}, "peak_mb": process.finish()}
            figures[name]["times"] = times[name]
    return figures


def steady(case: Case, rounds: int, routes: Sequence[str], folder: Path) -> dict[str, Any]:
    """Studies one after the other in processes that stay: neither imports nor opening the networks."""
    peers = {
        f"monai_torch_{route}": [*_peer("monai_torch.py", case, folder / f"{route}.npz", "--route", route), "--serve"]
        for route in routes
    }
    figures = in_turns(case, "study", peers, rounds, folder)
    ours = figures["onfh"].pop("times")["study"]
    for route in routes:
        figure = figures[f"monai_torch_{route}"]
        if "left_out" in figure:
            continue
        theirs = figure.pop("times")["study"]
        differs = study_differs(case.answers, folder / f"{route}.npz", STUDY_LIMITS[case.name])
        figure |= _compared(differs, seconds_over_onfh=paired_ratio(theirs, ours))
    return figures


def reading(case: Case, rounds: int, folder: Path) -> dict[str, Any]:
    """Peer b: reading, and reading and resampling."""
    peers = {"simpleitk": _peer("simpleitk_read.py", case, folder / "simpleitk.npz")}
    figures = in_turns(case, "read,stack", peers, rounds, folder)
    ours, theirs = (figures[name].pop("times", {}) for name in ("onfh", "simpleitk"))
    if not theirs:
        return figures
    figures["simpleitk"]["read_over_onfh"] = paired_ratio(theirs["read"], ours["read"])
    for way, most in (("averaged", 1.0), ("points", 15.0)):
        differs = stack_differs(case.answers, folder / "simpleitk.npz", way, most_hu=most)
        figures["simpleitk"][way] = _compared(differs, over_onfh=paired_ratio(theirs[way], ours["stack"]))
    return figures


def stages(case: Case, rounds: int, ways: Sequence[str], folder: Path) -> dict[str, Any]:
    """Peers c and d: both stages on the rows of the study."""
    peers = {
        name: _peer(STAGE_WAYS[name][0], case, folder / f"{name}.npz", "--way", STAGE_WAYS[name][1]) for name in ways
    }
    figures = in_turns(case, "classifier,segmenter", peers, rounds, folder)
    ours = figures["onfh"].pop("times")
    for name in ways:
        if "left_out" in figures[name]:
            continue
        theirs = figures[name].pop("times")
        differs = stages_differ(folder / "onfh_side.npz", folder / f"{name}.npz", STAGE_WAYS[name][2])
        ratios = {f"{stage}_over_onfh": paired_ratio(theirs[stage], ours[stage]) for stage in ours}
        figures[name] |= _compared(differs, **ratios)
    return figures


def _ours(case: Case, out: Path) -> list[str | Path]:
    return [sys.executable, PEERS / "onfh_side.py", case.path, "--out", out, "--bundle", case.bundle.root]


def _peer(script: str, case: Case, out: Path, *words: str) -> list[str | Path]:
    return [PEERS_PYTHON, PEERS / script, case.path, "--out", out, *words]


def _peaks(runs: Sequence[Any]) -> dict[str, float]:
    return spread([run.peak_mb for run in runs])


def _compared(differs: dict[str, Any], **ratios: Any) -> dict[str, Any]:
    """The difference of the answers, and the ratios only where that is within its limits."""
    return {"answers": differs} | (ratios if differs["within_limits"] else {"ratios": "refused: other answers"})


def _reason(text: str) -> str:
    """The line that names the error, of all that a process said before it ended."""
    lines = text.strip().splitlines()
    errors = [line for line in lines if re.match(r"[\w.]*(Error|Exception|Unsupported)\b", line)]
    return (errors or lines)[-1]


def show(figures: dict[str, Any], indent: str = "  ") -> None:
    """Print nested figures, a spread on one line."""
    for name, value in figures.items():
        if isinstance(value, dict) and {"min", "median", "max"} <= value.keys():
            print(f"{indent}{name:24} {value['median']:9.3f}  ({value['min']:.3f} to {value['max']:.3f})")
        elif isinstance(value, dict):
            print(f"{indent}{name}")
            show(value, f"{indent}  ")
        else:
            print(f"{indent}{name:24} {f'{value:.4g}' if isinstance(value, float) else value}")


def main() -> int:
    """Measure and print everything; write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--pairs", type=int, default=5, help="counted pairs of processes, demo (default: %(default)s)")
    parser.add_argument("--large-pairs", type=int, default=3, help="the same, large stages (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="of kept processes (default: %(default)s)")
    parser.add_argument("--large-rounds", type=int, default=2, help="the same, large stages (default: %(default)s)")
    parser.add_argument("--no-large", action="store_true", help="leave out ViT-B/16 + UperNet-Swin-T")
    parser.add_argument("--smoke", action="store_true", help="a small study, one pair: does it still work?")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    if not PEERS_PYTHON.exists():
        raise SystemExit("The peers' environment is missing: run `make bench-peers`.")
    slices, matrix = (60 if options.smoke else 200), 512
    on_gpu = shutil.which("nvidia-smi") is not None
    ways = [name for name in STAGE_WAYS if on_gpu or not ("GPU" in name or "CUDA" in name)]
    settings = {
        name: getattr(options, name) for name in ("pairs", "large_pairs", "rounds", "large_rounds", "smoke")
    } | {"slices": slices, "matrix": matrix, "answer_limits": {k: vars(v) for k, v in STUDY_LIMITS.items()}}
    command, peers = command_line(__file__, parser, options), _versions()
    results: dict[str, Any] = {}
    if not on_gpu:
        results["left_out"] = {name: "there is no GPU" for name in STAGE_WAYS if name not in ways}
        show(results)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        series = write_study(root / "study", slices, matrix)
        for case_name in ("demo",) if options.no_large or options.smoke else ("demo", "large"):
            folder = root / case_name
            case = write_case(case_name, series, folder)
            large = case_name == "large"
            pairs = 1 if options.smoke else options.large_pairs if large else options.pairs
            rounds = 1 if options.smoke else options.large_rounds if large else options.rounds
            # Routes differ outside the stages alone: time is spared where both would say nothing new.
            tuned = ROUTES[1:]
            parts = {"whole_process": whole(case, pairs, tuned if options.smoke else ROUTES, folder)}
            parts["steady_state"] = steady(case, rounds, tuned if options.smoke or large else ROUTES, folder)
            if not large:
                parts["read"] = reading(case, rounds, folder)
            parts["stages"] = stages(case, rounds, ways, folder)
            with np.load(case.answers) as said:
                parts["rows"] = {"classified": len(said["probabilities"]), "segmented": len(said["gated"])}
            results[case_name] = parts
            print(case_name)
            show(parts)
            if options.json:
                done = record("peers", command, settings=settings, results=results, does_not_measure=NOT_MEASURED)
                done["peers"] = peers
                options.json.parent.mkdir(parents=True, exist_ok=True)
                options.json.write_text(json.dumps(done, indent=1) + "\n")
    return 0


def _versions() -> dict[str, str]:
    """What the peers' environment holds."""
    said = run_whole([PEERS_PYTHON, "-m", "pip", "--disable-pip-version-check", "list", "--format", "json"]).said
    listed = {
        package["name"].lower(): package["version"]
        for package in json.loads(next(line for line in said.splitlines() if line.startswith("[")))
    }
    named = ("monai", "numpy", "openvino", "pydicom", "simpleitk", "torch", "transformers", "onnxruntime-gpu")
    return {name: listed[name] for name in named if name in listed}


if __name__ == "__main__":
    sys.exit(main())
