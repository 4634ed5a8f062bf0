from __future__ import annotations

import ctypes
from contextlib import AbstractContextManager
from itertools import count

import host_kernels
import numpy as np
import pytest
from host_device import HostDevice
from hypothesis import given, settings
from hypothesis import strategies as st
from real_gpu import opened_gpu
from scipy import ndimage

from onfh_runtime.bundle import Stage, StageInput, Window
from onfh_runtime.components import without_small_components
from onfh_runtime.device import DeviceArray
from onfh_runtime.kernels import kernel_source
from onfh_runtime.kernels.mask import component_scratch, launch_mask, launch_probabilities, launch_small_components
from onfh_runtime.preprocess import letterbox, map_to_stack
from onfh_runtime.preprocess.mask_tables import mask_tables
from onfh_runtime.stages import positive_probability


@pytest.fixture(scope="module", params=["host", pytest.param("gpu", marks=pytest.mark.gpu)])
def device(request):
    device = opened_gpu() if request.param == "gpu" else HostDevice()
    yield device
    device.close()


class Bench(AbstractContextManager):
    """Arrays brought to a device and back."""

    def __init__(self, device):
        self.stream, self.workspace, self.names = device.stream(), device.workspace(), count()

    def __exit__(self, *_):
        self.workspace.close()

    def empty(self, shape, dtype):
        return self.workspace.device(str(next(self.names)), shape, dtype)

    def put(self, values):
        there, host = self.empty(values.shape, values.dtype), self.pinned(values.shape, values.dtype)
        host[...] = values
        self.stream.upload(there, host)
        return there

    def pinned(self, shape, dtype):
        return self.workspace.pinned(str(next(self.names)), shape, dtype)

    def get(self, there):
        host = self.pinned(there.shape, there.dtype)
        self.stream.download(host, there)
        self.stream.synchronize()
        return host.copy()


def stage(activation="softmax", positive=1, size=(16, 24), minimum=0.0):
    window = Window(center=500, width=2000)
    return Stage(
        architecture="any",
        models={"fp32": "model.onnx"},
        input_name="pixels",
        output_name="logits",
        activation=activation,
        positive_class=positive,
        input=StageInput(size=size, windows=(window,), mean=(0,), std=(1,), min_pixel_spacing_mm=minimum),
    )


def probabilities_of(device, logits, spec, flag=0):
    with Bench(device) as bench:
        out, bad = bench.empty((len(logits), *logits.shape[2:]), np.float32), bench.put(np.array([flag], np.int32))
        launch_probabilities(bench.stream, bench.put(logits), spec, out=out, bad=bad)
        return bench.get(out), int(bench.get(bad)[0])


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("plane", [(), (5, 77)])
@pytest.mark.parametrize(
    ("activation", "classes", "positive"),
    [
        ("sigmoid", 1, 0),
        ("sigmoid", 3, 2),
        ("softmax", 2, 0),
        ("softmax", 2, 1),
        ("softmax", 5, 3),
        ("softmax", 150, 0),
        ("none", 1, 0),
        ("none", 2, 1),
    ],
)
def test_probabilities_are_the_stages(device, activation, classes, positive, plane, dtype):
    random = np.random.default_rng(classes)
    shape = (3, classes, *plane)
    logits = (random.random(shape) if activation == "none" else random.normal(0, 20, shape)).astype(dtype)
    spec = stage(activation, positive)
    out, bad = probabilities_of(device, logits, spec)
    np.testing.assert_allclose(out, positive_probability(logits, spec), rtol=2e-6, atol=2e-7)
    assert not bad


def test_extreme_logits_are_no_bad_values(device):
    logits = np.array([[-3e38, 3e38], [3e38, -3e38], [-65504, 65504]], np.float32)
    for spec, expected in ((stage("softmax"), [1, 0, 1]), (stage("sigmoid"), [1, 0, 1])):
        out, bad = probabilities_of(device, logits, spec)
        np.testing.assert_array_equal(out, expected)
        assert not bad


