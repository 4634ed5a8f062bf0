"""Records as tables for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from onfh_runtime.measure.statistics import samples_for

__all__ = ["bench_table", "profile_table"]

_LAYERS = 6
_LATENCY = ("min", "p50", "p90", "p95", "p99", "max", "mean")
_GPU = {"h2d": "H2D", "gpu_compute": "GPU compute", "d2h": "D2H", "latency": "their sum", "enqueue": "enqueue"}
"""Names in the record, and trtexec's."""
_COLD = {
    "first_answer_s": "first answer",
    "start_and_imports_s": "start",
    "bundle_s": "bundle, hashes",
    "search_s": "search",
    "open_s": "opening, its imports",
    "answer_s": "analysis, its imports",
}
_NAME = 60
"""Characters of a layer's name: TensorRT joins those of all it fused."""


def bench_table(found: Mapping[str, Any]) -> str:
    """The record of ``onfh bench``, in lines."""
    settings, results = found["settings"], found["results"]
    single, many, cold = results["single_stream"], results["offline"], results["cold_start_s"]
    latency = single["latency_ms"]
    lines = [
        *_heading(found),
        f"load      warm-up {settings['warm_up_s']:g} s, then at least {settings['duration_s']:g} s and "
        f"{settings['iterations']} series; outputs {'written' if settings['outputs_written'] else 'not written'}",
        "",
        f"single stream  {latency['count']} series, one at a time; ms from the series given to its answer; MLPerf: p90",
        _table([*_LATENCY], [[_ms(latency[name]) for name in _LATENCY]]),
        *_too_few(latency),
        "",
        f"offline        {many['studies']} series in {many['seconds']:.1f} s, at most {many['in_flight_most']} on "
        "their way at once" + (f", handed over by {settings['in_flight']}" if settings["in_flight"] else ""),
        _table(["studies/s", "slices/s"], [[f"{many['studies_per_s']:.3f}", f"{many['slices_per_s']:.1f}"]]),
        "",
        "steps of a series (ms, median of single stream; share of the time in steps)",
        _table(
            ["", *single["steps_ms"], "in no step"],
            [
                ["ms", *map(_ms, single["steps_ms"].values()), _ms(single["in_no_step_ms"])],
                ["share", *(f"{each:.1%}" for each in single["step_share"].values()), ""],
                ["share offline", *(f"{each:.1%}" for each in many["step_share"].values()), ""],
            ],
        ),
    ]
    if single["gpu_ms"]:
        rows = [
            [name, *(f"{gpu[key]:.2f}" for key in _GPU)]
            for name, gpu in (("single stream", single["gpu_ms"]), ("offline", many["gpu_ms"]))
        ]
        lines += ["", "GPU of a series (ms, median)", _table(["", *_GPU.values()], rows)]
    lines += ["", "energy of a series", *_energy_lines(single["energy"], many["energy"])]
    if cold:
        lines += [
            "",
            f"cold start     a fresh process, files in the page cache; s, median of {cold['first_answer_s']['count']}",
        ]
        header = [_COLD[name] for name in cold]
        lines.append(_table(header, [[f"{each['median']:.2f}" for each in cold.values()]]))
    return "\n".join([*lines, *_not_measured(found)])


def _energy_lines(single: Mapping[str, Any], many: Mapping[str, Any]) -> list[str]:
    rows = [
        [meter, *(f"{found[key][meter]:.1f}" for found in (single, many) for key in ("joules_per_study", "mean_w"))]
        for meter in single["joules_per_study"]
        if meter in many["joules_per_study"]
    ]
    lines = [_table(["", "single stream J", "W", "offline J", "W"], rows)] if rows else []
    return [*lines, *(f"  no {name}: {why}" for name, why in single["absent"].items())]


