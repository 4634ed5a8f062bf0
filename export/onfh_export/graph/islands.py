"""Which nodes stay FP32: found by ranges and by trials, each with its reason.

1. A node that touches a number half cannot hold stays FP32: its ranges are the evidence.
2. If the gate passes with those, there are no others.
3. If not, what each kind of operator costs is measured, the costliest are made FP32 until the gate passes, and then
   every node is given back to half that the gate does not miss. What is left is 1-minimal: give back any one of them,
   and the gate fails.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto

from onfh_export.graph.halves import LARGEST, SMALLEST_NORMAL, Half
from onfh_export.graph.insides import inside
from onfh_export.graph.precision import Io, emulated, half_nodes, named
from onfh_export.graph.ranges import Range, activation_ranges
from onfh_export.graph.shapes import skeleton
from onfh_runtime.errors import OnfhError

__all__ = ["HEADROOM", "MAX_TRIALS", "MOSTLY", "Islands", "Verdict", "find_islands"]

HEADROOM = 2.0
"""The next patient's activations may be this much larger than those of the reference rows."""
MOSTLY = 0.5
"""Of a tensor's magnitude; with more than that below the smallest normal number, half no longer carries it."""
MAX_TRIALS = 100
"""Runs of the gate; then the islands found so far are returned, whole but perhaps too many."""


@dataclass(frozen=True)
class Verdict:
    """What the gate says of a model."""

    passed: bool
    reason: str
    """What was breached, with the figure; of a model that passed, what came nearest."""
    score: float
    """How bad it is, the larger the worse; only compared with the score of another verdict of the same gate."""


@dataclass(frozen=True)
class Islands:
    """The nodes that stay FP32, and how they were found."""

    keep: dict[str, str]
    """Node -> why, in the order of the graph."""
    trials: int
    """How often the gate was asked."""
    verdict: Verdict
    """Of the model with these islands; it passed."""
    minimal: bool
    """Whether each island that the search added was tried without, at the end; False when MAX_TRIALS ran out."""
    ranges: dict[str, Range]
    """What :func:`onfh_export.graph.ranges.activation_ranges` measured."""


def find_islands(
    model: ModelProto,
    rows: NDArray[np.float32],
    passes: Callable[[ModelProto], Verdict],
    *,
    dtype: Half,
    io: Io,
    progress: Callable[[str], None] | None = None,
) -> Islands:
    """Search the smallest set of FP32 islands with which the emulated half model passes a gate.

    The same model, rows and gate give the same islands.

    Args:
        model: FP32, with one input and one output; unchanged.
        rows: (N, C, H, W) float32, reference rows scaled and normalised as the stage reads them; a few that matter
            are enough, ranges and costs are measured on them and the gate has its own.
        passes: asked about emulated models, which take and give FP32 (:func:`onfh_export.graph.precision.emulated`).
        dtype: of everything that is no island.
        io: of the finished model's input and output.
        progress: told what is tried, a line each time.

    Raises:
        OnfhError: ``precision_unreachable`` when the gate fails even with every node in FP32; those of
            :func:`onfh_export.graph.precision.half_from_float`.
    """
    say = progress or (lambda line: None)
    candidates = set(half_nodes(model, dtype=dtype))
    nodes = [node for node in named(skeleton(model)).graph.node if node.name in candidates]
    ranges = activation_ranges(model, rows)
    keep = {node.name: reason for node in nodes if (reason := _unfit(node, ranges, dtype))}
    say(f"{len(keep)} of {len(nodes)} nodes touch numbers that {dtype} cannot hold")
    gate = _Gate(model, passes, dtype, io, say)
    verdict = gate.ask(keep)
    if verdict.passed:
        return Islands(keep, gate.trials, verdict, True, ranges)
    everything = gate.ask([node.name for node in nodes])
    if not everything.passed:
        raise OnfhError(
            "precision_unreachable",
            f"No set of FP32 islands passes the gate: with every node in FP32, {everything.reason}.",
            "Relax the limit that is breached, or give the graph FP32 inputs and outputs.",
        )
    added: list[list[str]] = []
    for group in _costliest_first(model, rows, nodes, keep, dtype, io, say):
        added.append(group)
        verdict = gate.ask([*keep, *_all(added)])
        if verdict.passed:
            break
    search = _Elimination(gate, list(keep), added, verdict)
    search.run()
    reasons = keep | search.reasons()
    in_order = {node.name: reasons[node.name] for node in nodes if node.name in reasons}
    return Islands(in_order, gate.trials, search.verdict, search.minimal, ranges)


