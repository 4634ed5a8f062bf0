"""Peers c and d: both stages in torch, on the inputs that this runtime made.

``--way eager`` or ``compiled`` (torch.compile, the default backend) on the CPU; ``--way compiled-fp16`` on a GPU, with
the inputs there already, and a synchronisation at the end of each task.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from common import arguments, case_of, serve, torch_network, write_answers

STAGES = ("classifier", "segmenter")


def main() -> None:
    """Offer the tasks ``classifier`` and ``segmenter``: every row of the study, in the bundle's batches."""
    options = arguments(__doc__, "way")
    case = case_of(options.case)
    half = options.way == "compiled-fp16"
    if half and not torch.cuda.is_available():
        raise SystemExit("this torch sees no GPU")
    device = "cuda" if half else "cpu"
    given = np.load(case["answers"])
    tasks: dict[str, Callable[[], Any]] = {}
    for stage in STAGES:
        network = torch_network(case[stage], device)
        if options.way != "eager":
            network = torch.compile(network, mode="max-autotune" if half else None, dynamic=False)
        values = torch.from_numpy(given[f"{stage}_input"]).to(device)
        tasks[stage] = lambda network=network, values=values, rows=case[stage]["max_batch"]: run(
            network, values, rows, half=half
        )
    # A tail batch is compiled for itself here, before anything is timed.
    write_answers(options.out, {stage: task().float().cpu().numpy() for stage, task in tasks.items()})
    serve(tasks)


def run(network: Callable[[Any], Any], values: torch.Tensor, rows: int, *, half: bool) -> torch.Tensor:
    """Probabilities of all rows."""
    with torch.inference_mode(), torch.autocast(values.device.type, torch.float16, enabled=half):
        answer = torch.cat([network(part).clone() for part in values.split(rows)])
    if half:
        torch.cuda.synchronize()
    return answer


if __name__ == "__main__":
    main()
