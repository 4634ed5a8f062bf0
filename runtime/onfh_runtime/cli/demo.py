"""``onfh demo``: the whole way on a phantom, to see it work."""

from __future__ import annotations

import argparse
from pathlib import Path

from onfh_runtime.cli.infer import demo_bundle, run_infer

__all__ = ["HELP", "add_arguments", "run"]

DEMO_SEED = 7
"""A patient with a large lesion on one side, so that the report has something to show."""

HELP = "Make a phantom study (CT of the hips, as DICOM), analyse it with the demo bundle and say where the report is."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``onfh demo``."""
    parser.add_argument("--out", metavar="DIR", type=Path, default=Path("onfh-demo"), help="default: %(default)s")
    parser.add_argument(
        "--seed", type=int, default=DEMO_SEED, help="another seed, another patient (default: %(default)s)"
    )


def run(options: argparse.Namespace) -> int:
    """Run ``onfh demo``."""
    from onfh_runtime.phantom import write_demo_study

    print("Making a phantom study (120 axial slices of 512 x 512, and the same as 3 mm coronal slices) ...", flush=True)
    study = options.out / "study"
    write_demo_study(study, seed=options.seed)
    print(f"  {study}\nAnalysing it ...", flush=True)
    report = run_infer([study], options.out / "results", bundle=demo_bundle(), backend="auto")
    preferred = [result for result in report.results if result.preferred]
    if preferred:
        page = report.folders[preferred[0].series_instance_uid, preferred[0].part] / "report.html"
        print(f"\nOpen the report in a browser: {page.resolve().as_uri()}")
    return report.exit_code
