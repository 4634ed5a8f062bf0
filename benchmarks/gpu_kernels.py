"""What the kernels move and how long they take, on any device.

Kernels are launched from a graph, so that the time is the GPU's and not that of queueing. Every launch has voxels and
output of its own, together many times larger than an L2 cache, so that no byte is found there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onfh_runtime.bundle import Stage, StageInput, Window
from onfh_runtime.components import without_small_components
from onfh_runtime.device import Device, DeviceArray, Stream, Workspace
from onfh_runtime.kernels.mask import component_scratch, launch_mask, launch_probabilities, launch_small_components
from onfh_runtime.kernels.stage_input import launch_stage_input, moved_bytes
from onfh_runtime.preprocess import coronal_stack, letterbox, plan_coronal, stage_input
from onfh_runtime.preprocess.device_tables import DeviceSource, InputTables, device_source, input_tables
from onfh_runtime.preprocess.mask_tables import mask_tables
from onfh_runtime.volume import CoronalStack, Volume

COPY_BYTES = 1 << 30
SOURCES = {"axial 400x512x512": (400, 512, 512), "coronal 60x512x512": (60, 512, 512)}
SIZES = (224, 512)
DTYPES: tuple[type[np.floating], ...] = (np.float16, np.float32)
MASK_STEPS = ("logits to probabilities", "probabilities to masks", "copy of the masks", "copy and small components")
RUNS = 7
_BONE = Window(center=500, width=2000)


def spec_of(size: int) -> StageInput:
    """Three equal channels of a bone window, as networks trained on photographs take them."""
    return StageInput(size=(size, size), windows=(_BONE,) * 3, mean=(0.5,) * 3, std=(0.5,) * 3)


def random_volume(shape: tuple[int, int, int], *, seed: int = 0) -> Volume:
    """CT of random HU: axial with voxels of 0.7 mm, or coronal and 3 mm thick when there are 60 slices or fewer."""
    voxels = np.random.default_rng(seed).integers(-1024, 2000, shape, np.int16)
    affine = np.eye(4)
    if shape[0] <= 60:
        affine[:3, :3] = np.array([[0, 0, 0.7], [3.0, 0, 0], [0, -0.7, 0]])
        return Volume(voxels, affine, np.ones(shape[0]), np.zeros(shape[0]), acquired="coronal")
    affine[:3, :3] = np.array([[0, 0, 0.7], [0, 0.7, 0], [0.7, 0, 0]])
    return Volume(voxels, affine, np.ones(shape[0]), np.zeros(shape[0]))


def whole_source(volume: Volume) -> tuple[DeviceSource, CoronalStack]:
    """All of a volume as coronal slices of 3 mm."""
    plan = plan_coronal(volume, 3.0)
    seen = coronal_stack(volume, plan)
    return device_source(volume, plan, tuple(slice(0, count) for count in plan.shape), seen), seen


def uploaded(stream: Stream, workspace: Workspace, name: str, array: NDArray) -> DeviceArray:
    """A copy on the device."""
    host = workspace.pinned(name, array.shape, array.dtype)
    there = workspace.device(name, array.shape, array.dtype)
    np.copyto(host, array)
    stream.upload(there, host)
    stream.synchronize()
    return there


def downloaded(stream: Stream, workspace: Workspace, array: DeviceArray) -> NDArray:
    """A copy on the host."""
    host = workspace.pinned("downloaded", array.shape, array.dtype)
    stream.download(host, array)
    stream.synchronize()
    return host.copy()


def times_ms(stream: Stream, work: Callable[[], None], count: int, runs: int = RUNS) -> list[float]:
    """Milliseconds of one of the ``count`` things that ``work`` queues, run by run; from a graph where it can be."""
    work()
    stream.synchronize()

    def captured() -> bool:
        work()
        return True

    graph = stream.capture(captured)
    found = []
    for _ in range(runs + 1):
        begun = stream.record()
        if graph is None:
            work()
        else:
            graph.launch(stream)
        found.append(stream.record().elapsed_ms(begun) / count)
    if graph is not None:
        graph.close()
    return found[1:]  # the first uploads the graph


def copy_gb_s(device: Device, nbytes: int = COPY_BYTES) -> list[float]:
    """Gigabytes a second of a copy on the device, bytes read and bytes written counted."""
    stream, workspace = device.stream(), device.workspace()
    target, source = (workspace.device(name, (nbytes,), np.uint8) for name in ("target", "source"))
    stream.zero(source)
    found = [2 * nbytes / ms / 1e6 for ms in times_ms(stream, lambda: stream.copy(target, source), 1)]
    workspace.close()
    return found


@dataclass(frozen=True)
class InputTimes:
    """Launches of ``stage_input`` on one source: bytes each must move at least, and milliseconds of each run."""

    moved: int
    ms: list[float]

    @property
    def gb_s(self) -> list[float]:
        """Bandwidth."""
        return [self.moved / ms / 1e6 for ms in self.ms]


def stage_input_times(
    device: Device, source: DeviceSource, size: int, dtype: type[np.floating], *, spread_bytes: int = COPY_BYTES
) -> InputTimes:
    """The kernel on every slice of a source.

    Args:
        device: where.
        source: from :func:`whole_source`.
        size: height and width of the input.
        dtype: of the input.
        spread_bytes: voxels and outputs of the launches between two looks at the same ones take at least so many.
    """
    stream, workspace = device.stream(), device.workspace()
    tables = input_tables(source, spec_of(size))
    slices = np.arange(source.shape[0], dtype=np.int32)
    moved = moved_bytes(tables, slices, dtype)
    packed = uploaded(stream, workspace, "tables", tables.packed)
    chosen = uploaded(stream, workspace, "slices", slices)
    first = uploaded(stream, workspace, "voxels", np.ascontiguousarray(source.voxels))
    sets = []
    for index in range(max(2, -(-spread_bytes // moved))):
        voxels = workspace.device(f"voxels {index}", first.shape, first.dtype)
        stream.copy(voxels, first)
        sets.append((voxels, workspace.device(f"out {index}", (len(slices), 3, size, size), dtype)))

    def work() -> None:
        for voxels, out in sets:
            launch_stage_input(stream, tables, packed, voxels, chosen, out=out)

    found = InputTimes(moved, times_ms(stream, work, len(sets)))
    workspace.close()
    return found


def stage_input_error(device: Device, volume: Volume, size: int) -> tuple[float, float]:
    """Largest difference from the NumPy reference: in FP32, and in FP16 in units in the last place of its rounding."""
    source, seen = whole_source(volume)
    stream, workspace = device.stream(), device.workspace()
    tables: InputTables = input_tables(source, spec_of(size))
    slices = np.arange(source.shape[0], dtype=np.int32)
    given = [
        uploaded(stream, workspace, name, np.ascontiguousarray(array))
        for name, array in (("tables", tables.packed), ("voxels", source.voxels), ("slices", slices))
    ]
    expected = stage_input(seen, spec_of(size))
    made = []
    for dtype in (np.float32, np.float16):
        out = workspace.device("out", (len(slices), 3, size, size), dtype)
        launch_stage_input(stream, tables, *given, out=out)
        made.append(downloaded(stream, workspace, out).astype(np.float32))
    workspace.close()
    rounded = expected.astype(np.float16)
    # Near zero a unit of float16 is finer than float32 arithmetic on values near the mean.
    unit = np.maximum(np.spacing(np.abs(rounded)).astype(np.float32), 1e-5)
    return (
        float(np.abs(made[0] - expected).max()),
        float((np.abs(made[1] - rounded.astype(np.float32)) / unit).max()),
    )


def mask_times(device: Device, side: int = 512, slices: int = 10) -> dict[str, list[float]]:
    """Microseconds of each step from FP16 logits of two classes to a mask without small pieces.

    Raises:
        RuntimeError: the components that are left are not those the NumPy reference leaves.
    """
    stream, workspace = device.stream(), device.workspace()
    random = np.random.default_rng(0)
    rules = Stage(
        architecture="",
        models={"fp16": "x.onnx"},
        input_name="x",
        output_name="y",
        input=spec_of(side),
    )
    coarse = random.normal(0, 1, (slices, 2, side // 16, side // 16)).repeat(16, 2).repeat(16, 3)
    logits = uploaded(stream, workspace, "logits", (coarse + random.normal(0, 0.3, coarse.shape)).astype(np.float16))
    maps = workspace.device("maps", (slices, side, side), np.float32)
    flags = workspace.device("flags", (2,), np.int32)
    tables = mask_tables(letterbox((side, side), (0.7, 0.7), rules.input, (side, side)))
    packed = uploaded(stream, workspace, "tables", tables.packed)
    mask, kept = (workspace.device(name, (slices, side, side), np.uint8) for name in ("mask", "kept"))
    index = uploaded(stream, workspace, "index", np.arange(slices, dtype=np.int32))
    scratch = workspace.device("scratch", component_scratch(mask.shape), np.int32)
    stream.zero(flags)
    steps: dict[str, Callable[[], None]] = {
        "logits to probabilities": lambda: launch_probabilities(stream, logits, rules, out=maps, bad=flags.rows(0, 1)),
        "probabilities to masks": lambda: launch_mask(stream, maps, tables, packed, 0.5, out=mask),
        "copy of the masks": lambda: stream.copy(kept, mask),
        "copy and small components": lambda: (
            stream.copy(kept, mask),
            launch_small_components(stream, kept, index, 200, scratch=scratch, removed=flags.rows(1, 2)),
        )[0],
    }
    found = {name: [1e3 * ms for ms in times_ms(stream, step, 1)] for name, step in steps.items()}
    before, after = (downloaded(stream, workspace, array) for array in (mask, kept))
    expected, _ = without_small_components(before.astype(bool), np.arange(slices), 200)
    workspace.close()
    if not np.array_equal(after.astype(bool), expected):
        raise RuntimeError("the components that are left are not those the reference leaves")
    return found
