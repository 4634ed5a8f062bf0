"""MODEL_CARD.md: what the demo bundle is, how it was made, its figures and their limits."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

__all__ = ["metrics_table", "model_card"]

_RATES = {"auc": "AUC", "sensitivity": "sensitivity", "specificity": "specificity", "npv": "NPV"}
_LIMITS = """\
## Limits

- Research use only. Not a medical device, not for diagnosis.
- Trained on {source}. {worth}
- An early osteonecrosis (ARCO stage 1) is normal on CT: a negative answer does not exclude the disease.
- The networks, input size, window, slice distance, patient rule and thresholds are this recipe's choices. Those of the
  study behind the method (Chen et al., doi 10.1186/s12891-026-10113-7) are unknown, and nothing here is presented as
  theirs.
- NPV holds at this set's prevalence only and does not carry over to another population.
"""


def metrics_table(metrics: dict[str, Any]) -> str:
    """Markdown: one row per figure, one column per split of ``metrics["splits"]``."""
    splits = list(metrics["splits"])
    rows: list[tuple[str, Callable[[dict[str, Any]], str]]] = [
        ("cases (positive)", lambda m: f"{m['cases']} ({m['positive_cases']})"),
        ("slices (positive)", lambda m: f"{m['slices']} ({m['positive_slices']})"),
    ]
    for level in ("slice", "patient"):
        for figure, name in _RATES.items():
            rows.append((f"{level} {name}", partial(_rate, level, figure)))
    rows += [
        ("gate sensitivity", partial(_rate, "gate", "sensitivity")),
        ("Dice, mean over positive slices", lambda m: _number(m["dice_slice"], 3)),
        ("HD95, mean over positive slices, mm", lambda m: _number(m["hd95_slice_mm"], 2)),
        ("HD95, median over positive slices, mm", lambda m: _number(m["hd95_slice_median_mm"], 2)),
        ("positive slices with nothing outlined", lambda m: str(m["slices_missed"])),
        ("Dice, mean over positive volumes, both stages", lambda m: _number(m["dice_volume"], 3)),
        ("volume outlined in negative cases, mean, mm3", lambda m: _number(m["false_volume_mm3"], 0)),
    ]
    head = "| | " + " | ".join(splits) + " |\n|---|" + "---|" * len(splits) + "\n"
    return head + "".join(
        f"| {name} | " + " | ".join(cell(metrics["splits"][split]) for split in splits) + " |\n" for name, cell in rows
    )


def model_card(name: str, metrics: dict[str, Any], recipe: dict[str, Any], *, phantoms: bool) -> str:
    """The whole card, Markdown."""
    source = "computer-made phantoms" if phantoms else "the slices of the folder it was pointed at"
    worth = (
        "Its figures prove the plumbing and the numerics, never clinical performance."
        if phantoms
        else "Its figures hold for that folder's hospitals and scanners."
    )
    frozen = metrics["thresholds"]
    counts = metrics["parameters"]
    return f"""# {name}

Two demo stages for osteonecrosis of the femoral head on coronal CT slices: a classifier (ViTForImageClassification,
{counts["classifier"]:,} weights) and a segmenter (UperNetForSemanticSegmentation with a Swin backbone,
{counts["segmenter"]:,} weights), both trained from scratch on {source} by `onfh train`.

## Figures

Thresholds were frozen on the validation cases (validation is shown for completeness; it flatters).

{metrics_table(metrics)}
A slice is positive when its truth covers at least {recipe["positive_area_mm2"]:g} mm2. HD95 is the maximum of the two
directed 95th percentiles of boundary distances, per slice, on the input's grid; its mean is far above its median
because a slice where the other hip is outlined as well counts with the distance between the hips. AUC is Mann-Whitney,
ties one half.

## How it was made

- Coronal slices {recipe["slice_spacing_mm"]:g} mm apart, up to {recipe["coverage_margin_mm"]:g} mm in front of and
  behind the femoral heads, {_in_plane(recipe)}, made by the runtime's own reading and preprocessing.
- Input {recipe["size"][0]} x {recipe["size"][1]}, {recipe["pixel_mm"]:g} mm a pixel or more, window
  W{recipe["window_width"]:g}/L{recipe["window_center"]:g}, one channel.
- Classifier: {recipe["fit_classifier_parts"]["epochs"]} epochs on the left or right part of slices, then
  {recipe["fit_classifier"]["epochs"]} on whole slices, with an auxiliary loss per patch. Segmenter:
  {recipe["fit_segmenter"]["epochs"]} epochs. Muon and AdamW, seed {recipe["seed"]}; {metrics["cases"]} cases,
  {metrics["minutes"]:.0f} minutes on {metrics["machine"]}.
- The figures are those of the two networks on prepared slices, series by series. The runtime adds the rules of sides:
  it counts a mask per side, near a femoral head, and in positive patients only.
- Slice threshold {frozen["slice_threshold"]:.4f} (validation sensitivity {recipe["slice_sensitivity"]:.4f} wanted,
  specificity {recipe["slice_specificity_floor"]:g} at least), gate {frozen["gate"]:.4f}, patient rule: mean of the
  {frozen["patient_k"]} most probable slices at {frozen["patient"]:.4f} (sensitivity
  {recipe["patient_sensitivity"]:g} wanted, specificity {recipe["patient_specificity_floor"]:g} at least), mask
  {frozen["mask_threshold"]:g}, minimum volume {frozen["minimum_volume_mm3"]:g} mm3.

{_LIMITS.format(source=source, worth=worth)}"""


def _in_plane(recipe: dict[str, Any]) -> str:
    beyond = recipe["coverage_in_plane_mm"]
    return "whole" if beyond is None else f"cut to the box {beyond:g} mm beyond the heads"


def _rate(level: str, figure: str, metrics: dict[str, Any]) -> str:
    return _number(metrics[level][figure], 3)


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
