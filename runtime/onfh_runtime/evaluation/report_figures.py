"""The drawings of each section of a report, from its JSON document alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from onfh_runtime.evaluation.report_charts import (
    COLOURS,
    agreement_chart,
    calibration_chart,
    cases_chart,
    drift_chart,
    drift_histogram,
    roc_chart,
)
from onfh_runtime.evaluation.report_tables import LEVELS, POOLS, group_name
from onfh_runtime.evaluation.report_words import DASH, interval, number

__all__ = ["Figure", "section_figures"]

Document = Mapping[str, Any]
_NO_SITE = "no site"


@dataclass(frozen=True)
class Figure:
    """``key`` says what the colours mean: (number of the colour, words); ``wide`` figures take a whole line."""

    caption: str
    svg: str
    key: tuple[tuple[int, str], ...] = ()
    hint: str = ""
    wide: bool = False


def section_figures(key: str, document: Document) -> list[Figure]:
    """What is drawn in a section; see :class:`~onfh_runtime.evaluation.report_sections.Section`."""
    if key in document["levels"] and key in LEVELS:
        drawn = [*_level(key, document), *(_probabilities(document) if key == "patient" else ())]
    elif key == "segmentation":
        drawn = [*_volumes(document), *_dice(document)]
    elif key == "against":
        drawn = list(_against(document))
    else:
        drawn = []
    return [figure for figure in drawn if figure.svg]


def _level(level: str, document: Document) -> Iterator[Figure]:
    groups = document["levels"][level]["groups"]
    which = "delong" if level == "patient" else "bootstrap"
    pools = [group for group in groups if group["kind"] in POOLS]
    rates = "wilson" if level == "patient" else "bootstrap"
    hint = "Diamonds: the frozen threshold, with 95% intervals of sensitivity and specificity."
    sites = [group for group in groups if group not in pools]
    for caption, chosen in (("ROC", pools), ("ROC by site", sites if len(sites) > 1 else [])):
        key = tuple(
            (place % COLOURS, f"{group_name(group)}: AUC {_area(group['auc'], which)}")
            for place, group in enumerate(chosen)
            if group["roc"] is not None
        )
        yield Figure(caption, roc_chart(LEVELS[level].lower(), chosen, rates) or "", key, hint)
    for group in pools if len(pools) != 2 else pools[-1:]:  # one pool alone is all there is
        svg = calibration_chart(LEVELS[level].lower(), group)
        yield Figure(f"Calibration, {group_name(group)}", svg or "", hint="Bars: how many units. 95% intervals.")


def _area(entry: Mapping[str, Any] | None, which: str) -> str:
    if entry is None:
        return DASH
    limits = interval(entry[which])
    return number(entry["value"]) + (f" ({limits})" if limits else "")


def _sites(cases: Sequence[Mapping[str, Any]]) -> list[str]:
    return sorted({case["site"] or _NO_SITE for case in cases})


def _bands(
    cases: Sequence[Mapping[str, Any]], value: Callable[[Mapping[str, Any]], tuple[float, bool, str] | None]
) -> list[tuple[str, list[tuple[float, bool, str]]]]:
    drawn = [(case["site"] or _NO_SITE, value(case)) for case in cases]
    return [(site, [point for at, point in drawn if at == site and point is not None]) for site in _sites(cases)]


def _probabilities(document: Document) -> Iterator[Figure]:
    cases = document["cases"]

    def point(case: Mapping[str, Any]) -> tuple[float, bool, str] | None:
        if case["probability"] is None or case["label"] is None:
            return None
        truth = "positive" if case["label"] else "negative"
        said = f"{case['patient']}: {number(case['probability'])}, answered {case['state']}, truly {truth}"
        return case["probability"], case["label"], said

    bands = _bands(cases, point)
    count = sum(len(values) for _, values in bands)
    label = f"Probability of {count} series by site, ascending; the table of cases has every value."
    svg = cases_chart(label, "Probability", bands, document["thresholds"]["patient"])
    hint = "Each site in ascending order. Diamond: truly positive; circle: truly negative; dashed: frozen threshold."
    yield Figure("Probability by case", svg or "", hint=hint, wide=True)


def _volumes(document: Document) -> Iterator[Figure]:
    sites = _sites(document["cases"])
    pairs = []
    for case in document["cases"]:
        volume, true = case["volume_mm3"], case["true_volume_mm3"]
        if volume is None or true is None or not (volume or true):
            continue
        said = f"{case['patient']}: predicted {volume / 1000:.2f} mL, true {true / 1000:.2f} mL"
        pairs.append((volume / 1000, true / 1000, said, sites.index(case["site"] or _NO_SITE) % COLOURS))
    svg = agreement_chart("Bland and Altman plot of volume", ("Predicted", "true"), pairs, "mL")
    key = tuple((place % COLOURS, site) for place, site in enumerate(sites))
    hint = "Cases in which either mask outlines something. Solid: mean; dashed: mean \u00b1 1.96 SD."
    yield Figure("Volume: agreement with truth (Bland and Altman)", svg or "", key, hint, wide=True)


def _dice(document: Document) -> Iterator[Figure]:
    def point(case: Mapping[str, Any]) -> tuple[float, bool, str] | None:
        if case["dice"] is None or not case["true_volume_mm3"]:
            return None
        distance = "" if case["hd95_mm"] is None else f", HD95 {number(case['hd95_mm'], 1)} mm"
        return case["dice"], case["dice"] > 0, f"{case['patient']}: Dice {number(case['dice'])}{distance}"

    svg = cases_chart("Dice by case and site, ascending.", "Dice", _bands(document["cases"], point))
    hint = "Truth-positive cases, each site in ascending order. Circle: no overlap at all."
    yield Figure("Dice by case", svg or "", hint=hint, wide=True)


def _against(document: Document) -> Iterator[Figure]:
    against = document["against"]
    drift = against["drift"]
    if drift is not None:
        count, of = len(drift["points"]), drift["n"]
        which = f"The {count} of {of} slices that moved most." if count < of else "Every slice."
        svg = drift_chart(drift["points"], document["thresholds"]["slice"])
        yield Figure("Probability of each slice in both runs", svg or "", hint=which)
        yield Figure("Change of probability", drift_histogram(drift), hint="By powers of ten.")
    masks = against["masks"]
    if masks is None:
        return
    pairs = [
        (
            case["this_mm3"],
            case["other_mm3"],
            f"{case['patient']}: now {case['this_mm3']:.1f} mm\u00b3, other {case['other_mm3']:.1f} mm\u00b3",
            0,
        )
        for case in masks["cases"]
    ]
    svg = agreement_chart("Bland and Altman plot of both runs' volume", ("This run", "other run"), pairs, "mm\u00b3")
    yield Figure("Volume: agreement of both runs", svg or "", wide=True)
    points = [
        (case["dice"], case["dice"] > 0, f"{case['patient']}: {number(case['dice'], 4)}") for case in masks["cases"]
    ]
    svg = cases_chart("Dice between both runs, ascending.", "Dice", [("series", points)])
    yield Figure("Dice between both runs", svg or "", wide=True)
