"""Write the README's speed tables from recorded results: part of `make plots`.

They stand between two comments; what stands there by hand is lost. A test holds them against the records there are.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path[:0] = [str(HERE)]

from records import MACHINE, read_figures, read_record, taken_on  # noqa: E402

BEGIN = "<!-- speed: written by `make plots` from benchmarks/results -->"
END = "<!-- /speed -->"
SHOWN = ("cost-by-volume", "share-of-steps")
"""Of the plots, those that the README shows; benchmarks/README.md shows all."""

Row = tuple[str, ...]
Figures = Mapping[str, Any]


def speed(results: Path, machine: str = MACHINE, plots: Path = ROOT / "docs" / "plots") -> str:
    """Every table whose records are there, with the machine and the versions of each; and the plots."""
    parts = []
    for name, table in (("spine", spine), ("peers", peers), ("preprocess-peers", preprocess), ("read", read)):
        document = read_record(results, name, machine)
        if document is not None:
            peer = ", ".join(f"{each} {version}" for each, version in document.get("peers", {}).items())
            beside = f"; beside {peer}" if peer else ""
            parts += [markdown(table(read_figures(document))), f"On {taken_on(document)}{beside}."]
    parts += rooms(results, machine)
    parts += [f"![{name}](docs/plots/{name}.svg)" for name in SHOWN if (plots / f"{name}.svg").exists()]
    return "\n\n".join(parts)


def spine(figures: Figures) -> list[Row]:
    """A whole `onfh infer` process around its backend calls."""
    names = {"demo_bundle": "demo bundle", "vit_b_upernet_swin_t": "ViT-B/16 224 + UperNet-Swin-T 512"}
    cases = [figures[name] for name in names if name in figures]
    heads = [label for name, label in names.items() if name in figures]

    def row(label: str, told: Callable[[Figures], str]) -> Row:
        return (label, *(told(case) for case in cases))

    return [
        ("one axial study, 120 slices of 512 x 512, whole `onfh infer` process", *heads),
        row("slices classified, segmented", lambda c: f"{c['rows']['classifier']}, {c['rows']['segmenter']}"),
        row("wall time over the sum of ONNX Runtime calls", lambda c: spread(c["wall_over_calls"])),
        row("seconds outside those calls", lambda c: spread(c["outside_s"])),
        row("peak memory, MB", lambda c: f"{c['peak_mb']['median']:,.0f}"),
    ]


def peers(figures: Figures) -> list[Row]:
    """Whole studies and stages beside what others would build of the same parts."""
    rows: list[Row] = [("same weights, same study of 200 slices, answers compared first", "peer over onfh")]
    words = {"demo": "demo bundle", "large": "ViT-B + UperNet-Swin-T 512"}
    routes = {"usual": "as its bundles do it", "tuned": "the fastest route found"}
    for case, bundle in words.items():
        for part, label, key in (
            ("whole_process", "whole process", "wall_over_onfh"),
            ("steady_state", "one of many", "seconds_over_onfh"),
        ):
            for route, way in routes.items():
                found = figures.get(case, {}).get(part, {}).get(f"monai_torch_{route}")
                if found is not None:
                    what = f"pydicom + MONAI + torch, {way}: {label}, {bundle}"
                    rows.append((what, ratio(found, key)))
        found = figures.get(case, {}).get("whole_process", {}).get("monai_torch_usual", {})
        if "onfh_peak_over_it" in found:
            rows.append((f"... peak memory of onfh over its, {bundle}", spread(found["onfh_peak_over_it"])))
        for name, found in figures.get(case, {}).get("stages", {}).items():
            if name != "onfh" and "left_out" not in found:
                both = (ratio(found, f"{stage}_over_onfh") for stage in ("classifier", "segmenter"))
                rows.append((f"{name}: stage 1, stage 2, {bundle}", ", ".join(both)))
    return rows


def preprocess(figures: Figures) -> list[Row]:
    """A volume in memory to stage inputs."""
    sides = [name for name in figures if name.startswith("input_")]
    ways = {
        "monai_spacing_resize": "MONAI, Spacing + Resize",
        "monai_area_resize": "MONAI, Resize by area + Resize",
        "simpleitk_averaged": "SimpleITK, BinShrink and resample",
        "simpleitk_points": "SimpleITK, resample alone: leaves out most voxels",
    }
    heads = [f"peer over onfh, at {side.removeprefix('input_')}" for side in sides]
    rows: list[Row] = [("512 x 512 x 400 in memory to 60 coronal slices, two threads each", *heads)]
    for way, label in ways.items():
        rows.append((label, *(ratio(figures[side][way], "over_onfh") for side in sides)))
    seconds = (f"{1e3 * figures[side]['onfh']['seconds']['median']:.0f} ms" for side in sides)
    return [*rows, ("onfh itself", *seconds)]


def read(figures: Figures) -> list[Row]:
    """Files to a volume, beside the best that Python users have."""
    rows: list[Row] = [("reading 512 x 512", "onfh, ms a slice", "peer over onfh")]
    for syntax, found in figures["syntaxes"].items():
        routes, slices = found["routes"], found["slices"]
        ours = 1e3 * routes["onfh"]["seconds"]["median"] / slices
        names = [found["best_peer"], *(name for name in ("SimpleITK",) if name != found["best_peer"])]
        beside = ", ".join(f"{name} {spread(routes[name]['times_ours'])}" for name in names if name in routes)
        rows.append((f"{syntax}, {slices} slices", f"{ours:.3g}", beside))
    return rows


def rooms(results: Path, machine: str) -> list[str]:
    """Medians of the suites, one line for what a study meets."""
    wanted = (
        ("read", "find_and_read[axial]", "find and read 200 slices of 512 x 512"),
        ("preprocess", "stack_and_input[224]", "400 slices of 512 x 512 to 60 stage inputs at 224"),
        ("anatomy", "femoral_heads[whole]", "find the femoral heads"),
        ("outputs", "everything_written", "write SEG, SR, page and result.json"),
        ("pipeline", "single[demo]", "one study, pipeline open, demo bundle, nothing written"),
        ("pipeline", "row[demo]", "20 studies in a row, demo bundle, nothing written"),
        ("pipeline", "single[large]", "one study, pipeline open, ViT-B + UperNet-Swin-T 512"),
        ("pipeline", "row[large]", "20 studies in a row, ViT-B + UperNet-Swin-T 512"),
    )
    heads = ("over its backend calls", "over those of as many studies alone")
    rows: list[Row] = [("room", "median, ms", "least to greatest", *heads)]
    taken = set()
    for suite, name, label in wanted:
        document = read_record(results, f"bench-{suite}", machine)
        each = read_figures(document).get(name) if document is not None and "schema" in document else None
        if document is not None and each is not None:
            taken.add(taken_on(document))
            seconds = {key: 1e3 * each["seconds"][key] for key in ("median", "min", "max")}
            over = (spread(each[key]) if key in each else "" for key in ("over_calls", "over_calls_alone"))
            limits = f"{number(seconds['min'])} to {number(seconds['max'])}"
            rows.append((label, number(seconds["median"]), limits, *over))
    return [markdown(rows), f"On {'; '.join(sorted(taken))}."] if taken else []


def ratio(found: Figures, key: str) -> str:
    """A ratio with its spread, or why there is none."""
    return spread(found[key]) if key in found else "not compared: other answers"


def spread(values: Mapping[str, float]) -> str:
    """Median (least to greatest)."""
    return f"{number(values['median'])} ({number(values['min'])} to {number(values['max'])})"


def number(value: float) -> str:
    """Three digits, and no more decimals than they need."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def markdown(rows: Sequence[Row]) -> str:
    """A table; its first row is the head."""
    head, *body = rows
    lines = [head, tuple("---" for _ in head), *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def with_speed(readme: str, tables: str) -> str:
    """The README with the tables in their place.

    Raises:
        SystemExit: it has no such place.
    """
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"The README lacks the lines {BEGIN} and {END}.")
    return f"{before}{BEGIN}\n\n{tables}\n\n{END}{after}"


def main() -> int:
    """Write the README."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--results", type=Path, default=HERE / "results", help="default: %(default)s")
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md", help="default: %(default)s")
    parser.add_argument("--machine", default=MACHINE, help="what the records' files call it (default: %(default)s)")
    options = parser.parse_args()
    options.readme.write_text(with_speed(options.readme.read_text(), speed(options.results, options.machine)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
