"""Four plots of the parity gate in one picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onfh_export.parity import Comparison, Parity
from onfh_runtime.bundle import Bundle
from onfh_runtime.errors import MissingExtraError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["parity_plot"]

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
"""Okabe and Ito, told apart by colour-blind readers too."""
MARKERS = "o^sDvP"
FLOOR = 1e-9
"""Drift below this, 0 included, is drawn as this: a logarithm has no 0."""


def parity_plot(parity: Parity, rules: Bundle, path: Path) -> None:
    """Draw probabilities, drift, Dice between masks and volumes, one colour for each column, to a PNG or SVG file.

    Args:
        parity: every column against the first.
        rules: thresholds and limits, drawn as lines.
        path: its suffix says the format.

    Raises:
        MissingExtraError: ``missing_extra``, matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError(
            "missing_extra", "matplotlib, which draws the parity plots, is missing.", "pip install 'onfh-edge[export]'"
        ) from error
    figure = Figure(figsize=(11, 8), dpi=120, layout="constrained")
    (scatter, histogram), (masks, volumes) = figure.subplots(2, 2)
    _probabilities(scatter, parity, rules)
    _drift(histogram, parity, rules.parity.probability_drift)
    _dice(masks, parity, rules.parity.mask_dice)
    _volumes(volumes, parity)
    handles, labels = scatter.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)
    for axes in (scatter, histogram, masks, volumes):
        axes.grid(alpha=0.25)
        axes.set_axisbelow(True)
    figure.savefig(path, metadata={"Software": None} if path.suffix == ".png" else {"Date": None})


def _styled(parity: Parity) -> list[tuple[Comparison, dict[str, Any]]]:
    return [
        (comparison, {"color": COLOURS[place % len(COLOURS)], "marker": MARKERS[place % len(MARKERS)]})
        for place, comparison in enumerate(parity.comparisons)
    ]


def _probabilities(axes: Axes, parity: Parity, rules: Bundle) -> None:
    for comparison, style in _styled(parity):
        pairs = [study.probabilities for study in comparison.studies]
        reference, other = (np.concatenate([np.zeros(0, np.float32), *(pair[i] for pair in pairs)]) for i in (0, 1))
        axes.scatter(reference, other, s=14, alpha=0.6, linewidths=0, label=comparison.column.name, **style)
    for value, dashes in ((rules.slice_threshold, "--"), (rules.gate.threshold, ":")):
        axes.axvline(value, color="0.4", linewidth=0.9, linestyle=dashes)
        axes.axhline(value, color="0.4", linewidth=0.9, linestyle=dashes)
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=0.8, zorder=0)
    axes.set(
        title="Probability of each slice (-- slice threshold, .. gate)",
        xlabel=parity.reference.name,
        ylabel="column",
        xlim=(-0.02, 1.02),
        ylim=(-0.02, 1.02),
    )


def _drift(axes: Axes, parity: Parity, limit: float) -> None:
    edges = [float(edge) for edge in np.logspace(np.log10(FLOOR), 0, 46)]
    for comparison, style in _styled(parity):
        drift = np.concatenate([np.zeros(0), *(np.abs(study.drift) for study in comparison.studies)])
        axes.hist(np.clip(drift, FLOOR, 1), edges, histtype="stepfilled", alpha=0.45, color=style["color"])
    axes.axvline(limit, color="0.2", linewidth=1, linestyle="--")
    axes.set_xscale("log")
    axes.set(
        title="Change of a slice's probability (-- limit)", xlabel=f"|change|, at least {FLOOR:g}", ylabel="slices"
    )


def _dice(axes: Axes, parity: Parity, limit: float) -> None:
    from matplotlib.ticker import MaxNLocator

    names: list[str] = []
    for comparison, style in _styled(parity):
        for study in comparison.studies:
            if study.study not in names:
                names.append(study.study)
        drawn = [(names.index(s.study), s.outlined.dice) for s in comparison.studies if s.outlined.dice is not None]
        if drawn:
            at, dice = zip(*drawn, strict=True)
            axes.scatter(at, dice, s=26, alpha=0.75, linewidths=0, **style)
    axes.axhline(limit, color="0.2", linewidth=1, linestyle="--")
    axes.set(
        title="Dice between masks, before any rule (-- limit)",
        xlabel="study, in the order of parity.json",
        ylabel="Dice",
        xlim=(-0.5, max(1, len(names)) - 0.5),
    )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _volumes(axes: Axes, parity: Parity) -> None:
    for comparison, style in _styled(parity):
        volumes = np.array([study.outlined.volumes_mm3 for study in comparison.studies]).reshape(-1, 2)
        change = volumes[:, 1] - volumes[:, 0]
        axes.scatter(volumes.mean(axis=1), change, s=26, alpha=0.75, linewidths=0, **style)
        if len(change) > 1:
            bias, spread = float(change.mean()), 1.96 * float(change.std(ddof=1))
            axes.axhline(bias, color=style["color"], linewidth=1)
            for edge in (bias - spread, bias + spread):
                axes.axhline(edge, color=style["color"], linewidth=0.8, linestyle=":")
    axes.set(
        title="Volume outlined (line: mean change, dots: 1.96 SD)",
        xlabel="mean of both, mm3",
        ylabel="change, mm3",
    )
