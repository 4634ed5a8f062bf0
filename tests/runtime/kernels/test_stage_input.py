from __future__ import annotations

from contextlib import closing
from itertools import permutations, product

import host_kernels
import numpy as np
import pytest
from host_device import HostDevice
from hypothesis import given, settings
from hypothesis import strategies as st
from real_gpu import opened_gpu

from onfh_runtime.answer import prepare
from onfh_runtime.bundle import StageInput, Window, load_bundle
from onfh_runtime.cli.infer import demo_bundle
from onfh_runtime.device import DeviceArray
from onfh_runtime.dicom import find_series, read_volume
from onfh_runtime.kernels.stage_input import launch_stage_input, moved_bytes
from onfh_runtime.preprocess import coronal_stack, plan_coronal, stage_input
from onfh_runtime.preprocess.device_tables import DeviceSource, device_source, input_tables
from onfh_runtime.timing import Stopwatch
from onfh_runtime.volume import AIR_HU, CoronalStack, Volume

BONE, SOFT, LUNG, WIDE = (
    Window(center=500, width=2000),
    Window(center=50, width=400),
    Window(center=-600, width=1600),
    Window(center=0, width=4000),
)
ONE = StageInput(size=(16, 24), windows=(BONE,), mean=(0.0,), std=(1.0,))


def uploaded(stream, workspace, name, array):
    there = workspace.device(name, array.shape, array.dtype)
    pinned = workspace.pinned(name, array.shape, array.dtype)
    pinned[...] = array
    stream.upload(there, pinned)
    return there


def made(source, spec, slices, dtype, device=None):
    """The input of a stage as the kernel makes it."""
    device = device or HostDevice()
    stream, workspace = device.stream(), device.workspace()
    tables = input_tables(source, spec)
    shape = (len(slices), len(spec.windows), *spec.size)
    out, back = workspace.device("out", shape, dtype), workspace.pinned("out", shape, dtype)
    arrays = {"tables": tables.packed, "voxels": source.voxels, "slices": np.asarray(slices, np.int32)}
    there = [uploaded(stream, workspace, name, array) for name, array in arrays.items()]
    launch_stage_input(stream, tables, *there, out=out)
    stream.download(back, out)
    stream.synchronize()
    result = back.copy()
    workspace.close()
    return result


def assert_same(got, expected):
    """Within 1e-5 in float32; in float16 within one unit in the last place of the rounded reference."""
    if got.dtype == np.float32:
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)
        return
    rounded = expected.astype(np.float16)
    with np.errstate(over="ignore"):
        apart = np.abs(got.astype(np.float32) - rounded.astype(np.float32))
    # Near zero a unit of float16 is finer than float32 arithmetic on values near the mean.
    assert (apart <= np.maximum(np.spacing(np.abs(rounded)).astype(np.float32), 1e-5)).all()


def assert_kernel_agrees(volume, spec, *, box=None, slices=None, dtype=np.float32, spacing=3.0, device=None):
    plan = plan_coronal(volume, spacing)
    whole = coronal_stack(volume, plan)
    box = box or tuple(slice(0, count) for count in plan.shape)
    seen = whole.part(box)
    slices = list(range(len(seen.hu))) if slices is None else slices
    source = device_source(volume, plan, box, seen)
    expected = stage_input(CoronalStack(seen.hu[slices], seen.affine), spec)
    assert_same(made(source, spec, slices, dtype, device), expected)
    return source


def volume_of(shape, affine, *, dtype=np.int16, padding=None, vary=False, seed=0):
    random = np.random.default_rng(seed)
    low, high = (-1024, 3072) if dtype == np.int16 else (0, 4096)
    voxels = random.integers(low, high, shape).astype(dtype)
    voxels[random.random(shape) < 0.02] = np.iinfo(dtype).max  # metal
    if padding is not None:
        voxels[random.random(shape) < 0.1] = padding[0]
    slope = random.uniform(0.5, 1.5, shape[0]) if vary else np.ones(shape[0])
    intercept = random.uniform(-1100, -900, shape[0]) if vary else np.full(shape[0], 0.0 if low else -1024.0)
    return Volume(voxels, np.asarray(affine, float), slope, intercept, padding)


