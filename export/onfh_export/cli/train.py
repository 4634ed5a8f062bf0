"""``onfh train``: both stages from a folder of labelled slices, or from phantoms made first."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import replace
from pathlib import Path

from onfh_export.dataset import read_cases
from onfh_export.extras import require_export_extra
from onfh_export.recipe import Recipe, smoke_recipe
from onfh_runtime.errors import UsageError

__all__ = ["HELP", "add_arguments", "run"]

HELP = "train both stages from a folder of labelled slices and write a bundle"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    recipe = Recipe()
    parser.add_argument("data", type=Path, metavar="DATA", help="folder with cases.csv (see docs/training.md)")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="RUN", help="folder for checkpoints, metrics and bundle"
    )
    parser.add_argument(
        "--phantoms",
        nargs="?",
        type=int,
        const=recipe.patients_per_site,
        metavar="N",
        help=f"first write a phantom cohort to DATA: N patients for each of three sites (default "
        f"{recipe.patients_per_site}) and an external site; one that is already there is used",
    )
    parser.add_argument("--external", type=int, metavar="N", help="phantoms of the external site (default: as recipe)")
    parser.add_argument("--epochs-classifier", type=int, metavar="N", help=f"default: {recipe.fit_classifier.epochs}")
    parser.add_argument("--epochs-segmenter", type=int, metavar="N", help=f"default: {recipe.fit_segmenter.epochs}")
    parser.add_argument("--seed", type=int, metavar="N", help=f"default: {recipe.seed}")
    parser.add_argument("--name", default="onfh-demo", help="name of the bundle (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="processes that prepare (default: 2)")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, metavar="N", help="default: every core")
    parser.add_argument("--smoke", action="store_true", help="tiny networks, a few phantoms, under a minute: a check")
    parser.add_argument("--force", action="store_true", help="replace RUN/bundle")


def run(args: argparse.Namespace) -> int:
    """Run the command.

    Raises:
        MissingExtraError: the export extra is not installed.
        UsageError: wrong arguments or unusable data.
    """
    recipe = _recipe(args)
    if (args.out / "bundle").exists() and not args.force:
        raise UsageError(
            "bundle_exists", f"{args.out / 'bundle'} is already there.", "Choose another RUN, or add --force."
        )
    require_export_extra()
    if args.phantoms is not None or args.smoke:
        _write_phantoms(args, recipe)
    from onfh_export.training import train

    train(
        args.data, args.out, recipe, workers=args.workers, threads=args.threads, say=_say, name=args.name,
        parity_phantoms=2 if args.smoke else None, force=args.force,
    )  # fmt: skip
    return 0


def _recipe(args: argparse.Namespace) -> Recipe:
    recipe = smoke_recipe() if args.smoke else Recipe()
    for name in ("phantoms", "external", "epochs_classifier", "epochs_segmenter", "workers", "threads"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise UsageError("bad_argument", f"--{name.replace('_', '-')} must be at least 1.")
    if args.phantoms:
        recipe = replace(recipe, patients_per_site=args.phantoms)
    if args.external:
        recipe = replace(recipe, external_patients=args.external)
    if args.epochs_classifier:
        recipe = replace(recipe, fit_classifier=replace(recipe.fit_classifier, epochs=args.epochs_classifier))
    if args.epochs_segmenter:
        recipe = replace(recipe, fit_segmenter=replace(recipe.fit_segmenter, epochs=args.epochs_segmenter))
    return recipe if args.seed is None else replace(recipe, seed=args.seed)


def _write_phantoms(args: argparse.Namespace, recipe: Recipe) -> None:
    from onfh_runtime.phantom.cohort import cohort, write_cohort

    cases = cohort(recipe.cohort_seed, recipe.patients_per_site, recipe.external_patients)
    if (args.data / "cases.csv").exists():
        if {case.patient for case in read_cases(args.data, recipe.seed)} != {case.patient for case in cases}:
            raise UsageError(
                "cohort_differs",
                f"{args.data} holds other patients than the {len(cases)} phantoms asked for.",
                "Name an empty folder, or leave --phantoms out to train on what is there.",
            )
        _say(f"using the cohort in {args.data}")
        return
    _say(f"writing {len(cases)} phantoms to {args.data}")
    write_cohort(cases, args.data, workers=args.workers)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
