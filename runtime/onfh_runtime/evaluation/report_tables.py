"""The tables of an evaluation, made from its JSON document alone and drawn alike on the page and in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from onfh_runtime.evaluation.report_words import (
    DASH,
    Cell,
    area,
    interval,
    number,
    p_value,
    rate,
    signed,
    spread,
    text,
)

__all__ = [
    "LEVELS",
    "POOLS",
    "Table",
    "calibration_table",
    "cases_to_look_at",
    "group_name",
    "level_table",
    "not_joined_table",
    "paired_rows",
    "segmentation_table",
    "summary_lines",
]

Document = Mapping[str, Any]

LEVELS = {"patient": "Patients", "side": "Hips", "slice": "Slices"}
POOLS = {"all": "", "internal": "pooled", "external": "pooled"}
"""Kinds of groups that are no single site, and what stands beside their names: a site may be called external too."""

_INTERVALS = {"patient": "wilson", "side": "bootstrap", "slice": "bootstrap"}
_LOOK = 50
_COUNTED = ("studies", "series", "slices", "patients")


@dataclass(frozen=True)
class Table:
    """``rows`` are as long as ``columns``; the first column of a row names it."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""


def summary_lines(document: Document) -> list[tuple[str, str]]:
    """What was evaluated, by name: bundle, thresholds, how much was joined, how it was drawn."""
    joined, frozen, bundle = document["joined"], document["thresholds"], document["bundle"]
    lines = []
    if bundle is not None:
        lines.append(("Model bundle", f"{bundle['name']} {bundle['version']} ({bundle['sha256'][:12]})"))
    lines += [
        ("Evaluated", ", ".join(f"{joined[name]} {name}" for name in _COUNTED if joined.get(name) is not None)),
        ("Frozen thresholds", _thresholds(frozen)),
        ("Bootstrap", f"{document['rounds']} rounds over patients, seed {document['seed']}"),
        ("Software", f"{document['software']['name']} {document['software']['version']}"),
        ("Created", document["created"]),
    ]
    return lines


def level_table(level: str, groups: Sequence[Mapping[str, Any]]) -> Table:
    """One row a site or pool: how many, and every figure at the frozen threshold."""
    which = _INTERVALS[level]
    rows = tuple(
        (
            (group["name"], _kind(group)),
            text(group["n"]),
            _unanswered(group),
            rate(group["prevalence"], which),
            area(group["auc"], "delong" if level == "patient" else "bootstrap"),
            *(rate(group[name], which) for name in ("sensitivity", "specificity", "ppv", "npv")),
            area(group["brier"], "bootstrap"),
        )
        for group in groups
    )
    how = (
        "Intervals: Wilson for rates, DeLong for the AUC, bootstrap over patients for Brier."
        if level == "patient"
        else "Intervals: bootstrap over patients, each drawn with all of its units."
    )
    return Table(
        LEVELS[level],
        ("Group", "n", "No answer", "Prevalence", "AUC", "Sensitivity", "Specificity", "PPV", "NPV", "Brier"),
        rows,
        f"{how} 95%. PPV and NPV hold at this set's prevalence only.",
    )


def group_name(group: Mapping[str, Any]) -> str:
    """The name of a site or pool where it stands alone."""
    return f"{group['name']}, pooled" if POOLS.get(group["kind"]) else str(group["name"])


def calibration_table(level: str, groups: Sequence[Mapping[str, Any]]) -> Table | None:
    """What is predicted on average, what is seen, and the logistic fit; None where nothing was fitted."""
    fitted = [(group, group["calibration"]["fit"]) for group in groups if group["calibration"] is not None]
    rows = tuple(
        (
            (group["name"], _kind(group)),
            text(number(fit["mean_probability"])),
            text(number(fit["observed"])),
            *(_coefficient(fit[name]) for name in ("in_the_large", "intercept", "slope")),
        )
        for group, fit in fitted
        if fit is not None
    )
    if not rows:
        return None
    return Table(
        f"{LEVELS[level]}: calibration",
        ("Group", "Mean probability", "Observed", "In the large", "Intercept", "Slope"),
        rows,
        "In the large: 0 is ideal, below 0 the probabilities are too high. Slope: 1 is ideal, below 1 they are too "
        f"extreme. {DASH}: no finite fit exists, for the classes are apart or one is absent."
        + ("" if level == "patient" else " The intervals take units as independent, which those of a patient are not."),
    )


