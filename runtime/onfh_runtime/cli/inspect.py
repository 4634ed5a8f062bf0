"""``onfh inspect``: what is in a bundle, and whether it is whole."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onfh_runtime.bundle import LoadedBundle, Stage

__all__ = ["HELP", "add_arguments", "run"]

HELP = "Say what is in a bundle, check every file against its hash, and open both stages on this machine."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``onfh inspect``."""
    parser.add_argument("bundle", metavar="BUNDLE", type=Path, help="the folder `onfh export` wrote")


def run(options: argparse.Namespace) -> int:
    """Run ``onfh inspect``; what is wrong with the bundle ends as an OnfhError."""
    from onfh_runtime.bundle import load_bundle
    from onfh_runtime.stages import open_runner

    bundle = load_bundle(options.bundle)
    print(describe(bundle))
    for stage in ("classifier", "segmenter"):
        runner = open_runner(bundle, "classifier" if stage == "classifier" else "segmenter")
        print(f"{stage:11} opens on {runner.backend.name} ({runner.backend.precision}, {runner.backend.device})")
        runner.close()
    return 0


def describe(bundle: LoadedBundle) -> str:
    """The bundle's content in lines for a reader; its files were verified when it was loaded."""
    content = bundle.content
    rule, gate = content.patient_rule, content.gate
    lines = [
        f"{content.name} {content.version}  sha256 {bundle.sha256}",
        content.description,
        *(f"! {notice}" for notice in content.notices),
        f"coronal slices every {content.slice_spacing_mm:g} mm, heads +- {content.coverage.margin_mm:g} mm, "
        + ("whole" if (beyond := content.coverage.in_plane_mm) is None else f"cut {beyond:g} mm beyond the heads"),
        _stage_line("classifier", content.classifier),
        _stage_line("segmenter", content.segmenter),
        f"gate        probability >= {gate.threshold:.4f}"
        + (f", at most {gate.max_slices} slices" if gate.max_slices else ""),
        f"slice       positive from {content.slice_threshold:.4f}",
        f"patient     mean of the {rule.k} most probable slices, positive from {rule.threshold:.4f}",
        f"mask        probability >= {content.mask_threshold:g}, a side counts from {content.minimum_volume_mm3:g} mm3",
        *(f"provenance  {key}: {value}" for key, value in content.provenance.items()),
        *(
            f"file        {name}  {(bundle.root / name).stat().st_size / 1e6:.1f} MB  verified"
            for name in content.files
        ),
    ]
    return "\n".join(line for line in lines if line)


def _stage_line(name: str, stage: Stage) -> str:
    spec = stage.input
    windows = ", ".join(f"W{w.width:g}/L{w.center:g}" for w in spec.windows)
    return (
        f"{name:11} {stage.architecture}, {spec.size[0]} x {spec.size[1]}, {windows}, "
        f"pixels >= {spec.min_pixel_spacing_mm:g} mm, {'/'.join(sorted(stage.models))}, batch <= {stage.max_batch}"
    )