def profile_table(found: Mapping[str, Any]) -> str:
    """The record of ``onfh profile``, in lines."""
    results = found["results"]
    lines = [*_heading(found), "", "ceilings, measured in this run"]
    for each in results["ceilings"]:
        product = each["product_gflop_s"]
        said = f"{product:.0f} GFLOP/s in a {each['precision']} matrix product" if product else each["absent"]
        links = f"; up {each['upload_gb_s']:.1f}, down {each['download_gb_s']:.1f} GB/s" if each["upload_gb_s"] else ""
        lines.append(f"  {each['of']}: {each['copy_gb_s']:.1f} GB/s in a memory copy, {said}{links}")
    header = ["step", "ms", "share", "GB", "GB/s", "of copy", "GFLOP", "GFLOP/s", "of product", "bound by", "on"]
    rows = [
        [
            row["step"],
            f"{row['ms']:.1f}",
            f"{row['share']:.1%}",
            f"{row['gigabytes']:.3f}",
            f"{row['gb_s']:.2f}",
            _or_dash(row["of_copy"], ".1%"),
            _or_dash(row["gigaoperations"], ".2f"),
            _or_dash(row["gflop_s"], ".1f"),
            _or_dash(row["of_product"], ".1%"),
            row["bound"],
            row["on"],
        ]
        for row in results["roofline"]
    ]
    lines += ["", "roofline (one study alone, medians; bytes and operations are the least a step needs)"]
    lines.append(_table(header, rows))
    study = results["study"]
    lines.append(
        f"  a study takes {study['latency_ms']:.1f} ms; {study['in_steps_ms']:.1f} ms of them in some step, and its "
        f"steps sum to {study['sum_of_steps_ms']:.1f} ms"
        + (f"; queueing for the GPU {study['enqueue_ms']:.1f} ms" if study["enqueue_ms"] else "")
    )
    bound = results["bound"]
    lines += [
        "",
        "busy lanes, studies in a row: " + ", ".join(f"{k} {v:.0%}" for k, v in results["busy_lanes"].items()),
    ]
    lines += ["", f"One study is bound by {bound['step']}: {bound['share']:.0%} of the time in its steps."]
    lines += [f"  - {sentence}" for sentence in bound["help"]]
    lines += _layer_lines(results["layers"])
    return "\n".join([*lines, *_not_measured(found)])


def _layer_lines(layers: Mapping[str, Any]) -> list[str]:
    if "absent" in layers:
        return ["", f"layers: {layers['absent']}"]
    lines = []
    for stage, said in layers.items():
        if not said["nodes"]:
            lines += ["", f"layers of the {stage}: the engine tells none"]
            continue
        lines += ["", f"layers of the {stage}: {said['kernels_ms']:.2f} ms of kernels for {said['rows']} of its slices"]
        if said["operators"]:
            rows = [
                [each["operator"], str(each["nodes"]), f"{each['ms']:.3f}", f"{each['share']:.1%}"]
                for each in said["operators"][:_LAYERS]
            ]
            lines.append(_table(["operator", "nodes", "ms", "share"], rows))
        rows = [[each["node"][:_NAME], f"{each['ms']:.3f}", f"{each['share']:.1%}"] for each in said["nodes"][:_LAYERS]]
        lines.append(_table(["layer", "ms", "share"], rows))
    return lines


def _heading(found: Mapping[str, Any]) -> list[str]:
    machine, settings = found["machine"], found["settings"]
    series, engine = settings["series"], settings["engine"]
    gate = "the bundle's gate"
    if settings["positive_fraction"] is not None:
        gate = f"GATE OVERRIDDEN by --positive-fraction {settings['positive_fraction']:g}; answers mean nothing"
    threads = settings["threads"] or f"as many as {engine['backend']} takes"
    return [
        f"machine   {machine['cpu']['name']}, {machine['cpu']['cores_usable']} cores, "
        + (", ".join(str(gpu["name"]) for gpu in machine["gpus"]) or "no GPU"),
        f"engine    {engine['backend']} {engine['precision']} on {engine['device']}, threads: {threads}",
        f"series    {series['images']} images of {series['rows']} x {series['columns']}, {series['file_mb']:.1f} MB; "
        f"bundle {series['bundle']}",
        f"slices    {settings['slices']} classified, {settings['gated']} segmented "
        f"({settings['gated'] / max(1, settings['slices']):.0%}): {gate}",
        *_graphs(settings),
    ]


def _graphs(settings: Mapping[str, Any]) -> list[str]:
    """Whether CUDA graphs ran, on a GPU."""
    captured = settings["graphs_captured"]
    if not captured:
        return []
    sizes = "; ".join(f"{stage} {', '.join(map(str, rows)) or 'none'}" for stage, rows in captured.items())
    return [f"graphs    {'on' if settings['graphs'] else 'off (--no-graphs)'}; batches captured: {sizes}"]


def _too_few(latency: Mapping[str, Any]) -> list[str]:
    missing = [name for name in ("p50", "p90", "p95", "p99") if latency[name] is None]
    if not missing:
        return []
    said = ", ".join(f"{name} needs {samples_for(int(name[1:]))} series" for name in missing)
    return [f"  too few: {said} (--iterations)"]


def _not_measured(found: Mapping[str, Any]) -> list[str]:
    return ["", "not measured", *(f"  - {sentence}" for sentence in found["does_not_measure"])]


def _ms(value: float | None) -> str:
    return _or_dash(value, ".1f")


def _or_dash(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as they need to be; the first to the left, the others to the right."""
    lines = [header, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return "\n".join(
        "  "
        + "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
