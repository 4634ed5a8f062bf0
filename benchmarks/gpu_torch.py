"""What torch reaches on a GPU: its matrix product as the ceiling, and the same networks in eager and compiled form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from gpu_cases import CASES, GATED, SLICES, network_of

SIDE = 8192
RUNS = 7


def times_ms(work: Callable[[], Any], *, warm_up: int = 3, runs: int = RUNS) -> list[float]:
    """Milliseconds on the GPU of each run, by CUDA events."""
    for _ in range(warm_up):
        work()
    torch.cuda.synchronize()
    found = []
    for _ in range(runs):
        begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begun.record()
        work()
        ended.record()
        ended.synchronize()
        found.append(begun.elapsed_time(ended))
    return found


def matrix_tflop_s(side: int = SIDE) -> list[float]:
    """TFLOP/s of an FP16 product of two square matrices of random values; zeros would be faster."""
    first, second = (torch.randn(side, side, device="cuda", dtype=torch.float16) for _ in range(2))
    made = torch.empty_like(first)
    return [2 * side**3 / ms / 1e9 for ms in times_ms(lambda: torch.matmul(first, second, out=made))]


class Peer:
    """Both networks of a case in FP16 in torch alone, on batches of 25 and 10 random rows that lie on the GPU."""

    def __init__(self, case: str, on: str = "cuda") -> None:
        segmenter, side = CASES[case]
        self.networks = [network_of(name).to(on, torch.float16) for name in ("vit", segmenter)]
        if hasattr(self.networks[0], "set_attn_implementation"):
            self.networks[0].set_attn_implementation("sdpa")  # torch's fastest; exporting wants the plain one
        self._rows = [
            torch.randn(rows, 3, size, size, device=on, dtype=torch.float16)
            for rows, size in ((SLICES, 224), (GATED, side))
        ]

    def eager(self) -> list[float]:
        """Milliseconds of one study."""
        return times_ms(lambda: self.run(self.networks))

    def compiled(self) -> list[float]:
        """The same by torch.compile, with CUDA graphs."""
        made = [torch.compile(network, mode="reduce-overhead", dynamic=False) for network in self.networks]
        return times_ms(lambda: self.run(made))

    def run(self, networks: list[Any]) -> None:
        """Queue one study."""
        with torch.inference_mode():
            for network, rows in zip(networks, self._rows, strict=True):
                network(rows)
