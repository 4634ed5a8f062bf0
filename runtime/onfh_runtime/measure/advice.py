"""What would make a study faster, said of the step that bounds it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec

from onfh_runtime.backends import DEVICE_BACKENDS
from onfh_runtime.measure.roofline import Row
from onfh_runtime.result import Engine

__all__ = ["Facts", "advice"]

NEAR = 0.8
"""Share of the time from which on something may be what bounds the rest."""

UNCOMPRESSED = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2")
"""Transfer syntaxes whose pixels are not encoded: implicit and explicit VR, either byte order."""


@dataclass(frozen=True)
class Facts:
    """What advice depends on besides the rows.

    Attributes:
        slices, gated: that stage 1 saw, that stage 2 saw.
        transfer_syntax: of the series.
        enqueue_ms: in which a GPU's work was queued.
        threads, cores: of the stages on a CPU, 0 for all; and of the ceilings.
    """

    slices: int
    gated: int
    transfer_syntax: str
    enqueue_ms: float = 0.0
    threads: int = 0
    cores: int = 1


def advice(rows: Sequence[Row], busy: Mapping[str, float], engine: Engine, facts: Facts) -> dict[str, object]:
    """Name the step that bounds one study and the lane that bounds many, and what would help.

    Args:
        rows: from :func:`onfh_runtime.measure.roofline.roofline`.
        busy: from :func:`onfh_runtime.measure.roofline.busy_lanes`, of several series in a row.
        engine: what computed.
        facts: of the series.

    Returns:
        ``step``, ``lane`` and ``help``, sentences.
    """
    longest = max(rows, key=lambda row: row.ms)
    lane = max(busy, key=lambda kind: busy[kind])
    said = [*_OF_STEP[longest.step](longest, engine, facts)]
    stages_ms = sum(row.ms for row in rows if row.step in ("classify", "segment"))
    if facts.enqueue_ms > NEAR * stages_ms:
        said.append(
            f"Queueing the GPU's work takes {facts.enqueue_ms:.1f} ms of the host, the stages {stages_ms:.1f} ms: the "
            "GPU waits for its orders. CUDA graphs, larger batches or a faster host core shorten that."
        )
    if len(busy) > 1 and busy[lane] >= NEAR:
        said.append(
            f"Of studies in a row the {lane} lane bounds the rate: it is busy {busy[lane]:.0%} of the time; work moved "
            "to another lane, or taken from this one, raises it."
        )
    elif len(busy) > 1:
        said.append(
            f"Of studies in a row no lane bounds the rate: the busiest, {lane}, works {busy[lane]:.0%} of the time. "
            "Lanes share the cores, and the first and the last study have no company."
        )
    return {"step": longest.step, "share": longest.share, "lane": lane, "help": said}


def _stage(row: Row, engine: Engine, facts: Facts) -> list[str]:
    said = []
    on_host = engine.backend == "onnxruntime"
    if row.step == "segment":
        said.append(
            f"{facts.gated} of {facts.slices} slices reach stage 2; each one fewer saves "
            f"{row.ms / max(1, facts.gated):.1f} ms. A higher gate or a max_slices changes answers: evaluate again "
            "before it is used."
        )
    if row.bound == "unknown":
        return [*said, "It ran on another machine, and the way there is in its time: profile there."]
    if on_host and 0 < facts.threads < facts.cores:
        said.append(f"It ran on {facts.threads} of the {facts.cores} cores that the ceilings were measured on.")
    if row.of_product is None:
        said.append("The bundle does not say how many operations its graphs take; export it again to learn that.")
    elif row.of_product >= NEAR:
        said.append(
            f"It runs at {row.of_product:.0%} of what a matrix product reaches here: only fewer operations, of lower "
            "precision, or other hardware make it faster."
        )
    else:
        said.append(
            f"It runs at {row.of_product:.0%} of what a matrix product reaches here: better kernels could make it "
            f"{1 / row.of_product:.1f} times as fast at most, the layers say which; past that, fewer operations or "
            "other hardware."
        )
    if on_host:
        said.append("A GPU would take the stages off the processor: `onfh doctor` says what is missing for one.")
    elif engine.backend not in DEVICE_BACKENDS[:2]:
        said.append("TensorRT is the faster backend on a GPU: `onfh doctor` says what is missing for it.")
    return said


def _read(row: Row, engine: Engine, facts: Facts) -> list[str]:
    encoded = facts.transfer_syntax not in UNCOMPRESSED
    said = []
    if encoded and find_spec("imagecodecs") is None:
        said.append("The pixels are encoded: pip install 'onfh-edge[codecs]' has them decoded in parallel.")
    elif encoded:
        said.append("The pixels are encoded: decoding takes the cores; sent uncompressed they are only copied.")
    else:
        said.append(
            f"Files are read and put into the volume at {row.gb_s:.2f} GB/s, both counted, {row.of_copy or 0:.0%} of a "
            "memory copy: faster storage, or a warm page cache, is what helps."
        )
    return [*said, "Studies in a row hide reading behind computing; a study alone cannot."]


def _preprocess(row: Row, engine: Engine, facts: Facts) -> list[str]:
    said = [
        "Fewer or thicker source slices, or a smaller field of view, make it cheaper: its cost follows the voxels. The "
        "search for the femoral heads is in its time, and not in its operations."
    ]
    if engine.backend not in DEVICE_BACKENDS:
        said.append("On a GPU the stages' inputs are made by one kernel.")
    return said


def _postprocess(row: Row, engine: Engine, facts: Facts) -> list[str]:
    return [f"Masks of {facts.gated} slices are put back onto the series; a stricter gate leaves fewer."]


def _write(row: Row, engine: Engine, facts: Facts) -> list[str]:
    return [
        "It moves few bytes: its time goes into making the SEG, the SR and the page, and into flushing each file to "
        "the disk. Studies in a row hide it behind computing."
    ]


_OF_STEP = {
    "read": _read,
    "preprocess": _preprocess,
    "classify": _stage,
    "segment": _stage,
    "postprocess": _postprocess,
    "write": _write,
}
