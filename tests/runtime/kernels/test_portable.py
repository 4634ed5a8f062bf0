"""The way kernels are run on a CPU, on which the other tests of kernels rely."""

from __future__ import annotations

import host_kernels
import numpy as np
import pytest

from onfh_runtime.kernels import KERNELS, kernel_source

REVERSED = """
struct Reversed {
    const float* values;
    half_t* out;
    i32 count;
    float added;

    DEVICE int steps() const { return 2; }
    DEVICE void step(int i, const Thread& t, char* shared) const {
        float* kept = reinterpret_cast<float*>(shared);
        const i32 first = t.block.x * t.count;
        if (i == 0)
            kept[t.index] = values[first + t.index];
        else if (first + t.index < count)
            store(out + first + t.index, kept[t.count - 1 - t.index] + added);
    }
};
KERNEL(reversed, Reversed, (const float* values, half_t* out, i32 count, float added), values, out, count, added)
"""


def reverse(source, *, threads=32, shared_bytes=128):
    values = np.random.default_rng(0).normal(size=864).astype(np.float32)
    out = np.empty(864, np.float16)
    host_kernels.launch(
        "reversed",
        (864 // threads, 1, 1),
        (threads, 1, 1),
        [values.ctypes.data, out.ctypes.data, np.int32(864), np.float32(0.5)],
        shared_bytes=shared_bytes,
        source=kernel_source() + source,
    )
    return out, (values.reshape(-1, threads)[:, ::-1].reshape(-1) + np.float32(0.5)).astype(np.float16)


def test_threads_share_what_an_earlier_step_left():
    got, expected = reverse(REVERSED)
    assert np.array_equal(got, expected)


def test_a_missing_meeting_point_shows():
    together = REVERSED.replace("return 2;", "return 1;").replace("else if", "if")
    got, expected = reverse(together)
    assert not np.array_equal(got[:32], expected[:32])
    assert not np.array_equal(got[32:64], expected[32:64])


def test_a_write_behind_shared_memory_is_noticed():
    with pytest.raises(AssertionError, match="behind its 96 bytes"):
        reverse(REVERSED, shared_bytes=96)


def test_a_launch_that_cuda_refuses_is_refused():
    with pytest.raises(AssertionError, match="cannot be launched"):
        reverse(REVERSED, threads=288, shared_bytes=1152)


def test_half_is_rounded_as_numpy_rounds():
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    between = np.nextafter(np.float32(1), np.float32(2)) * every[np.isfinite(every)].astype(np.float32)
    values = np.concatenate([every[np.isfinite(every)].astype(np.float32), between, [65519.0, 65520.0, -1e9, 3e-8]])
    values = np.resize(values, -(-len(values) // 32) * 32).astype(np.float32)
    out = np.empty(len(values), np.float16)
    host_kernels.launch(
        "reversed",
        (len(values) // 32, 1, 1),
        (32, 1, 1),
        [values.ctypes.data, out.ctypes.data, np.int32(len(values)), np.float32(0)],
        shared_bytes=128,
        source=kernel_source() + REVERSED,
    )
    with np.errstate(over="ignore"):
        expected = values.reshape(-1, 32)[:, ::-1].reshape(-1).astype(np.float16)
    assert np.array_equal(out, expected)


def test_every_kernel_has_an_entry():
    assert len(set(KERNELS)) == len(KERNELS) > 1
    for kernel in KERNELS:
        assert getattr(host_kernels.library(), f"host_{kernel}")
