"""``onfh inspect``: what is in a bundle, whether it is whole, and what it would run on here."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onfh_runtime.bundle import Graph, LoadedBundle, Stage
    from onfh_runtime.engines import Machine

__all__ = ["HELP", "add_arguments", "run"]

HELP = (
    "Say what is in a bundle, check every file against its hash, open both stages on this machine, and say which plans "
    "fit it and why others do not."
)
OPERATORS = 6
"""The most frequent operators of a graph that its line names."""
WIDTH = 11


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``onfh inspect``."""
    parser.add_argument("bundle", metavar="BUNDLE", type=Path, help="the folder `onfh export` wrote")


def run(options: argparse.Namespace) -> int:
    """Run ``onfh inspect``; what is wrong with the bundle ends as an OnfhError."""
    from onfh_runtime.bundle import load_bundle
    from onfh_runtime.engines import this_machine
    from onfh_runtime.stages import open_runner

    bundle = load_bundle(options.bundle)
    print("\n".join([*describe(bundle), *describe_plans(bundle, this_machine())]))
    for stage in ("classifier", "segmenter"):
        runner = open_runner(bundle, "classifier" if stage == "classifier" else "segmenter")
        print(f"{stage:{WIDTH}} opens on {runner.backend.name} ({runner.backend.precision}, {runner.backend.device})")
        runner.close()
    return 0


def describe(bundle: LoadedBundle) -> list[str]:
    """The bundle's content in lines for a reader; its files were verified when it was loaded."""
    content = bundle.content
    rule, gate, limits = content.patient_rule, content.gate, content.parity
    files = [(name, (bundle.root / name).stat().st_size) for name in content.files]
    lines = [
        f"{content.name} {content.version}  sha256 {bundle.sha256}",
        content.description,
        *(f"! {notice}" for notice in content.notices),
        f"coronal slices every {content.slice_spacing_mm:g} mm, heads +- {content.coverage.margin_mm:g} mm, "
        + ("whole" if (beyond := content.coverage.in_plane_mm) is None else f"cut {beyond:g} mm beyond the heads"),
        *_stage_lines("classifier", content.classifier),
        *_stage_lines("segmenter", content.segmenter),
        f"gate        probability >= {gate.threshold:.4f}"
        + (f", at most {gate.max_slices} slices" if gate.max_slices else ""),
        f"slice       positive from {content.slice_threshold:.4f}",
        f"patient     mean of the {rule.k} most probable slices, positive from {rule.threshold:.4f}",
        f"mask        probability >= {content.mask_threshold:g}, a side counts from {content.minimum_volume_mm3:g} mm3",
        f"parity      at most {limits.patient_flips} patients and {limits.slice_flips:.1%} of slices flipped, a "
        f"probability moved by {limits.probability_drift:g}, an AUC by {limits.auc_change:g}; Dice between masks at "
        f"least {limits.mask_dice:g}",
        *(f"provenance  {key}: {value}" for key, value in content.provenance.items()),
        *(f"file        {name}  {size / 1e6:.1f} MB  verified" for name, size in files),
    ]
    return [line for line in lines if line]


def describe_plans(bundle: LoadedBundle, machine: Machine) -> list[str]:
    """A line for each plan of the bundle: what it is, and whether this machine runs it."""
    from onfh_runtime.engines import read_plans, unfit

    lines = []
    for plan in read_plans(bundle.root):
        name = plan.path.relative_to(bundle.root).as_posix()
        reason = unfit(plan, machine, bundle.content.files)
        verdict = "fits this machine" if reason is None else f"does not fit: {reason.text} [{reason.code}]"
        what = ""
        if plan.facts is not None:
            batches = ", ".join(f"{least} to {most}" for least, _, most in plan.facts.profiles)
            what = f"{plan.facts.precision}, batch {batches}, {plan.facts.half_share:.0%} half, "
        lines.append(f"plan        {name}  {plan.path.stat().st_size / 1e6:.1f} MB  {what}{verdict}")
    gpus = ", ".join(f"{gpu.name} ({gpu.target})" for gpu in machine.gpus) or "no NVIDIA GPU"
    flavours = ", ".join(f"{name} {version}" for name, version in machine.flavours.items()) or "no TensorRT"
    return [*lines, f"here        {gpus}; {flavours}"]


def _stage_lines(name: str, stage: Stage) -> Iterator[str]:
    spec = stage.input
    windows = ", ".join(f"W{w.width:g}/L{w.center:g}" for w in spec.windows)
    yield (
        f"{name:{WIDTH}} {stage.architecture}, {spec.size[0]} x {spec.size[1]}, {windows}, "
        f"pixels >= {spec.min_pixel_spacing_mm:g} mm, {'/'.join(sorted(stage.models))}, batch <= {stage.max_batch}"
    )
    for precision, graph in stage.graphs.items():
        yield from _graph_lines(precision, graph)


def _graph_lines(precision: str, graph: Graph) -> Iterator[str]:
    frequent = list(graph.operators.items())
    shown = ", ".join(f"{count} {operator}" for operator, count in frequent[:OPERATORS])
    rest = sum(count for _, count in frequent[OPERATORS:])
    yield (
        f"  {precision:{WIDTH - 2}} {graph.gmac:.2f} GMAC a slice, {graph.parameters / 1e6:.2f} M weights and tables, "
        f"opset {graph.opset}, {graph.nodes} nodes: {shown}" + (f", {rest} others" if rest else "")
    )
    if precision == "int8":
        yield f"  {'':{WIDTH - 2}} weights of eight bits, activations rounded to eight bits as they come; for a CPU"
    elif precision != "fp32":
        islands = f"{len(graph.islands)} nodes stay FP32" if graph.islands else "no node stays FP32"
        yield f"  {'':{WIDTH - 2}} {graph.half_share:.1%} of its activations are half, {islands}"
        for island in graph.islands:
            yield f"  {'':{WIDTH - 2}} FP32 {island.node} ({island.operator}): {island.reason}"
    for rewrite, figure in graph.rewrites.items():
        yield f"  {'':{WIDTH - 2}} {rewrite}: {figure}"