@pytest.mark.parametrize(
    ("activation", "classes", "channel", "value", "flag"),
    [
        ("softmax", 2, 0, np.nan, 1),
        ("softmax", 2, 1, np.inf, 0),
        ("softmax", 3, 1, np.nan, 1),
        ("softmax", 3, 2, np.nan, 1),
        ("softmax", 3, 2, np.inf, 1),
        ("sigmoid", 2, 1, np.nan, 1),
        ("sigmoid", 2, 0, np.nan, 0),
        ("none", 2, 1, np.nan, 1),
        ("none", 2, 1, 1.001, 1),
        ("none", 2, 1, -1e-6, 1),
    ],
)
def test_one_probability_that_is_none_raises_the_flag_as_the_reference_would(
    device, activation, classes, channel, value, flag
):
    logits = np.full((3, classes, 4, 100), 0.5, np.float32)
    logits[2, channel, 3, 99] = value
    with np.errstate(invalid="ignore"):
        expected = positive_probability(logits, stage(activation))
    out, bad = probabilities_of(device, logits, stage(activation))
    np.testing.assert_allclose(out, expected, rtol=2e-6)
    assert bad == flag == (not ((expected >= 0) & (expected <= 1)).all())


def test_a_raised_flag_stays(device):
    assert probabilities_of(device, np.zeros((2, 2), np.float32), stage(), flag=1)[1] == 1


def mask_of(device, maps, box, threshold):
    tables = mask_tables(box)
    with Bench(device) as bench:
        out = bench.empty((len(maps), *tables.size), np.uint8)
        launch_mask(bench.stream, bench.put(maps), tables, bench.put(tables.packed), threshold, out=out)
        return bench.get(out)


@settings(max_examples=80, deadline=None)
@given(
    slices=st.integers(1, 4),
    shape=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    spacing=st.tuples(st.floats(0.3, 4), st.floats(0.3, 4)),
    map_size=st.tuples(st.integers(1, 50), st.integers(1, 50)),
    minimum=st.floats(0, 3),
    threshold=st.floats(0.01, 0.99),
    seed=st.integers(0, 2**32 - 1),
)
def test_masks_differ_only_within_a_millionth_of_the_threshold(
    device, slices, shape, spacing, map_size, minimum, threshold, seed
):
    maps = np.random.default_rng(seed).random((slices, *map_size), np.float32)
    box = letterbox(shape, spacing, stage(minimum=minimum).input, map_size)
    values = map_to_stack(maps, box)
    if seed % 2:
        threshold = float(values.flat[seed % values.size]) or threshold  # on a voxel's very value
    out = mask_of(device, maps, box, threshold)
    assert out.max() <= 1
    clear = np.abs(values - np.float32(threshold)) > 1e-6
    np.testing.assert_array_equal(out[clear], (values >= threshold)[clear])


def test_a_voxel_at_the_threshold_is_in_the_mask(device):
    box = letterbox((16, 24), (1.0, 1.0), stage().input)
    maps = np.where(np.arange(24) % 2, np.float32(0.3), np.nextafter(np.float32(0.3), np.float32(0)))
    out = mask_of(device, np.broadcast_to(maps, (1, 16, 24)).astype(np.float32), box, float(np.float32(0.3)))
    np.testing.assert_array_equal(out[0], np.broadcast_to(np.arange(24) % 2, (16, 24)))


def test_few_voxels_of_a_large_mask_lie_that_near_the_threshold(device):
    random = np.random.default_rng(3)
    maps = random.random((2, 128, 128), np.float32)
    box = letterbox((300, 420), (0.7, 0.7), stage(size=(256, 256)).input, (128, 128))
    assert (mask_of(device, maps, box, 0.5) != (map_to_stack(maps, box) >= 0.5)).sum() <= 5


def left_by_kernels(device, mask, slice_index, minimum):
    with Bench(device) as bench:
        there, removed = bench.put(mask.astype(np.uint8)), bench.put(np.full(1, 77, np.int32))
        launch_small_components(
            bench.stream,
            there,
            bench.put(np.asarray(slice_index, np.int32)),
            minimum,
            scratch=bench.empty(component_scratch(mask.shape), np.int32),
            removed=removed,
        )
        return bench.get(there), int(bench.get(removed)[0])


@settings(max_examples=300, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 6), st.integers(1, 14), st.integers(1, 40)),
    share=st.sampled_from([0.0, 0.02, 0.1, 0.2, 0.35, 0.6, 0.97]),
    minimum=st.integers(0, 60),
    seed=st.integers(0, 2**32 - 1),
)
def test_what_is_left_is_what_the_reference_leaves(device, shape, share, minimum, seed):
    random = np.random.default_rng(seed)
    mask = random.random(shape) < share
    slice_index = np.cumsum(random.integers(1, 3, shape[0]))
    out, removed = left_by_kernels(device, mask, slice_index, minimum)
    expected, expected_removed = without_small_components(mask, slice_index, minimum)
    np.testing.assert_array_equal(out, expected.astype(np.uint8))
    assert removed == expected_removed