def affine_of(order, signs, spacing, turn=0.0):
    """Array axes along the patient's, in any order and direction, and all of it turned by some degrees."""
    directions = np.zeros((3, 3))
    for axis, (patient, sign) in enumerate(zip(order, signs, strict=True)):
        directions[patient, axis] = sign * spacing[axis]
    c, s = np.cos(np.radians(turn)), np.sin(np.radians(turn))
    affine = np.eye(4)
    affine[:3, :3] = (
        np.array([[1, 0, 0], [0, c, -s], [0, s, c]]) @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ directions
    )
    affine[:3, 3] = (-20.0, 30.0, -40.0)
    return affine


AXIAL, CORONAL = (2, 1, 0), (1, 2, 0)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize(
    ("order", "signs"), [(order, signs) for order in permutations(range(3)) for signs in product((1, -1), repeat=3)]
)
def test_every_orientation(order, signs, dtype):
    volume = volume_of((9, 11, 13), affine_of(order, signs, (1.1, 0.9, 1.3)), vary=True, padding=(-2000, -1500))
    source = assert_kernel_agrees(volume, ONE, dtype=dtype, spacing=2.5)
    assert source.scale_axis == plan_coronal(volume, 2.5).axes.index(0)


@st.composite
def cases(draw):
    """A volume, what is seen of it, a stage's input, and which slices are wanted."""
    order = draw(st.sampled_from([AXIAL, CORONAL, *permutations(range(3))]))
    signs = draw(st.tuples(*[st.sampled_from((1, -1))] * 3))
    spacing = draw(st.tuples(*[st.floats(0.4, 4.0)] * 3))
    shape = [draw(st.integers(2, 60)) for _ in range(3)]
    depth = order.index(1)
    shape[depth] = max(shape[depth], int(np.ceil(3.2 / spacing[depth])))
    dtype = draw(st.sampled_from((np.int16, np.uint16)))
    padding = draw(st.sampled_from((None, (-2000, -2000), (-32768, -1100)) if dtype == np.int16 else (None, (0, 100))))
    affine = affine_of(order, signs, spacing, draw(st.sampled_from((0.0, 0.3, 12.0))))
    if order == AXIAL and draw(st.booleans()):  # a tilted gantry
        affine[:3, 0] += affine[:3, 1] / spacing[1] * spacing[0] * draw(st.sampled_from((-0.3, -0.05, 0.2, 0.5)))
    volume = volume_of(
        tuple(shape), affine, dtype=dtype, padding=padding, vary=draw(st.booleans()), seed=draw(st.integers(0, 99))
    )
    plan = plan_coronal(volume, 3.0)
    box = []
    for count in plan.shape:
        start = draw(st.integers(0, count - 1))
        box.append(slice(start, draw(st.integers(start + 1, count))) if draw(st.booleans()) else slice(0, count))
    windows = draw(st.lists(st.sampled_from((BONE, SOFT, LUNG, WIDE)), min_size=1, max_size=4))
    spec = StageInput(
        size=draw(st.tuples(*[st.integers(1, 90)] * 2)),
        windows=tuple(windows),
        mean=tuple(draw(st.floats(0, 0.6)) for _ in windows),
        std=tuple(draw(st.floats(0.2, 2)) for _ in windows),
        min_pixel_spacing_mm=draw(st.sampled_from((0.0, 0.8, 5.0))),
    )
    slices = draw(st.lists(st.integers(0, box[0].stop - box[0].start - 1), max_size=6))
    return volume, spec, tuple(box), slices


@settings(max_examples=250, deadline=None)
@given(case=cases(), dtype=st.sampled_from((np.float32, np.float16)))
def test_any_volume_and_any_input(case, dtype):
    volume, spec, box, slices = case
    assert_kernel_agrees(volume, spec, box=box, slices=slices, dtype=dtype)


@pytest.fixture(scope="module")
def gpu():
    with closing(opened_gpu()) as device:
        yield device


@pytest.mark.gpu
@settings(max_examples=250, deadline=None)
@given(case=cases(), dtype=st.sampled_from((np.float32, np.float16)))
def test_any_volume_and_any_input_on_a_gpu(gpu, case, dtype):
    volume, spec, box, slices = case
    assert_kernel_agrees(volume, spec, box=box, slices=slices, dtype=dtype, device=gpu)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("plane", ["axial", "coronal"])
