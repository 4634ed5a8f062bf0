"""AddressSanitizer watches a kernel: a GPU may answer a read behind an array with the end of the process."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import ctypes
import sys
import numpy as np
import host_kernels

host_kernels.FLAGS += ("-g", "-fsanitize=address")

from onfh_runtime.bundle import StageInput, Window
from onfh_runtime.device import DeviceArray
from onfh_runtime.kernels.stage_input import launch_stage_input
from onfh_runtime.preprocess import coronal_stack, plan_coronal
from onfh_runtime.preprocess.device_tables import device_source, input_tables
from onfh_runtime.volume import Volume


class Exact:
    def __init__(self):
        self.held = []

    def put(self, values, cut=0):
        values = np.ascontiguousarray(values)
        memory = (ctypes.c_char * (values.nbytes - cut)).from_buffer_copy(values.tobytes()[: values.nbytes - cut])
        self.held.append(memory)
        return DeviceArray(ctypes.addressof(memory), values.shape, values.dtype)

    def launch(self, kernel, grid, block, args, *, shared_bytes=0):
        values = [arg.address if isinstance(arg, DeviceArray) else arg for arg in args]
        host_kernels.launch(kernel, grid, block, values, shared_bytes=shared_bytes)


random = np.random.default_rng(0)
cut = int(sys.argv[1])
windows = [Window(center=c, width=w) for c, w in ((500, 2000), (50, 400), (0, 4000), (0, 100))]
for number in range(24):
    order, affine = random.permutation(3), np.eye(4)
    affine[:3, :3] = 0
    affine[order, range(3)] = random.choice([-1, 1], 3) * random.uniform(0.4, 3, 3)
    shape = random.integers(2, 50, 3)
    shape[list(order).index(1)] += 8
    if number % 4 == 0:
        affine[:3, :3] = np.array([[0, 0, 0.7], [0.3, 0.8, 0], [1.5, 0, 0]])
    voxels = random.integers(-1000, 3000, shape).astype(np.int16)
    slope = random.uniform(0.9, 1.1, len(voxels)) if number % 3 else np.ones(len(voxels))
    volume = Volume(voxels, affine, slope, np.zeros(len(voxels)), (-1000, -900) if number % 2 else None)
    plan = plan_coronal(volume, 3.0)
    box = tuple(slice(*sorted(random.choice(count + 1, 2, replace=False))) for count in plan.shape)
    box = tuple(slice(int(side.start), int(side.stop)) for side in box)
    source = device_source(volume, plan, box, coronal_stack(volume, plan).part(box))
    count = 1 + number % 4
    size = tuple(int(n) for n in random.integers(1, 80, 2))
    spec = StageInput(size=size, windows=tuple(windows[:count]), mean=(0,) * count, std=(1,) * count)
    tables, stream = input_tables(source, spec), Exact()
    slices = np.arange(source.shape[0], dtype=np.int32)[::-1]
    launch_stage_input(
        stream,
        tables,
        stream.put(tables.packed),
        stream.put(source.voxels, cut),
        stream.put(slices),
        out=stream.put(np.empty((len(slices), count, *size), np.float16)),
    )
print("done")
"""


def run(cut):
    compiler = shutil.which("g++")
    found = compiler and subprocess.run(
        [compiler, "-print-file-name=libasan.so"], capture_output=True, text=True, check=True
    )
    if not found or not Path(found.stdout.strip()).is_absolute():
        if os.environ.get("ONFH_REQUIRE_TOOLS"):
            pytest.fail("ONFH_REQUIRE_TOOLS is set and g++ or its AddressSanitizer is absent")
        pytest.skip("g++ or its AddressSanitizer is not installed")
    environment = {
        **os.environ,
        "LD_PRELOAD": found.stdout.strip(),
        "ASAN_OPTIONS": "detect_leaks=0",
        "PYTHONMALLOC": "malloc",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    return subprocess.run([sys.executable, "-c", SCRIPT, str(cut)], capture_output=True, text=True, env=environment)


def test_nothing_is_read_or_written_outside_its_array():
    done = run(0)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.strip() == "done"


def test_a_read_behind_an_array_would_be_seen():
    done = run(2)
    assert done.returncode != 0
    assert "heap-buffer-overflow" in done.stderr
