"""A short MODEL_CARD.md for stages that come without one."""

from __future__ import annotations

from onfh_runtime.bundle import Bundle, Graph, Stage

__all__ = ["export_card"]

_ISLANDS = 20
"""Islands that are listed; bundle.json holds them all."""
_LIMITS = """\
## Limits

- Research use only. Not a medical device, not for diagnosis.
- Who trained the stages, on what, and how well they answer is not known to `onfh export`: it proves that the files of
  this bundle answer as the sources do, and nothing about the sources.
- An early osteonecrosis (ARCO stage 1) is normal on CT: a negative answer does not exclude the disease.
"""


def export_card(content: Bundle) -> str:
    """The card, Markdown: what the bundle holds and how it was reduced."""
    stages = {"classifier": content.classifier, "segmenter": content.segmenter}
    parts = [f"# {content.name} {content.version}\n"]
    if content.description:
        parts.append(f"{content.description}\n")
    parts += [f"> {notice}\n" for notice in content.notices]
    parts.append("## Stages\n")
    parts.append(
        "| stage | file | architecture | input | GMAC a slice | weights and tables | nodes | half |\n"
        "|---|---|---|---|---|---|---|---|\n"
        + "".join(
            f"| {name} | {precision} | {stage.architecture} | {_input(stage)} | {graph.gmac:.2f} | "
            f"{graph.parameters / 1e6:.2f} M | {graph.nodes} | {graph.half_share:.0%} |\n"
            for name, stage in stages.items()
            for precision, graph in stage.graphs.items()
        )
    )
    notes = ""
    for name, stage in stages.items():
        for precision, graph in stage.graphs.items():
            if precision == "fp32":
                notes += "".join(f"- {name}, {what}: {figure}\n" for what, figure in graph.rewrites.items())
            elif precision == "int8":
                notes += f"- {name} int8: weights of matrix products in eight bits; what ONNX Runtime runs on a CPU.\n"
            else:
                notes += _islands(f"{name} {precision}", graph)
    parts += [notes, _LIMITS]
    return "\n".join(parts)


def _input(stage: Stage) -> str:
    return " x ".join(str(side) for side in (len(stage.input.windows), *stage.input.size))


def _islands(name: str, graph: Graph) -> str:
    if not graph.islands:
        return f"- {name}: every floating-point node is half.\n"
    more = len(graph.islands) - _ISLANDS
    return (
        f"- {name}: {len(graph.islands)} node(s) stay FP32:\n"
        + "".join(f"  - `{each.node}` ({each.operator}): {each.reason}\n" for each in graph.islands[:_ISLANDS])
        + (f"  - and {more} more\n" if more > 0 else "")
    )
