"""What every peer shares: the case it is given, the networks, and how it is told to run.

A case is a JSON file that ``benchmarks/peer_cases.py`` writes: the series, what both stages take, the gate, and the
part of the coronal stack that the stages see. The last is what onfh's search for the femoral heads found: no peer
searches.

A peer runs once and writes its answers, or stays and does a task for every line it is sent, answering with the seconds.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

Task = Callable[[], Any]


def arguments(text: str | None, *others: str) -> argparse.Namespace:
    """``CASE --out FILE [--serve]``, and further options that take a word."""
    parser = argparse.ArgumentParser(description=(text or "").split("\n", maxsplit=1)[0])
    parser.add_argument("case", type=Path, help="what benchmarks/peer_cases.py wrote")
    parser.add_argument("--out", type=Path, required=True, help="the answers (.npz)")
    parser.add_argument("--serve", action="store_true", help="do a task for each line of the standard input")
    for name in others:
        parser.add_argument(f"--{name}")
    return parser.parse_args()


def case_of(path: Path) -> dict[str, Any]:
    """Read a case."""
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def write_answers(path: Path, answers: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays; a mask as its bits."""
    packed = {
        name: np.packbits(np.asarray(array)) if name == "mask" else np.asarray(array) for name, array in answers.items()
    }
    np.savez(path, **packed)


def serve(tasks: Mapping[str, Task]) -> None:
    """Answer each line of the standard input, a task's name, with a line of JSON: the seconds it took.

    The first line that is sent back says that the peer is ready, the last how much memory it had at most.
    """
    print(json.dumps({"ready": sorted(tasks)}), flush=True)
    for line in sys.stdin:
        start = time.perf_counter()
        tasks[line.strip()]()
        print(json.dumps({"seconds": time.perf_counter() - start}), flush=True)
    print(json.dumps({"peak_mb": peak_mb()}), flush=True)


def peak_mb() -> float | None:
    """Most memory this process had resident, MiB; None where the system does not say."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:")), None)


def torch_network(stage: Mapping[str, Any], device: str = "cpu") -> Callable[[Any], Any]:
    """A stage in torch, opened as its user would: (n, C, H, W) float32 -> probability of necrosis (n,) or (n, H, W)."""
    import transformers

    opener = getattr(transformers, stage["architecture"])
    network = opener.from_pretrained(stage["checkpoint"], local_files_only=True).eval().to(device)

    def probabilities(values: torch.Tensor) -> torch.Tensor:
        answer: torch.Tensor = network(values).logits.softmax(1)[:, 1]
        return answer

    return probabilities
