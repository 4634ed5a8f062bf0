from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onfh_runtime.bundle import StageInput, Window
from onfh_runtime.preprocess import coronal_stack, letterbox, plan_coronal
from onfh_runtime.preprocess.device_tables import SHARED_BYTES, device_source, input_tables
from onfh_runtime.volume import Volume

BONE = Window(center=500, width=2000)


def source_of(shape=(20, 30, 40), *, slope=None, padding=None, tilt=0.0, signs=(1, 1, 1), margin=2):
    """A cut axial volume with planes of 0.8 mm."""
    affine = np.eye(4)
    affine[:3, :3] = np.array([[0, 0, 0.9], [tilt, 0.8, 0], [2.0, 0, 0]]) * signs
    random = np.random.default_rng(0)
    volume = Volume(
        random.integers(-1000, 3000, shape).astype(np.int16),
        affine,
        np.ones(shape[0]) if slope is None else np.asarray(slope, float),
        np.full(shape[0], -1024.0),
        padding,
    )
    plan = plan_coronal(volume, 3.0)
    box = (slice(1, plan.shape[0] - 1), *(slice(margin, count - 2 * margin) for count in plan.shape[1:]))
    seen = coronal_stack(volume, plan).part(box)
    return device_source(volume, plan, box, seen), volume, seen


def spec(size=(32, 48), windows=(BONE,), **more):
    return StageInput(size=size, windows=windows, mean=(0.2,) * len(windows), std=(0.5,) * len(windows), **more)


def read(tables, name):
    """A table as the kernel finds it."""
    start, shape, dtype = tables.parts[name]
    return tables.packed[start : start + int(np.prod(shape)) * dtype.itemsize].view(dtype).reshape(shape)


def dense(runs, weights, inputs):
    """The matrix that stretches stand for."""
    matrix = np.zeros((len(runs), inputs), np.float32)
    for row, (first, count), values in zip(matrix, runs, weights, strict=True):
        row[first : first + count] = values[:count]
        assert not values[count:].any()
    return matrix


@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, 1, -1), (1, -1, 1), (-1, -1, -1)])
def test_strides_lead_through_the_uploaded_voxels_as_the_stack_runs(signs):
    source, _, seen = source_of(signs=signs)
    flat = np.ascontiguousarray(source.voxels).reshape(-1)
    planes = np.arange(source.weights.shape[1])[:, None, None] * source.strides[0]
    rows = np.arange(source.shape[1])[None, :, None] * source.strides[1]
    columns = np.arange(source.shape[2])[None, None] * source.strides[2]
    hu = flat[source.origin + planes + rows + columns] - 1024.0
    np.testing.assert_allclose(np.tensordot(source.weights, hu, 1), seen.hu, atol=1e-3)


def test_only_what_is_seen_is_uploaded_and_nothing_is_copied():
    source, volume, seen = source_of()
    assert source.shape == seen.hu.shape
    assert source.spacing_mm == pytest.approx((2.0, 0.9))
    assert source.voxels.size < volume.voxels.size
    assert np.shares_memory(source.voxels, volume.voxels)
    assert source.weights.any(axis=0).all()
    np.testing.assert_allclose(source.weights.sum(axis=1), 1)


def test_one_scale_for_all_is_told_from_a_scale_for_each():
    same, _, _ = source_of()
    assert (same.scale_axis, same.scale.tolist()) == (3, [[1.0, -1024.0]])
    slope = np.linspace(1, 2, 20)
    varied, _, _ = source_of(slope=slope)
    assert varied.scale_axis == 1
    np.testing.assert_array_equal(varied.scale[:, 0], slope[::-1][2:-4])  # rows run head to foot, these slices upwards


def test_what_a_tilted_gantry_gave_is_uploaded_as_the_stack():
    source, _, seen = source_of(tilt=0.4, padding=(-2000, -2000))
    assert source.voxels is seen.hu
    assert source.scale.tolist() == [[1.0, 0.0]]
    assert source.padding is None
    assert np.array_equal(source.weights, np.eye(len(seen.hu)))


@settings(max_examples=100, deadline=None)
@given(
    size=st.tuples(st.integers(1, 130), st.integers(1, 130)),
    minimum=st.sampled_from((0.0, 0.5, 4.0)),
    windows=st.lists(st.builds(Window, center=st.sampled_from((0, 50, 500)), width=st.just(400)), min_size=1),
)
def test_the_tables_hold_what_the_matrices_hold(size, minimum, windows):
    source, _, _ = source_of()
    stage = spec(size, tuple(windows), min_pixel_spacing_mm=minimum)
    tables, boxed = input_tables(source, stage), letterbox(source.shape[1:], source.spacing_mm, stage)
    rows, columns = read(tables, "rows"), read(tables, "columns")
    assert np.array_equal(dense(rows, read(tables, "row_weights"), source.shape[1]), boxed.rows.astype(np.float32))
    assert np.array_equal(
        dense(columns, read(tables, "column_weights").T, source.shape[2]), boxed.columns.astype(np.float32)
    )
    for (first, count, begin), expected in zip(read(tables, "slabs"), source.weights, strict=True):
        stretch = read(tables, "slab_weights")[begin : begin + count]
        assert np.array_equal(stretch, expected[first : first + count].astype(np.float32))
        assert np.count_nonzero(expected) == count
    # Every tile sees all columns that its pixels draw on, and a block has room for them.
    tiles = read(tables, "tiles")
    assert len(tiles) == -(-size[1] // tables.tile_columns)
    for index, (first, count) in enumerate(columns):
        start, seen = tiles[index // tables.tile_columns]
        assert count == 0 or (start <= first and first + count <= start + seen)
    assert tiles[:, 1].max() == tables.pitch
    assert 4 * tables.windows_at_once * tables.tile_rows * tables.pitch <= SHARED_BYTES
    # Channels name their own window.
    low = np.array([window.center - window.width / 2 for window in windows])
    of_channel = read(tables, "channels").view(np.int32)[:, 0]
    assert np.array_equal(read(tables, "windows")[of_channel, 0], low)
    assert tables.windows == len(set(windows))


def test_tables_are_aligned_and_do_not_overlap():
    tables = input_tables(source_of()[0], spec(windows=(BONE, Window(center=50, width=400), BONE)))
    end = 0
    for start, shape, dtype in tables.parts.values():
        assert start % 16 == 0
        assert start >= end
        end = start + int(np.prod(shape)) * dtype.itemsize
    assert end <= tables.packed.nbytes
    assert tables.packed.nbytes < 100_000
