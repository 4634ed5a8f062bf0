"""Draw the plots in docs/plots from the records of the suites: `make plots`.

Every plot is an SVG and a PNG that name, in their metadata, the records they were drawn from, each with its SHA-256: a
test holds them against the records there are. The same records give the same files, byte for byte.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "runtime")]

from records import MACHINE, read_figures, taken_on  # noqa: E402

PLOTS = HERE.parent / "docs" / "plots"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito's, which people tell apart whatever colours they see."""
MARKERS = "osD^vP"
STYLE = {
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.grid": True,
    "axes.axisbelow": True,
    "font.size": 9,
    "grid.color": "#e3e3e3",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "lines.linewidth": 1.5,
    "lines.markersize": 5,
    "svg.hashsalt": "onfh",
}
STAGES = {
    ("demo", "classifier"): "demo bundle, stage 1",
    ("demo", "segmenter"): "demo bundle, stage 2",
    ("large", "classifier"): "ViT-B/16 224",
    ("large", "segmenter"): "UperNet-Swin-T 512",
}
BUNDLES = {"demo": "demo bundle", "large": "ViT-B + UperNet-Swin-T"}
STEPS = ("read", "preprocess", "classify", "segment", "postprocess")

Figures = Mapping[str, Mapping[str, Any]]


def latency_by_batch(figures: Figures, axes: list[Axes]) -> None:
    """A call of a backend, and what of it falls to a row."""
    found = [each for name, each in figures.items() if name.startswith("run[")]
    whole, row = axes
    for number, ((bundle, stage), label) in enumerate(STAGES.items()):
        points = sorted((each for each in found if (each["bundle"], each["stage"]) == (bundle, stage)), key=_rows)
        if points:
            line(whole, [(_rows(each), each["seconds"]) for each in points], label, number, times=1e3)
            line(row, [(_rows(each), each["seconds"]) for each in points], label, number, per_x=True, times=1e3)
    for each, title in ((whole, "Latency of a call"), (row, "Latency per row")):
        each.set_title(title)
        each.set(xlabel="batch, rows", ylabel="latency, ms", xscale="log", yscale="log")
        batches = sorted({_rows(point) for point in found})
        each.set_xticks(batches, [str(batch) for batch in batches])
        each.minorticks_off()
        each.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        each.yaxis.set_major_formatter("{x:g}")
    legend_right(row)


def throughput_in_flight(figures: Figures, axes: list[Axes]) -> None:
    """Studies a minute over studies given at once."""
    points = sorted((e for n, e in figures.items() if n.startswith("in_flight[")), key=lambda each: each["studies"])
    for each in points:
        per_minute = {k: 60 * each["studies"] / each["seconds"][k] for k in ("median", "min", "max")}
        axes[0].errorbar(
            each["studies"],
            per_minute["median"],
            [[per_minute["median"] - per_minute["max"]], [per_minute["min"] - per_minute["median"]]],
            fmt="o",
            color=COLOURS[0],
            capsize=3,
        )
    axes[0].plot(
        [e["studies"] for e in points], [60 * e["studies"] / e["seconds"]["median"] for e in points], COLOURS[0]
    )
    axes[0].set_title("Throughput, demo bundle")
    axes[0].set(xlabel="studies given at once", ylabel="studies a minute", xscale="log")
    axes[0].set_xticks([each["studies"] for each in points], [str(each["studies"]) for each in points])
    axes[0].minorticks_off()
    axes[0].set_ylim(0)


def cost_by_volume(figures: Figures, axes: list[Axes]) -> None:
    """One study over voxels, whole and by steps."""
    found = sorted((e for n, e in figures.items() if n.startswith("volume[")), key=lambda each: each["million_voxels"])
    whole, steps = axes
    matrices = sorted({each["volume"][1] for each in found})
    for number, matrix in enumerate(matrices):
        points = [(each["million_voxels"], each["seconds"]) for each in found if each["volume"][1] == matrix]
        line(whole, points, f"{matrix} x {matrix}", number)
    whole.set_title("One study, demo bundle")
    whole.legend(title="matrix")
    largest = [each for each in found if each["volume"][1] == matrices[-1]]
    step_lines(steps, largest, "million_voxels")
    steps.set_title(f"Its steps, {matrices[-1]} x {matrices[-1]}")
    for each in axes:
        each.set(xlabel="million voxels", ylabel="time, s")
        each.set_xlim(0)
        each.set_ylim(0)
    legend_right(steps)


def cost_by_coronal_slices(figures: Figures, axes: list[Axes]) -> None:
    """One study over coronal slices that stage 1 sees, whole and by steps."""
    found = sorted((e for n, e in figures.items() if n.startswith("slices[")), key=lambda each: each["coronal_slices"])
    whole, steps = axes
    line(whole, [(each["coronal_slices"], each["seconds"]) for each in found], "whole study", 0)
    calls = [(each["coronal_slices"], {"median": each["calls_s"]}) for each in found]
    line(whole, calls, "of it in backend calls", 1)
    whole.set_title("One study, demo bundle")
    whole.legend()
    step_lines(steps, found, "coronal_slices")
    steps.set_title("Its steps")
    for each in axes:
        each.set(xlabel="coronal slices analysed", ylabel="time, s")
        each.set_xlim(0)
        each.set_ylim(0)
    legend_right(steps)


