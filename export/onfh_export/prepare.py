"""From labelled series to network inputs, by the runtime's own reading and preprocessing, cached per case.

The cache lies in DATA/.cache, one .npz per case, named by a digest of everything it depends on: the preprocessing part
of the recipe and the names, sizes and times of the case's files.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from onfh_export.dataset import Case, SliceLabels, TruthMask, read_truth
from onfh_export.recipe import Recipe
from onfh_runtime import __version__
from onfh_runtime.anatomy import find_femoral_heads
from onfh_runtime.dicom import find_series, read_volume
from onfh_runtime.errors import SeriesError
from onfh_runtime.preprocess import coronal_stack, head_box, letterbox, mask_to_input, plan_coronal, stage_input
from onfh_runtime.volume import CoronalStack

__all__ = ["PreparedCase", "mask_on_stack", "prepare", "prepared_case"]

_FORMAT = 1
"""Raised whenever the code below would write other numbers from the same files."""
_SUPERSAMPLE = 3
"""Points per slab, front to back, at which a truth mask is read: near lossless for slabs of a few planes."""
_KEYS = (
    "slice_spacing_mm",
    "coverage_margin_mm",
    "coverage_in_plane_mm",
    "single_hip_every",
    "size",
    "pixel_mm",
    "window_center",
    "window_width",
    "mean",
    "std",
)


@dataclass(frozen=True)
class PreparedCase:
    """The analysed slices of one case.

    Attributes:
        case: which.
        pixels: (N, C, H, W) float16, the stages' normalised input.
        masks: (N, H, W) uint8, truth at input size; zeros where ``has_mask`` is false.
        positive: (N,) bool, slice labels.
        known: (N,) bool, slices that have a label at all.
        positions_mm: (N,) float64, LPS y.
        pixel_mm: side of an input pixel.
        slice_mm: distance of the slices.
        has_mask: whether the truth was a mask.
    """

    case: Case
    pixels: NDArray[np.float16]
    masks: NDArray[np.uint8]
    positive: NDArray[np.bool_]
    known: NDArray[np.bool_]
    positions_mm: NDArray[np.float64]
    pixel_mm: float
    slice_mm: float
    has_mask: bool


def prepare(
    data: Path, cases: tuple[Case, ...], recipe: Recipe, *, workers: int, say: Callable[[str], None]
) -> tuple[PreparedCase, ...]:
    """Prepare every case, from the cache where it is fresh; a case that must not be analysed is left out and said.

    Args:
        data: the folder of the cases; its ``.cache`` is written.
        cases: what :func:`~onfh_export.dataset.read_cases` returned.
        recipe: its preprocessing fields.
        workers: processes; 1 stays in this one.
        say: takes one line of progress.
    """
    work = partial(_cached, data / ".cache", recipe)
    if workers > 1:
        with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
            outcomes = list(_said(pool.map(work, cases, chunksize=4), len(cases), say))
    else:
        outcomes = list(_said(map(work, cases), len(cases), say))
    prepared = []
    for case, outcome in zip(cases, outcomes, strict=True):
        if isinstance(outcome, Path):
            prepared.append(_loaded(case, outcome))
        else:
            say(f"case {case.index} is left out: {outcome}")
    return tuple(prepared)


def prepared_case(case: Case, recipe: Recipe) -> PreparedCase:
    """Read, reformat, cut to the femoral heads and scale one case.

    Raises:
        SeriesError: the series must not be analysed, for the reason the runtime would give.
        UsageError: the truth file is invalid.
    """
    candidates, _ = find_series([case.series])
    if len(candidates) != 1:
        raise SeriesError(
            "not_one_series", f"The folder of case {case.index} holds {len(candidates)} CT series, not 1."
        )
    volume, _ = read_volume(candidates[0])
    whole = coronal_stack(volume, plan_coronal(volume, recipe.slice_spacing_mm))
    anatomy = find_femoral_heads(whole.hu, whole.affine)
    truth = read_truth(case.truth)
    heads = anatomy.heads
    # Labels speak of whole slices, so only a mask can say what part of one shows.
    if isinstance(truth, TruthMask) and case.split == "train" and case.index % recipe.single_hip_every == 0:
        heads = heads[case.index // recipe.single_hip_every % len(heads) :][:1]
    stack = whole.part(head_box(whole, heads, recipe.coverage))
    spec = recipe.stage_input
    tables = letterbox((stack.hu.shape[1], stack.hu.shape[2]), stack.spacing_mm[1:], spec)
    pixels = stage_input(stack, spec).astype(np.float16)
    masks = np.zeros((len(pixels), *spec.size), np.uint8)
    if isinstance(truth, TruthMask):
        on_stack = mask_on_stack(truth, stack)
        masks = (mask_to_input(on_stack, tables) >= 0.5).astype(np.uint8)
        area = on_stack.sum(axis=(1, 2)) * np.prod(stack.spacing_mm[1:])
        positive, known = area >= recipe.positive_area_mm2, np.ones(len(pixels), np.bool_)
    else:
        positive, known = _labels_on(truth, stack)
    return PreparedCase(
        case, pixels, masks, positive, known, stack.positions_mm, tables.pixel_mm, stack.spacing_mm[0],
        isinstance(truth, TruthMask),
    )  # fmt: skip


def mask_on_stack(truth: TruthMask, stack: CoronalStack) -> NDArray[np.float32]:
    """Truth on the stack's grid: the share of each voxel's slab that is necrosis.

    The nearest truth voxel is read at three points through each slab.

    Returns:
        (slices, rows, columns) float32 in 0..1.
    """
    out = np.zeros(stack.hu.shape, np.float32)
    inside = np.argwhere(truth.mask)
    if not len(inside):
        return out
    to_mask = np.linalg.inv(truth.affine) @ stack.affine
    corners = np.stack(np.meshgrid(*zip(inside.min(axis=0) - 1, inside.max(axis=0) + 1, strict=True)), -1).reshape(
        -1, 3
    )
    box = (np.linalg.inv(to_mask) @ np.c_[corners, np.ones(len(corners))].T)[:3]
    low = np.maximum(np.floor(box.min(axis=1)).astype(int), 0)
    high = np.minimum(np.ceil(box.max(axis=1)).astype(int) + 1, stack.hu.shape)
    if (low >= high).any():
        return out
    steps = (np.arange(_SUPERSAMPLE) + 0.5) / _SUPERSAMPLE - 0.5
    part = np.zeros(tuple(high - low), np.float32)
    for step in steps:
        axes = [np.arange(low[0], high[0]) + step, np.arange(low[1], high[1]), np.arange(low[2], high[2])]
        grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
        index = np.rint(grid @ to_mask[:3, :3].T + to_mask[:3, 3]).astype(int)
        valid = ((index >= 0) & (index < truth.mask.shape)).all(axis=-1)
        part[valid] += truth.mask[tuple(index[valid].T)]
    out[low[0] : high[0], low[1] : high[1], low[2] : high[2]] = part / _SUPERSAMPLE
    return out


def _labels_on(truth: SliceLabels, stack: CoronalStack) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """The label of the nearest labelled slice within half a slice distance; the others stay unknown."""
    if not len(truth.positions_mm):
        nothing = np.zeros(len(stack.hu), np.bool_)
        return nothing, nothing
    distance = np.abs(stack.positions_mm[:, None] - truth.positions_mm[None])
    known = distance.min(axis=1) <= stack.spacing_mm[0] / 2
    return truth.positive[distance.argmin(axis=1)] & known, known


def _cached(folder: Path, recipe: Recipe, case: Case) -> Path | str:
    """Path of the case's cache file, written if need be, or the sentence that says why there is none."""
    files = sorted(case.series.rglob("*")) if case.series.is_dir() else [case.series]
    stamps = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in [*files, case.truth]]
    settings = {key: getattr(recipe, key) for key in (*_KEYS, "positive_area_mm2")}
    digest = hashlib.sha256(json.dumps([_FORMAT, __version__, settings, case.split, stamps]).encode()).hexdigest()[:16]
    path = folder / f"{case.index:05d}-{digest}.npz"
    if path.is_file():
        return path
    try:
        ready = prepared_case(case, recipe)
    except SeriesError as error:
        return str(error)
    folder.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp.npz")
    np.savez(
        temporary, pixels=ready.pixels, masks=ready.masks, positive=ready.positive, known=ready.known,
        positions_mm=ready.positions_mm, scalars=np.array([ready.pixel_mm, ready.slice_mm, ready.has_mask]),
    )  # fmt: skip
    temporary.replace(path)
    return path


def _loaded(case: Case, path: Path) -> PreparedCase:
    with np.load(path, allow_pickle=False) as arrays:
        pixel_mm, slice_mm, has_mask = (float(value) for value in arrays["scalars"])
        return PreparedCase(
            case, arrays["pixels"], arrays["masks"], arrays["positive"], arrays["known"], arrays["positions_mm"],
            pixel_mm, slice_mm, bool(has_mask),
        )  # fmt: skip


def _said(outcomes, total: int, say: Callable[[str], None]):  # type: ignore[no-untyped-def]
    for done, outcome in enumerate(outcomes, 1):
        if done % 25 == 0 or done == total:
            say(f"prepared {done} of {total} cases")
        yield outcome
