"""NVML's counter of a real GPU."""

from __future__ import annotations

import numpy as np
import pytest
from real_gpu import opened_gpu

from onfh_runtime.measure.energy import metered

SECONDS = 1.0
WATTS = (1, 2000)
"""What a GPU may take at work."""


@pytest.mark.gpu
def test_a_gpu_at_work_takes_watts():
    device = opened_gpu()
    stream, array = device.stream(), device.workspace().device("x", (1 << 26,), np.uint8)
    begun = stream.record()
    with metered(device.ordinal) as energy:
        while stream.record().elapsed_ms(begun) < 1e3 * SECONDS:
            stream.zero(array)
    device.close()
    if "nvml" in energy.absent:
        pytest.skip(f"NVML: {energy.absent['nvml']}")
    assert WATTS[0] < energy.joules["nvml"] / energy.seconds < WATTS[1]