@pytest.mark.parametrize("stage", ["classifier", "segmenter"])
def test_the_phantom_with_the_demo_bundle(phantom_study, plane, stage, dtype):
    rules = load_bundle(demo_bundle()).content
    candidates, _ = find_series([phantom_study / plane])
    volume, _ = read_volume(candidates[0])
    ready = prepare(volume, rules, Stopwatch())
    spec = getattr(rules, stage).input
    source = device_source(volume, ready.plan, ready.box, ready.seen)
    slices = list(range(len(ready.seen.hu)))[:: 1 if stage == "classifier" else -2]
    expected = stage_input(CoronalStack(ready.seen.hu[slices], ready.seen.affine), spec)
    assert_same(made(source, spec, slices, dtype), expected)
    assert source.voxels.nbytes < volume.voxels.nbytes


def test_more_windows_than_one_pass_makes():
    volume = volume_of((30, 9, 40), affine_of(AXIAL, (1, 1, 1), (1.5, 1.0, 1.1)))
    windows = (BONE, SOFT, BONE, LUNG, WIDE, SOFT)
    spec = StageInput(size=(20, 33), windows=windows, mean=(0.1,) * 6, std=(0.3, 0.4, 0.5, 0.6, 0.7, 0.8))
    assert_kernel_agrees(volume, spec)


def test_a_large_shrink_still_fits_shared_memory():
    volume = volume_of((3, 5, 3000), affine_of(AXIAL, (1, 1, 1), (1.0, 1.0, 0.5)))
    three = StageInput(size=(3, 2), windows=(BONE, SOFT, WIDE), mean=(0, 0, 0), std=(1, 1, 1))
    assert_kernel_agrees(volume, three)
    tall = volume_of((1500, 5, 3), affine_of(AXIAL, (1, 1, 1), (0.5, 1.0, 1.0)))
    assert_kernel_agrees(tall, three)


def test_a_pixel_of_more_columns_than_shared_memory_holds_is_refused():
    volume = volume_of((2, 5, 20000), affine_of(AXIAL, (1, 1, 1), (1.0, 1.0, 0.5)))
    with pytest.raises(ValueError, match="more than a block can hold"):
        assert_kernel_agrees(volume, StageInput(size=(1, 1), windows=(BONE, SOFT), mean=(0, 0), std=(1, 1)))


def test_slabs_of_many_planes():
    volume = volume_of((4, 64, 40), affine_of(AXIAL, (1, -1, 1), (2.0, 0.15, 1.0)))
    assert_kernel_agrees(volume, ONE)


def test_every_stored_value_is_read_as_its_number():
    for dtype in (np.int16, np.uint16):
        values = np.arange(np.iinfo(dtype).min, np.iinfo(dtype).max + 1, dtype=np.int32).astype(dtype)
        volume = Volume(
            values.reshape(1, 256, 256),
            affine_of(CORONAL, (1, -1, 1), (3.0, 1.0, 1.0)),
            np.ones(1),
            np.zeros(1),
        )
        everything = Window(center=0, width=float(1 << 17))
        spec = StageInput(size=(256, 256), windows=(everything,), mean=(0.5,), std=(2.0**-17,))
        plan = plan_coronal(volume, 3.0)
        seen = coronal_stack(volume, plan)
        box = tuple(slice(0, count) for count in plan.shape)
        out = made(device_source(volume, plan, box, seen), spec, [0], np.float32)
        assert np.array_equal(out[0, 0], values.reshape(256, 256).astype(np.float32))


class Direct:
    """A stream over arrays of the host that were never copied."""

    def launch(self, kernel, grid, block, args, *, shared_bytes=0):
        values = [arg.address if isinstance(arg, DeviceArray) else arg for arg in args]
        host_kernels.launch(kernel, grid, block, values, shared_bytes=shared_bytes)