def share_of_steps(figures: Figures, axes: list[Axes]) -> None:
    """What each step has of the time in steps, for one study and for many in a row."""
    bars = []
    for bundle, label in BUNDLES.items():
        for name, words in (("single", "one study"), ("row", "{studies} in a row")):
            each = figures.get(f"{name}[{bundle}]")
            if each is not None:
                bars.append((f"{label},\n{words.format(**each)}", each["step_ms"]))
    for place, (_, ms) in enumerate(bars):
        total, left = sum(ms.get(step, 0) for step in STEPS), 0.0
        for number, step in enumerate(STEPS):
            share = 100 * ms.get(step, 0) / total
            label = step if place == 0 else None
            axes[0].barh(place, share, left=left, color=COLOURS[number], height=0.6, label=label)
            if share >= 4:
                axes[0].text(left + share / 2, place, f"{share:.0f}", ha="center", va="center", color="white")
            left += share
    axes[0].set_yticks(range(len(bars)), [label for label, _ in bars])
    axes[0].invert_yaxis()
    axes[0].set_title("Share of each step")
    axes[0].set(xlabel="% of the time in steps; outputs are not written", xlim=(0, 100))
    axes[0].grid(visible=False)
    legend_right(axes[0])


def line(
    axes: Axes,
    points: list[tuple[float, Mapping[str, float]]],
    label: str,
    number: int,
    *,
    times: float = 1.0,
    per_x: bool = False,
) -> None:
    """A line of medians, with bars from the least to the greatest where there are some."""
    x = [at for at, _ in points]
    factors = [times / at if per_x else times for at in x]
    y = [seconds["median"] * factor for (_, seconds), factor in zip(points, factors, strict=True)]
    bars = None
    if all("min" in seconds for _, seconds in points):
        pairs = list(zip(points, factors, strict=True))
        below = [(seconds["median"] - seconds["min"]) * factor for (_, seconds), factor in pairs]
        bars = [below, [(seconds["max"] - seconds["median"]) * factor for (_, seconds), factor in pairs]]
    axes.errorbar(x, y, bars, label=label, color=COLOURS[number], marker=MARKERS[number], capsize=3, elinewidth=0.8)


def step_lines(axes: Axes, found: list[Mapping[str, Any]], key: str) -> None:
    """A line for each step."""
    for number, step in enumerate(STEPS):
        line(axes, [(each[key], {"median": each["step_ms"].get(step, 0) / 1e3}) for each in found], step, number)


def legend_right(axes: Axes) -> None:
    """The legend where no line is."""
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))


def _rows(each: Mapping[str, Any]) -> int:
    return int(each["rows"])


MEDIANS, RANGES = "Medians.", "Medians; bars from the least to the greatest."
DRAWN: dict[str, tuple[str, int, Callable[[Figures, list[Axes]], None], str]] = {
    "latency-by-batch": ("backends", 2, latency_by_batch, RANGES),
    "throughput-by-studies-at-once": ("pipeline", 1, throughput_in_flight, RANGES),
    "cost-by-volume": ("pipeline", 2, cost_by_volume, RANGES),
    "cost-by-coronal-slices": ("pipeline", 2, cost_by_coronal_slices, RANGES),
    "share-of-steps": ("pipeline", 1, share_of_steps, MEDIANS),
}
"""Of each plot: the suite whose record it shows, how many panels, what draws them, and what the marks are."""


def source(record: Path) -> str:
    """How a plot names the record it was drawn from."""
    return f"{record.name} sha256:{hashlib.sha256(record.read_bytes()).hexdigest()}"


def wanted(results: Path, machine: str) -> dict[str, str]:
    """The plots that can be drawn, and the source that each must name."""
    records = {name: results / f"bench-{suite}-{machine}.json" for name, (suite, *_) in DRAWN.items()}
    return {name: source(path) for name, path in records.items() if path.exists()}


def draw(results: Path, out: Path, machine: str) -> list[Path]:
    """Draw every plot whose record is there."""
    out.mkdir(parents=True, exist_ok=True)
    made = []
    for name, named in wanted(results, machine).items():
        suite, panels, drawn, marks = DRAWN[name]
        document = json.loads((results / f"bench-{suite}-{machine}.json").read_text())
        with mpl.rc_context({**mpl.rcParamsDefault, **STYLE}):
            figure = Figure(figsize=(7.6, 3.4), dpi=150, layout="constrained")
            figure.set_layout_engine("constrained", rect=(0, 0.11, 1, 0.88))
            drawn(read_figures(document), list(figure.subplots(1, panels, squeeze=False)[0]))
            figure.text(0.01, 0.02, f"{marks}\n{taken_on(document)}.", fontsize=6.5, color="#555555")
            for kind, fixed in (("svg", {"Date": None, "Creator": None}), ("png", {"Software": None})):
                path = out / f"{name}.{kind}"
                figure.savefig(path, metadata={**fixed, "Source": named})
                made.append(path)
    return made


def main() -> int:
    """Draw all plots."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--results", type=Path, default=HERE / "results", help="default: %(default)s")
    parser.add_argument("--out", type=Path, default=PLOTS, help="default: %(default)s")
    parser.add_argument("--machine", default=MACHINE, help="what the records' files call it (default: %(default)s)")
    options = parser.parse_args()
    for path in draw(options.results, options.out, options.machine):
        print(path.name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