def segmentation_table(level: str, groups: Sequence[Mapping[str, Any]]) -> Table:
    """One row a site or pool: who outlined what, overlap, distances and volumes."""
    volumes = level == "volume"
    rows = tuple(
        (
            (group["name"], _kind(group)),
            text(group["n"]),
            text(group["both"]),
            text(group["missed"]),
            text(group["false"]),
            text(group["neither"]),
            spread(group["dice"], 3),
            *(spread(group[name], 2) for name in ("hd95_mm", "hd95_pooled_mm", "assd_mm")),
            *(
                (
                    spread(group["volume_error_mm3"], 0),
                    spread(group["relative_volume_error"], 1, 100.0),
                    spread(group["false_volume_mm3"], 0),
                )
                if volumes
                else ()
            ),
        )
        for group in groups
    )
    columns = ("Group", "n", "Both outline", "Missed", "False", "Neither", "Dice", "HD95, mm", "HD95 pooled, mm")
    more = ("Volume error, mm\u00b3", "Volume error, %", "False volume, mm\u00b3") if volumes else ()
    return Table(
        "Segmentation, whole volumes" if volumes else "Segmentation, slices",
        (*columns, "ASSD, mm", *more),
        rows,
        "Means with 95% intervals by bootstrap over patients. Dice is over truth-positive cases, the missed among them "
        "as 0; distances are over those that both outline. Figures of slices and of volumes are not comparable.",
    )


def not_joined_table(joined: Mapping[str, Any]) -> Table | None:
    """Reasons and counts of what was left out; None when nothing was."""
    rows = tuple(
        (text(reason.replace("_", " ")), text(what), text(count))
        for what, counts in (
            ("not joined", joined["not_joined_counts"]),
            ("series without an answer", joined["excluded"]),
            ("masks not compared", joined.get("masks_left_out", {})),
        )
        for reason, count in counts.items()
        if count
    )
    return Table("What was left out", ("Reason", "What", "Count"), rows) if rows else None


def cases_to_look_at(cases: Sequence[Mapping[str, Any]]) -> Table | None:
    """Patients whose answer is wrong, the most confidently wrong first; None when there is none."""
    wrong = [
        case
        for case in cases
        if case["label"] is not None and case["positive"] is not None and case["label"] != case["positive"]
    ]
    wrong.sort(key=lambda case: _confidence(case), reverse=True)
    rows = tuple(
        (
            text(case["patient"]),
            text(case["site"]),
            text("missed" if case["label"] else "false alarm"),
            text(number(case["probability"])),
            text(case["state"]),
            text(case["series"]),
        )
        for case in wrong[:_LOOK]
    )
    more = f" The first {_LOOK} of {len(wrong)}." if len(wrong) > _LOOK else ""
    if not rows:
        return None
    columns = ("Patient", "Site", "What", "Probability", "State", "Series")
    return Table("Patients with a wrong answer", columns, rows, f"The most confidently wrong first.{more}")


def paired_rows(entry: Mapping[str, Any] | None, name: str) -> Iterable[tuple[Cell, ...]]:
    """Sensitivity, specificity and AUC of two, each: name, figure, units, first, second, difference, p."""
    if entry is None:
        return
    for figure in ("sensitivity", "specificity"):
        found = entry[figure]
        if found is None:
            continue
        independent = found["mcnemar"] is not None
        which = "wilson" if independent else "bootstrap"
        counts = found["counts"]
        yield (
            text(name),
            text(figure),
            text(found["first"]["of"]),
            rate(found["first"], which),
            rate(found["second"], which),
            (
                f"{signed(100 * found['difference'], 1)} points",
                interval(found["tango" if independent else "bootstrap"], 1, 100.0),
            ),
            (
                p_value(found["mcnemar"]["p_mid"] if independent else None),
                f"only one right: {counts['only_first']} and {counts['only_second']}",
            ),
        )
    found = entry["auc"]
    if found is not None:
        delong = found["delong"]
        yield (
            text(name),
            text("AUC"),
            text(entry.get("scored", entry.get("n"))),
            *((number(found[who]["value"], 4), interval(found[who]["bootstrap"], 4)) for who in ("first", "second")),
            (signed(found["difference"], 4), interval((delong or {}).get("interval") or found["bootstrap"], 4)),
            text(p_value(None if delong is None else delong["p"])),
        )


def _unanswered(group: Mapping[str, Any]) -> Cell:
    """How many units had no answer; how many of them are positive, and what they could cost."""
    lost = group.get("unanswered")
    if not lost or not lost["n"]:
        return ("0" if lost else DASH, "")
    least = group["sensitivity_if_unanswered_missed"]["value"]
    said = "" if least is None else f"; sensitivity {100 * least:.1f}% if missed"
    return (str(lost["n"]), f"{lost['positives']} positive{said}")


def _thresholds(frozen: Mapping[str, Any]) -> str:
    """Results name no slice threshold: then it is told by what it parts."""
    between = frozen.get("slice_between")
    of_slice = number(frozen["slice"])
    if frozen["slice"] is None and between is not None:
        of_slice = f"between {number(between[0])} and {number(between[1])}"
    return f"slice {of_slice}, patient {number(frozen['patient'])}; from {frozen['source']}"


def _kind(group: Mapping[str, Any]) -> str:
    return POOLS.get(group["kind"], "site")


def _coefficient(entry: Mapping[str, Any] | None) -> Cell:
    if entry is None:
        return (DASH, "")
    return (number(entry["value"], 2), interval(entry["interval"], 2))


def _confidence(case: Mapping[str, Any]) -> float:
    probability = case["probability"]
    if probability is None:
        return 0.0
    return float(1 - probability if case["label"] else probability)