@pytest.mark.parametrize("flip", [False, True])
def test_a_volume_of_more_than_eight_gigabytes(tmp_path, flip):
    shape = (9, 1 << 14, 1 << 15)
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.truncate(int(np.prod(shape)) * 2)
    voxels = np.memmap(path, np.int16, "r+", shape=shape)
    last = voxels[:, -3:, -5:]
    last[...] = np.random.default_rng(0).integers(-1000, 3000, last.shape)
    sign = -1 if flip else 1
    steps = (shape[1] * shape[2], shape[2], 1)
    source = DeviceSource(
        voxels=voxels,
        shape=(1, 3, 5),
        spacing_mm=(1.0, 1.0),
        origin=(voxels.size - 1) if flip else steps[1] * (shape[1] - 3) + steps[2] * (shape[2] - 5),
        strides=(sign * steps[0], sign * steps[1], sign * steps[2]),
        weights=np.full((1, 9), 1 / 9),
        scale=np.array([[1.0, 0.0]]),
        scale_axis=3,
        padding=None,
    )
    tables = input_tables(source, ONE)
    out = np.empty((1, 1, 16, 24), np.float32)
    arrays = [tables.packed, voxels, np.zeros(1, np.int32), out]
    packed, there, slices, made_there = (DeviceArray(a.ctypes.data, a.shape, a.dtype) for a in arrays)
    launch_stage_input(Direct(), tables, packed, there, slices, out=made_there)
    hu = last.astype(np.float32).mean(axis=0, keepdims=True)
    stack = CoronalStack(hu[:, ::-1, ::-1] if flip else hu, affine_of(CORONAL, (1, -1, 1), (3.0, 1.0, 1.0)))
    assert_same(out, stage_input(stack, ONE))


def test_no_slices_is_no_launch():
    volume = volume_of((4, 6, 5), affine_of(AXIAL, (1, 1, 1), (1.0, 1.0, 1.0)))
    assert_kernel_agrees(volume, ONE, slices=[])


def test_arrays_that_do_not_fit_are_refused():
    volume = volume_of((4, 6, 5), affine_of(AXIAL, (1, 1, 1), (1.0, 1.0, 1.0)))
    plan = plan_coronal(volume, 3.0)
    source = device_source(volume, plan, tuple(map(slice, (0, 0, 0), plan.shape)), coronal_stack(volume, plan))
    tables, device = input_tables(source, ONE), HostDevice()
    workspace = device.workspace()
    arrays = {
        "packed": (tables.packed.shape, np.uint8),
        "voxels": (source.voxels.shape, np.int16),
        "slices": ((2,), np.int32),
        "out": ((2, 1, 16, 24), np.float16),
    }
    wrong = {
        "packed": ((8,), np.uint8),
        "voxels": (source.voxels.shape, np.uint16),
        "slices": ((2,), np.int64),
        "out": ((3, 1, 16, 24), np.float16),
    }
    for name, form in wrong.items():
        given_arrays = {key: workspace.device(key, *form_) for key, form_ in {**arrays, name: form}.items()}
        with pytest.raises(ValueError, match="do not fit"):
            launch_stage_input(device.stream(), tables, **given_arrays)


def test_moved_bytes_counts_each_byte_once():
    volume = volume_of((4, 12, 5), affine_of(AXIAL, (1, 1, 1), (1.0, 1.0, 1.0)))
    plan = plan_coronal(volume, 3.0)
    box = (slice(1, 4), slice(0, 4), slice(1, 5))
    source = device_source(volume, plan, box, coronal_stack(volume, plan).part(box))
    tables = input_tables(source, ONE)
    assert source.voxels.shape == (4, 9, 4)
    assert moved_bytes(tables, np.array([0, 1, 2]), np.float16) == 4 * 9 * 4 * 2 + 3 * 16 * 24 * 2
    assert moved_bytes(tables, np.array([2, 2]), np.float32) == 4 * 3 * 4 * 2 + 2 * 16 * 24 * 4


def test_air_is_what_the_reference_calls_air():
    volume = volume_of((4, 6, 5), affine_of(AXIAL, (1, 1, 1), (1.0, 1.0, 1.0)), padding=(-2000, -2000))
    volume.voxels[:] = -2000
    spec = StageInput(size=(16, 24), windows=(LUNG,), mean=(0.0,), std=(1.0,))
    plan = plan_coronal(volume, 3.0)
    source = device_source(volume, plan, tuple(map(slice, (0, 0, 0), plan.shape)), coronal_stack(volume, plan))
    expected = (AIR_HU - (LUNG.center - LUNG.width / 2)) / LUNG.width
    np.testing.assert_allclose(made(source, spec, [0, 1], np.float32), expected, rtol=1e-6)
