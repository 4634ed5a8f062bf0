"""``onfh evaluate``: predictions and truth in, the study's tables out."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onfh_runtime.cli.progress import Progress
from onfh_runtime.errors import UsageError

if TYPE_CHECKING:
    from onfh_runtime.evaluation.join import Joined
    from onfh_runtime.evaluation.predictions import Predictions

__all__ = ["HELP", "add_arguments", "add_sources", "run"]

HELP = "Measure predictions against the truth: tables with confidence intervals, as JSON, Markdown and a page."

NOTHING_JOINED = 3


def add_sources(parser: argparse.ArgumentParser) -> None:
    """Declare what ``onfh evaluate`` and ``onfh calibrate`` both read."""
    parser.add_argument(
        "predictions", metavar="PREDICTIONS", type=Path, help="a folder `onfh infer` wrote, or a CSV of probabilities"
    )
    parser.add_argument("truth", metavar="TRUTH", type=Path, help="a CSV of labels, and of masks where there are some")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``onfh evaluate``."""
    add_sources(parser)
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="where the report goes")
    parser.add_argument("--readers", metavar="CSV", type=Path, help="what readers said of the same patients or slices")
    parser.add_argument("--against", metavar="OTHER", type=Path, help="another run on the same cases, to compare with")
    parser.add_argument("--rounds", type=int, default=2000, metavar="N", help="of the bootstrap (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the bootstrap (default: %(default)s)")
    parser.add_argument(
        "--slice-threshold",
        type=float,
        metavar="P",
        help="for a CSV, or to call anew (default: the results' own)",
    )
    parser.add_argument("--patient-threshold", type=float, metavar="P", help="the same for patients")
    parser.add_argument(
        "--top-k", type=int, metavar="K", help="a CSV's patient probability is the mean of its K most probable slices"
    )
    parser.add_argument("--json", action="store_true", help="print the document to stdout and nothing else")


def run(options: argparse.Namespace) -> int:
    """Run ``onfh evaluate``; 3 when nothing could be joined."""
    if options.rounds < 1 or options.seed < 0:
        raise UsageError("wrong_rounds", f"--rounds {options.rounds} --seed {options.seed} cannot be drawn.")
    from onfh_runtime.evaluation.join import join
    from onfh_runtime.evaluation.segmentation import measured_series
    from onfh_runtime.evaluation.tables import evaluation_document
    from onfh_runtime.evaluation.truth import read_truth
    from onfh_runtime.outputs.files import ensure_writable

    ensure_writable(options.out)
    truth = read_truth(options.truth)
    predictions = _read(options.predictions, options, options.top_k)
    joined = join(predictions, truth)
    if not len(joined.slices.labels) and all(patient.state is None for patient in joined.patients):
        print(_nothing(joined), file=sys.stderr)
        return NOTHING_JOINED
    drawn = {"rounds": options.rounds, "seed": options.seed}
    readers = against = None
    if options.readers is not None:
        from onfh_runtime.evaluation.readers import read_and_compare

        readers = read_and_compare(options.readers, joined, **drawn)
    if options.against is not None:
        from onfh_runtime.evaluation.against import compared_runs

        other = _read(options.against, options, options.top_k if options.against.is_file() else None)
        against = compared_runs(predictions, other, joined, join(other, truth), **drawn)
    progress = Progress("masks")
    try:
        if truth.masks and not options.json:
            progress.start(len(joined.series))
        masks = measured_series(joined, masks=truth.masks, progress=progress.advance)
    finally:
        progress.close()
    document = evaluation_document(joined, predictions, masks, readers=readers, against=against, **drawn)
    _write(document, options.out)
    if options.json:
        json.dump(document, sys.stdout, indent=1, allow_nan=False)
        print()
    else:
        print(_summary(document))
        print(f"Report: {options.out / 'evaluation.html'}. Research use only.")
    return 0


def _read(source: Path, options: argparse.Namespace, top_k: int | None) -> Predictions:
    """Read a run at the thresholds of the command line."""
    from onfh_runtime.evaluation.predictions import read_predictions

    return read_predictions(
        source,
        slice_threshold=options.slice_threshold,
        patient_threshold=options.patient_threshold,
        top_k=top_k,
    )


def _write(document: dict[str, Any], out: Path) -> None:
    """The page and the Markdown first, the JSON last: a folder that has one is whole."""
    from onfh_runtime.evaluation.report_html import page
    from onfh_runtime.evaluation.report_md import markdown
    from onfh_runtime.outputs.files import write_atomically

    texts = {
        "evaluation.md": markdown(document),
        "evaluation.html": page(document),
        "evaluation.json": json.dumps(document, indent=1, allow_nan=False) + "\n",
    }
    for name in texts:
        (out / name).unlink(missing_ok=True)
    for name, text in texts.items():
        write_atomically(out / name, text.encode())


def _nothing(joined: Joined) -> str:
    reasons = {**joined.not_joined_counts, **joined.excluded}
    listed = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
    return f"Nothing could be joined: {listed or 'the truth is empty'}. Are both of the same studies?"


def _summary(document: dict[str, Any]) -> str:
    """The main table: one line for each level and group."""
    lines = [f"{'':8} {'group':16} {'n':>6} {'pos':>6} {'AUC':>6} {'sens':>7} {'spec':>7} {'NPV':>7}"]
    for level, entry in document["levels"].items():
        for group in entry["groups"]:
            auc = "-" if group["auc"] is None else f"{group['auc']['value']:.3f}"
            rates = " ".join(f"{_percent(group[name]):>7}" for name in ("sensitivity", "specificity", "npv"))
            lines.append(f"{level:8} {group['name']:16} {group['n']:6} {group['positives']:6} {auc:>6} {rates}")
    for level, entry in (document["segmentation"] or {}).items():
        for group in entry["groups"]:
            figures = ", ".join(
                f"{label} {group[name]['mean']:.{digits}f}"
                for label, name, digits in (("Dice", "dice", 3), ("HD95 mm", "hd95_mm", 2))
                if group[name] is not None
            )
            lines.append(
                f"masks by {level}, {group['name']}: {figures or 'nothing outlined'}, missed {group['missed']}"
            )
    left = {**document["joined"]["not_joined_counts"], **document["joined"]["excluded"]}
    if left:
        lines.append("Left out: " + ", ".join(f"{count} {reason}" for reason, count in sorted(left.items())) + ".")
    return "\n".join(lines)


def _percent(rate: dict[str, Any]) -> str:
    return "-" if rate["value"] is None else f"{100 * rate['value']:.1f}%"