# Threads that come between: before one links two roots it has found, others run, which may link them first.
BETWEEN = """
void others_run();
inline int atomicMin(int* place, int value) {
    others_run();
    const int old = *place;
    if (value < old) *place = value;
    return old;
}
"""
MERGE = """
static ComponentMerge merging;
static int next_voxel, depth, came_between;
void others_run() {
    if (depth == 40 || next_voxel == merging.voxels.total) return;
    ++depth, ++came_between;
    merging.step(0, Thread{0, 1, {next_voxel++, 0, 0}, {0, 1, 1}}, nullptr);
    --depth;
}
extern "C" int merge_interrupted(u8* mask, i32* label, i32* size, i32 total, i32 rows, i32 columns, const i32* index) {
    merging = ComponentMerge{{mask, label, size, total, rows, columns}, index};
    next_voxel = came_between = 0;
    while (next_voxel < total) merging.step(0, Thread{0, 1, {next_voxel++, 0, 0}, {0, 1, 1}}, nullptr);
    return came_between;
}
"""


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("share", [0.05, 0.1, 0.2, 0.35, 0.6])
def test_pieces_are_the_same_when_other_threads_link_roots_first(share, seed):
    random = np.random.default_rng(seed)
    mask = (random.random((4, 20, 30)) < share).astype(np.uint8)
    label, size, index = np.empty(mask.shape, np.int32), np.empty(mask.shape, np.int32), np.arange(4, dtype=np.int32)
    shape = [np.int32(value) for value in (mask.size, 20, 30)]
    source = BETWEEN + kernel_source() + MERGE
    arrays = [array.ctypes.data for array in (mask, label, size)]
    host_kernels.launch("component_runs", (3, 1, 1), (32, 1, 1), [*arrays, *shape], source=source)
    merge = host_kernels.library(source).merge_interrupted
    between = merge(*map(ctypes.c_void_p, arrays), *map(int, shape), ctypes.c_void_p(index.ctypes.data))
    assert between > 10
    parents, roots = label.reshape(-1), label[mask > 0]
    while not np.array_equal(parents[roots], roots):
        roots = parents[roots]
    pieces, _ = ndimage.label(mask, np.ones((3, 3, 3)))
    pairs = np.unique(np.stack([roots, pieces[mask > 0]]), axis=1)
    assert pairs.shape[1] == len(np.unique(pairs[0])) == len(np.unique(pairs[1]))


def test_a_long_winding_piece_is_one(device):
    mask = np.zeros((5, 63, 300), bool)
    mask[::2, ::2] = True
    mask[::2, 1::4, 0] = mask[::2, 3::4, -1] = True
    mask[1, -1, -1] = mask[3, 0, 0] = True
    pieces = int(mask.sum())
    for minimum, left in ((pieces, pieces), (pieces + 1, 0)):
        out, removed = left_by_kernels(device, mask, np.arange(5), minimum)
        assert (out.sum(), removed) == (left, pieces - left)


def test_nothing_is_launched_for_nothing(device):
    assert (
        mask_of(device, np.empty((0, 8, 8), np.float32), letterbox((4, 4), (1, 1), stage().input, (8, 8)), 0.5).size
        == 0
    )
    assert probabilities_of(device, np.empty((0, 2, 4, 4), np.float32), stage())[1] == 0
    assert left_by_kernels(device, np.zeros((0, 4, 4), bool), np.arange(0), 9)[1] == 0


def test_more_voxels_than_the_kernels_count_are_refused():
    stream, one = HostDevice().stream(), DeviceArray(0, (1,), np.dtype(np.int32))
    mask = DeviceArray(0, (2**11, 2**10, 2**10), np.dtype(np.uint8))
    scratch = DeviceArray(0, component_scratch(mask.shape), np.dtype(np.int32))
    with pytest.raises(ValueError, match="2147483648 voxels are more than the kernels can count"):
        launch_small_components(stream, mask, one, 9, scratch=scratch, removed=one)
    assert not stream.queued
