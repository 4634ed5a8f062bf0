"""What the parity gate found: ``parity.json``, a table, and a section of the model card."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from onfh_export.parity import Comparison, Kind, Near, Parity
from onfh_export.parity_compare import Pooled, StudyDifference
from onfh_export.parity_limits import Breach
from onfh_export.reference import Reference
from onfh_runtime import __version__
from onfh_runtime.bundle import Bundle, ParityLimits
from onfh_runtime.evaluation.paired import MaskPair

__all__ = ["SCHEMA", "parity_document", "parity_section", "parity_table", "says_little"]

SCHEMA = "onfh-parity/1"
SHOWN = 8
"""Studies a line names before it counts the rest."""
_LIBRARIES = ("numpy", "onnx", "onnxruntime", "torch", "transformers")
_KINDS: dict[Kind, str] = {
    "reference": "What the other columns are judged by.",
    "computed": "Computed on the CPU in the precision it names.",
    "emulated": "No half arithmetic: FP32 kernels on this CPU with every half tensor rounded to half where it is "
    "stored. Shows rounding and overflow between operators, not the accumulation inside one.",
    "engine": "Ran on the accelerator it names.",
}


def parity_document(
    parity: Parity, reference: Reference, rules: Bundle, found: Sequence[Breach], *, drift_accepted: bool = False
) -> dict[str, Any]:
    """The content of ``parity.json``: JSON values only, no path, no patient's name, nothing that is not finite.

    ``accepted`` is whether export may go on: no limit is breached, or ``drift_accepted`` says that somebody took the
    breaches upon themselves.

    Args:
        parity: every column against the first.
        reference: the studies they answered.
        rules: thresholds and limits.
        found: what :func:`~onfh_export.parity_limits.breaches` returned.
        drift_accepted: whether breaches were overridden.
    """
    columns = [parity.reference, *(comparison.column for comparison in parity.comparisons)]
    return {
        "schema": SCHEMA,
        "accepted": not found or drift_accepted,
        "drift_accepted": bool(found) and drift_accepted,
        "breaches": [{**asdict(breach), "studies": list(breach.studies)} for breach in found],
        "limits": rules.parity.model_dump(mode="json"),
        "thresholds": {
            "gate": rules.gate.threshold,
            "slice": rules.slice_threshold,
            "patient": rules.patient_rule.threshold,
            "mask": rules.mask_threshold,
            "minimum_component_mm3": rules.minimum_component_mm3,
            "minimum_volume_mm3": rules.minimum_volume_mm3,
        },
        "reference": {
            "kind": reference.kind,
            "seed": reference.seed,
            "studies": len(reference.studies),
            "slices": sum(len(study.prepared.seen.hu) for study in reference.studies),
            "with_truth": sum(study.truth is not None for study in reference.studies),
            "refused_series": reference.refused,
            "masks_compared": _masks_compared(parity),
            "probabilities": _range(parity),
        },
        "columns": [{**asdict(column), "evidence": _KINDS[column.kind]} for column in columns],
        "comparisons": [_comparison(comparison) for comparison in parity.comparisons],
        "nearest_slices": [_near(case) for case in parity.slices],
        "nearest_patients": [_near(case) for case in parity.patients],
        "software": {"onfh-edge": __version__, **_versions()},
    }


def says_little(parity: Parity, limits: ParityLimits) -> list[str]:
    """Sentences on what these studies cannot show, whatever the limits say."""
    said, seen = [], _range(parity)
    if seen is not None and seen[1] - seen[0] <= limits.probability_drift:
        said.append(
            f"Stage 1 gives every slice the same probability, {seen[0]:.3g} to {seen[1]:.3g}, so nothing is known of"
            " its answers. An untrained network does so, and one whose activation or positive_class is another."
        )
    if not _masks_compared(parity):
        said.append("Stage 2 outlined nothing on any of these studies, so nothing is known of its masks.")
    return said


def _range(parity: Parity) -> list[float] | None:
    """The least and the greatest probability that the reference gave a slice; None when it gave none."""
    given = [study.probabilities[0] for comparison in parity.comparisons[:1] for study in comparison.studies]
    found = np.concatenate(given) if given else np.zeros(0, np.float32)
    return [float(found.min()), float(found.max())] if found.size else None


def _masks_compared(parity: Parity) -> int:
    """Studies on which stage 2 outlined something in some column; with none, nothing is known of its masks."""
    return max(
        (comparison.pooled.studies - comparison.pooled.both_empty for comparison in parity.comparisons), default=0
    )


def parity_table(parity: Parity, limits: ParityLimits) -> str:
    """Markdown that reads well on a terminal too: a row for each figure, a column for each comparison."""
    found = [(comparison, comparison.pooled) for comparison in parity.comparisons]
    heads = [f"against {parity.reference.name}", *(_head(comparison) for comparison, _ in found), "limit"]
    rows = [[name, *(cell(each) for _, each in found), limit] for name, cell, limit in _rows(limits)]
    rows.append(["studies without a probability", *(str(len(comparison.failed)) for comparison, _ in found), "0"])
    widths = [max(len(line[place]) for line in (heads, *rows)) for place in range(len(heads))]
    lines = [heads, ["-" * width for width in widths], *rows]
    return "".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |\n"
        for line in lines
    )


def parity_section(
    parity: Parity,
    reference: Reference,
    limits: ParityLimits,
    found: Sequence[Breach],
    *,
    drift_accepted: bool = False,
    picture: str | None = None,
) -> str:
    """The model card's section, Markdown. ``picture`` is the name of the plots' file beside the card."""
    slices = sum(len(study.prepared.seen.hu) for study in reference.studies)
    what = (
        f"{len(reference.studies)} phantoms (seed {reference.seed})"
        if reference.kind == "phantoms"
        else f"{len(reference.studies)} studies of a folder"
    )
    parts = [
        "## Parity\n",
        f"Every column answered the same {what}, {slices} slices, through the runtime's own code. "
        "Phantoms and few studies show drift of the arithmetic, never clinical performance.\n"
        if reference.kind == "phantoms"
        else f"Every column answered the same {what}, {slices} slices, through the runtime's own code.\n",
        parity_table(parity, limits),
        "".join(f"- {comparison.column.name}: {_KINDS[comparison.column.kind]}\n" for comparison in parity.comparisons),
    ]
    if found:
        taken = "These breaches of the limits were accepted with `--accept-drift`:" if drift_accepted else "Breaches:"
        parts.append(taken + "\n\n" + "".join(f"- {breach_line(breach)}\n" for breach in found))
    else:
        parts.append("No limit is breached.\n")
    parts += [f"**{sentence}**\n" for sentence in says_little(parity, limits)]
    if picture is not None:
        parts.append(f"![Probabilities, drift, Dice and volume of the reference studies]({picture})\n")
    parts.append("`parity.json` holds every study and the ten cases nearest each threshold.\n")
    return "\n".join(parts)


def breach_line(breach: Breach) -> str:
    """One line: what, how far, and which studies."""
    allowed = "" if breach.allowed is None else f" Allowed: {breach.allowed:g}."
    more = len(breach.studies) - SHOWN
    names = ", ".join(breach.studies[:SHOWN]) + (f" and {more} more" if more > 0 else "")
    return f"{breach.text}{allowed} Look at: {names}."


def _head(comparison: Comparison) -> str:
    column = comparison.column
    return f"{column.name} (emulated)" if column.kind == "emulated" else column.name


def _rows(limits: ParityLimits) -> list[tuple[str, Callable[[Pooled], str], str]]:
    return [
        ("patients whose answer changes", lambda p: f"{p.patient_flips} of {p.studies}", str(limits.patient_flips)),
        ("sides whose state changes", lambda p: str(p.side_flips), str(limits.side_flips)),
        ("slices across the threshold", lambda p: f"{p.slice_flips} of {p.slices}", f"{limits.slice_flips:.2%}"),
        ("slices across the gate", lambda p: f"{p.gate_flips} of {p.slices}", ""),
        ("largest change of a probability", lambda p: f"{p.largest_drift:.1e}", f"{limits.probability_drift:g}"),
        ("mean change of a probability", lambda p: f"{p.mean_drift:.1e}", ""),
        ("slice AUC (change)", lambda p: _change(p.slice_auc, 4), f"{limits.auc_change:g}"),
        ("patient AUC (change)", lambda p: _change(p.patient_auc, 4), f"{limits.auc_change:g}"),
        ("Dice between masks, all studies", lambda p: _number(p.outlined.dice, 5), f"{limits.mask_dice:g}"),
        ("the same after the rules", lambda p: _number(p.reported.dice, 5), f"{limits.mask_dice:g}"),
        ("least Dice of a study", lambda p: _number(p.least_dice, 5), f"{limits.mask_dice:g}"),
        ("outlined by only one", lambda p: f"{p.one_empty} of {p.studies}", ""),
        ("volume drift", lambda p: _volume(p.outlined), ""),
        ("Dice with truth (change)", lambda p: _change(p.truth_dice, 4), ""),
        ("HD95 with truth, mm (change)", lambda p: _change(p.truth_hd95_mm, 2), ""),
        ("true slices not outlined", lambda p: f"{p.missed_slices[0]} -> {p.missed_slices[1]}", ""),
    ]


def _change(pair: tuple[float, float] | None, digits: int) -> str:
    return "-" if pair is None else f"{pair[0]:.{digits}f} ({pair[1] - pair[0]:+.{digits}f})"


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _volume(pair: MaskPair) -> str:
    share = "" if pair.drift_percent is None else f" ({pair.drift_percent:+.3f}%)"
    return f"{pair.drift_mm3:+.1f} mm3{share}"


def _comparison(comparison: Comparison) -> dict[str, Any]:
    found = comparison.pooled
    return {
        "column": comparison.column.name,
        "pooled": {
            **{
                name: getattr(found, name)
                for name in (
                    "studies",
                    "slices",
                    "slice_flips",
                    "gate_flips",
                    "patient_flips",
                    "side_flips",
                    "largest_drift",
                    "mean_drift",
                    "least_dice",
                    "both_empty",
                    "one_empty",
                    "truth_studies",
                )
            },
            "slice_auc": _pair(found.slice_auc),
            "patient_auc": _pair(found.patient_auc),
            "outlined": _masks(found.outlined),
            "reported": _masks(found.reported),
            "truth_dice": _pair(found.truth_dice),
            "truth_hd95_mm": _pair(found.truth_hd95_mm),
            "true_slices_not_outlined": _pair(found.missed_slices),
        },
        "failed": [{"study": study, "text": text} for study, text in comparison.failed],
        "studies": [_study(study) for study in comparison.studies],
    }


def _study(study: StudyDifference) -> dict[str, Any]:
    truth = study.against_truth
    return {
        "study": study.study,
        "slices": len(study.drift),
        "slice_flips": list(study.slice_flips),
        "gate_flips": list(study.gate_flips),
        "patient_state": {"reference": study.states[0], "column": study.states[1]},
        "patient_probability": _pair(study.patients),
        "side_flips": list(study.side_flips),
        "largest_drift": study.largest_drift,
        "outlined": _masks(study.outlined),
        "reported": _masks(study.reported),
        "truth": None
        if truth is None
        else {
            "dice": _pair(truth.dice),
            "hd95_mm": _pair(truth.hd95_mm),
            "hd95_slices": truth.compared,
            "slices_not_outlined": _pair(truth.missed),
        },
    }


def _pair(pair: tuple[float, float] | None) -> dict[str, float] | None:
    if pair is None:
        return None
    return {"reference": pair[0], "column": pair[1], "change": pair[1] - pair[0]}


def _masks(pair: MaskPair) -> dict[str, Any]:
    return {
        "dice": pair.dice,
        "voxels": {"reference": pair.reference, "column": pair.other, "shared": pair.shared},
        "volume_mm3": _pair(pair.volumes_mm3),
        "volume_drift_percent": pair.drift_percent,
    }


def _near(case: Near) -> dict[str, Any]:
    index = {} if case.index is None else {"slice": case.index}
    return {"study": case.study, **index, "probabilities": case.probabilities, "distance": case.distance}


def _versions() -> dict[str, str]:
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