class _Gate:
    """The caller's gate: asked about sets of islands, once about each."""

    def __init__(
        self,
        model: ModelProto,
        passes: Callable[[ModelProto], Verdict],
        dtype: Half,
        io: Io,
        say: Callable[[str], None],
    ) -> None:
        self._model, self._passes, self._dtype, self._io, self._say = model, passes, dtype, io, say
        self._asked: dict[frozenset[str], Verdict] = {}

    @property
    def trials(self) -> int:
        return len(self._asked)

    def ask(self, keep: Collection[str]) -> Verdict:
        islands = frozenset(keep)
        if islands not in self._asked:
            verdict = self._passes(emulated(self._model, dtype=self._dtype, keep=islands, io=self._io))
            self._asked[islands] = verdict
            outcome = "passes" if verdict.passed else "fails"
            self._say(f"trial {self.trials}: {len(islands)} FP32 nodes, {outcome}: {verdict.reason}")
        return self._asked[islands]

    def known(self, keep: Collection[str]) -> Verdict | None:
        """The verdict, if it was asked for before."""
        return self._asked.get(frozenset(keep))


class _Elimination:
    """From a set of islands that passes to a 1-minimal one; at every moment the set that is left passes."""

    def __init__(self, gate: _Gate, fixed: list[str], groups: list[list[str]], verdict: Verdict) -> None:
        self.verdict = verdict
        self._gate, self._fixed, self._groups = gate, fixed, groups
        self._left = _all(groups)

    def run(self) -> None:
        """Give back whole groups first, the cheapest first, then ever smaller parts, at last single nodes."""
        for group in reversed(self._groups):
            self._give_back(group)
        while not self.minimal and self._gate.trials < MAX_TRIALS:
            for name in list(self._left):
                self._try_without([name])

    @property
    def minimal(self) -> bool:
        return all(self._gate.known(self._without([name])) for name in self._left)

    def reasons(self) -> dict[str, str]:
        verdicts = {name: self._gate.known(self._without([name])) for name in self._left}
        untried = "the gate passes with it, and was not asked without it"
        return {name: f"without it, {found.reason}" if found else untried for name, found in verdicts.items()}

    def _without(self, names: list[str]) -> list[str]:
        return [*self._fixed, *(name for name in self._left if name not in names)]

    def _give_back(self, names: list[str]) -> None:
        if self._try_without(names) or len(names) == 1:
            return
        middle = len(names) // 2
        self._give_back(names[:middle])
        self._give_back(names[middle:])

    def _try_without(self, names: list[str]) -> bool:
        """Whether the gate passes without these; then they are gone."""
        islands = self._without(names)
        if self._gate.trials >= MAX_TRIALS and not self._gate.known(islands):
            return False
        verdict = self._gate.ask(islands)
        if verdict.passed:
            self.verdict = verdict
            self._left = [name for name in self._left if name not in names]
        return verdict.passed


def _unfit(node: NodeProto, ranges: dict[str, Range], dtype: Half) -> str:
    """Why a node cannot be half, or an empty string."""
    touched = {f"its output {name}": name for name in node.output}
    touched |= {f"its input {name}": name for name in node.input}
    touched |= {key: key for key in ranges if key.startswith(inside(node.name))}
    for what, key in touched.items():
        found = ranges.get(key)
        if found is None:
            continue
        if found.max_abs > LARGEST[dtype] / (1 if found.constant else HEADROOM):
            return f"{what} reaches {found.max_abs:,.5g}"
        if dtype == "fp16" and found.share_underflow > MOSTLY:
            return f"{found.share_underflow:.0%} of {what} lies below {SMALLEST_NORMAL[dtype]:.2g}"
    return ""


def _costliest_first(
    model: ModelProto,
    rows: NDArray[np.float32],
    nodes: list[NodeProto],
    keep: Collection[str],
    dtype: Half,
    io: Io,
    say: Callable[[str], None],
) -> list[list[str]]:
    """Nodes that may be half, by operator, in the order of the largest change of an answer with only that one half."""
    groups: dict[str, list[str]] = {}
    for node in nodes:
        if node.name not in keep:
            groups.setdefault(node.op_type, []).append(node.name)
    expected = _answers(model, rows)
    costs: dict[str, float] = {}
    for operator, names in groups.items():
        others = {node.name for node in nodes} - set(names)
        drift = float(np.abs(_answers(emulated(model, dtype=dtype, keep=others, io=io), rows) - expected).max())
        costs[operator] = drift if np.isfinite(drift) else np.inf
        say(f"{operator} alone in {dtype} ({len(names)} nodes) moves an answer by {costs[operator]:.3g}")
    return [groups[operator] for operator in sorted(groups, key=lambda name: (-costs[name], name))]


def _all(groups: list[list[str]]) -> list[str]:
    return [name for group in groups for name in group]


def _answers(model: ModelProto, rows: NDArray[np.float32]) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    return np.concatenate([session.run(None, {given.name: row[None]})[0] for row in rows])
