"""The tables of what was compared: readers, and another run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from onfh_runtime.evaluation.report_tables import LEVELS, Table, paired_rows
from onfh_runtime.evaluation.report_words import DASH, Cell, number, p_value, signed, spread, text

__all__ = ["against_tables", "reader_tables"]

_LISTED = 200
"""Flips of a level that a table names; the JSON document may hold more."""
_ALONE = {
    "only_this": "Only in this run",
    "only_other": "Only in the other run",
    "no_common_slice": "Without a slice in common",
}
_PAIRED_NOTE = (
    "Differences are {first} minus {second}. p: McNemar's mid-p, and DeLong's for the AUC, where every patient is one "
    f"unit; {DASH} where patients have several, and the interval is that of the bootstrap over patients. "
    "Small figures: 95% intervals and counts."
)


def reader_tables(readers: Mapping[str, Any]) -> list[Table]:
    """The model beside every reader per level, Dice of everybody with everybody, and reading times."""
    tables = []
    for level, entries in readers["levels"].items():
        rows = tuple(row for entry in entries for row in paired_rows(entry, entry["reader"]))
        if rows:
            tables.append(
                Table(
                    f"{LEVELS[level]}: the model and the readers",
                    ("Reader", "Figure", "n", "Model", "Reader's", "Difference", "p"),
                    rows,
                    "Every reader's units are the model's too: who read fewer is compared on fewer. "
                    + _PAIRED_NOTE.format(first="the model", second="the reader"),
                )
            )
        timed = tuple(
            (text(entry["reader"]), text(time["n"]), _time(time["median"]), _time(time["q1"], time["q3"]))
            for entry in entries
            if (time := entry["time_s"]) is not None
        )
        if timed:
            columns = ("Reader", "n", "Median", "Middle half")
            tables.append(Table(f"{LEVELS[level]}: reading time", columns, timed))
    if readers["masks"] is not None:
        rule = readers["masks"]["rule"]
        tables += [
            _matrix(f"Mean Dice of everybody with everybody, {what}", readers["masks"][of], rule)
            for what, of in (("whole volumes", "volume"), ("slices", "slice"))
        ]
    return tables


def against_tables(against: Mapping[str, Any]) -> list[Table]:
    """Counts of flips, tests, drift, masks, and every flip by name."""
    tables = [_flip_counts(against)]
    for level, tests in against["tests"].items():
        if tests is None:
            continue
        rows = tuple(row[1:] for row in paired_rows(tests, ""))
        if rows:
            columns = ("Figure", "n", "This run", "Other run", "Difference", "p")
            note = _PAIRED_NOTE.format(first="this run", second="the other run")
            tables.append(Table(f"{LEVELS[level]}: tests where truth is known", columns, rows, note))
    if against["drift"] is not None:
        tables.append(_drift(against["drift"]))
    if against["masks"] is not None:
        tables.append(_masks(against["masks"]))
    tables += [_flips(level, found) for level, found in against["flips"].items() if found["count"]]
    tables += [_listed(title, against[name]) for name, title in _ALONE.items() if against[name]["count"]]
    return tables


def _time(*seconds: float) -> Cell:
    return text(" to ".join(f"{number(value, 1)} s" for value in seconds))


def _matrix(title: str, masks: Mapping[str, Any], rule: str) -> Table:
    rows = tuple(
        (
            text(name),
            *(
                (number(value) if column != row else DASH, f"n {count}")
                for column, (value, count) in enumerate(zip(values, counts, strict=True))
            ),
        )
        for row, (name, values, counts) in enumerate(zip(masks["names"], masks["dice"], masks["n"], strict=True))
    )
    return Table(title, ("", *masks["names"]), rows, rule)


def _flip_counts(against: Mapping[str, Any]) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for level, found in against["flips"].items():
        if not found["of"]:
            continue
        tests = against["tests"].get(level)
        test = tests["calls"]["mcnemar"] if tests is not None else None
        rows.append(
            (
                text(LEVELS[level]),
                text(f"{found['count']} of {found['of']}"),
                text(DASH if tests is None else tests["calls"]["counts"]["only_first"]),
                text(DASH if tests is None else tests["calls"]["counts"]["only_second"]),
                text(p_value(None if test is None else test["p_mid"])),
            )
        )
    return Table(
        "Answers that differ",
        ("Level", "State differs", "Positive only now", "Positive only in the other run", "p"),
        tuple(rows),
        "p: McNemar's mid-p for calling positive equally often, where every patient is one unit.",
    )


def _drift(drift: Mapping[str, Any]) -> Table:
    rows = [
        ("slices", str(drift["n"])),
        ("unchanged to the last bit", str(drift["unchanged"])),
        ("mean change", _scientific(drift["mean"])),
        ("standard deviation", _scientific(drift["sd"])),
        ("mean absolute change", _scientific(drift["mean_absolute"])),
        ("95th percentile of the absolute change", _scientific(drift["p95_absolute"])),
        ("largest absolute change", _scientific(drift["max_absolute"])),
    ]
    return Table("Change of the slices' probabilities", ("Figure", "Value"), tuple((text(a), text(b)) for a, b in rows))


def _masks(masks: Mapping[str, Any]) -> Table:
    rows: list[tuple[Cell, Cell]] = [
        (text("series whose masks were compared"), text(masks["compared"])),
        (text("series whose masks could not be compared"), text(masks["not_compared"])),
        (text("both empty"), text(masks["both_empty"])),
        (text("outlined only now"), text(masks["only_this"])),
        (text("outlined only in the other run"), text(masks["only_other"])),
        (text("Dice between the two, by series"), spread(masks["dice"], 4)),
        (text("Dice between the two, all voxels together"), text(number(masks["pooled_dice"], 5))),
        (
            text("volume drift, all together"),
            (
                f"{signed(masks['volume_drift_mm3'], 1)} mm\u00b3",
                "" if masks["volume_drift_percent"] is None else f"{signed(masks['volume_drift_percent'], 3)}%",
            ),
        ),
    ]
    return Table("Masks", ("Figure", "Value"), tuple(rows))


def _flips(level: str, found: Mapping[str, Any]) -> Table:
    rows: Sequence[Mapping[str, Any]] = found["listed"][:_LISTED]
    which = () if level == "patient" else (level,)
    more = f"The first {len(rows)} of {found['count']}." if found["count"] > len(rows) else ""
    return Table(
        f"{LEVELS[level]} whose answer differs",
        ("Patient", "Series", *(name.capitalize() for name in which), "Other run", "This run", "Truth"),
        tuple(
            (
                text(row["patient"]),
                text(row["series"]),
                *(text(row[name]) for name in which),
                _answer(row["other"]),
                _answer(row["this"]),
                text(None if row["label"] is None else "positive" if row["label"] else "negative"),
            )
            for row in rows
        ),
        more,
    )


def _answer(value: Mapping[str, Any] | float | str) -> Cell:
    if isinstance(value, Mapping):
        return (str(value["state"]), number(value["probability"], 4))
    return text(number(value, 4) if isinstance(value, float) else value.replace("_", " "))


def _listed(title: str, found: Mapping[str, Any]) -> Table:
    listed = found["listed"][:_LISTED]
    more = f"The first {len(listed)} of {found['count']}." if found["count"] > len(listed) else ""
    return Table(title, ("Series",), tuple((text(uid),) for uid in listed), more)


def _scientific(value: float | None) -> str:
    return DASH if value is None else "0" if value == 0 else f"{value:.2e}".replace("-", "\u2212")
