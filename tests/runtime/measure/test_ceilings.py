from __future__ import annotations

import numpy as np
from host_device import HostDevice

from onfh_runtime.measure.ceilings import device_ceilings, host_ceilings


def test_a_host_copies_and_multiplies_and_no_step_can_do_so_faster():
    found = host_ceilings(copy_bytes=1 << 24, side=256, goes=3)
    assert 0.1 < found.copy_gb_s < 10_000
    assert 0.1 < found.product_gflop_s < 100_000
    assert (found.of, found.precision, found.upload_gb_s, found.absent) == ("host", "float32", None, None)


def test_a_device_moves_the_bytes_it_says():
    device = HostDevice()
    found = device_ceilings(device, copy_bytes=1 << 20, side=64, goes=2)
    # one go that does not count, then two; a copy reads and writes
    assert {way: device.copied[way] for way in ("upload", "copy", "download")} == dict.fromkeys(
        ("upload", "copy", "download"), 3 << 20
    )
    assert min(found.copy_gb_s, found.upload_gb_s, found.download_gb_s) > 0
    assert found.of == device.name
    device.close()


def test_where_no_product_can_be_run_the_other_ceilings_stand():
    device = HostDevice()
    found = device_ceilings(device, copy_bytes=1 << 16, side=64, goes=1)
    assert (found.product_gflop_s is None) == ("matrix product" in (found.absent or ""))
    assert np.isfinite(found.copy_gb_s)
    device.close()
