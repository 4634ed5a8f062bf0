from __future__ import annotations

import os
import time

import pytest

from onfh_runtime.measure import energy as module
from onfh_runtime.measure.energy import board_milliwatts, metered, rapl_joules

ORIN_NANO = (
    "11-23-2026 12:00:00 RAM 2456/7620MB (lfb 4x4MB) SWAP 0/3810MB CPU [1%@1510,0%@1510] GR3D_FREQ 0% cpu@45.1C "
    "VDD_IN 5080mW/5000mW VDD_CPU_GPU_CV 1000mW/990mW VDD_SOC 1500mW/1490mW"
)
AGX_ORIN = (
    "RAM 1/2MB VDD_GPU_SOC 2391mW/2391mW VDD_CPU_CV 797mW/797mW VIN_SYS_5V0 2879mW/2879mW VDDQ_VDD2_1V8AO 403mW/403mW"
)
NANO = "RAM 2456/3964MB (lfb 1x1MB) SWAP 0/1982MB POM_5V_IN 2500/2600 POM_5V_GPU 40/40 POM_5V_CPU 800/700"


@pytest.mark.parametrize(
    ("line", "milliwatts"),
    [(ORIN_NANO, 5080), (AGX_ORIN, 2391 + 797 + 2879 + 403), (NANO, 2500), ("RAM 1/2MB SWAP 0/1982MB cpu@45C", None)],
)
def test_the_board_is_its_input_rail_or_the_sum_of_all(line, milliwatts):
    assert board_milliwatts(line) == milliwatts


def test_a_counter_that_began_again():
    assert rapl_joules([999_000_000, 5_000_000], [1_000_000, 7_000_000], [999_999_999, 999_999_999]) == 4.0


@pytest.fixture
def rapl(tmp_path, monkeypatch):
    """Counters of two packages, with a zone inside the first, which is part of it, and of the platform around both."""
    zones = (("intel-rapl:0", 10, "package-0"), ("intel-rapl:1", 20, "package-1"))
    for name, count, label in (*zones, ("intel-rapl:0:0", 10, "core"), ("intel-rapl:2", 0, "psys")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "name").write_text(f"{label}\n")
        (tmp_path / name / "energy_uj").write_text(f"{count}000000\n")
        (tmp_path / name / "max_energy_range_uj").write_text("262143328850\n")
    monkeypatch.setattr(module, "RAPL", tmp_path)
    return tmp_path


def test_packages_are_added_and_their_parts_are_not_added_again(rapl):
    with metered(None) as energy:
        (rapl / "intel-rapl:0" / "energy_uj").write_text("13000000\n")
        (rapl / "intel-rapl:0:0" / "energy_uj").write_text("13000000\n")
        (rapl / "intel-rapl:1" / "energy_uj").write_text("20500000\n")
        (rapl / "intel-rapl:2" / "energy_uj").write_text("9000000\n")
    assert energy.joules == {"rapl": 3.5}


def test_counters_that_may_not_be_read_are_named(rapl):
    for zone in ("intel-rapl:0", "intel-rapl:1"):
        (rapl / zone / "energy_uj").unlink()
    with metered(None) as energy:
        pass
    assert "only root" in energy.absent["rapl"]
    assert energy.joules == {}


def test_tegrastats_is_summed_over_time_and_stopped(tmp_path, monkeypatch):
    program = tmp_path / "tegrastats"
    program.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\nwhile true; do echo '{ORIN_NANO}'; sleep 0.02; done\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with metered(None) as energy:
        time.sleep(0.3)
    assert energy.joules["tegrastats"] == pytest.approx(5.08 * energy.seconds, rel=0.05)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_meters_that_are_not_here_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "RAPL", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with metered(None) as energy:
        time.sleep(0.01)
    assert energy.joules == {}
    assert sorted(energy.absent) == ["nvml", "rapl", "tegrastats"]
    assert energy.seconds >= 0.01


class Nvml:
    """The part of pynvml that is asked, with a counter that goes up 2.5 J a reading."""

    class NVMLError(Exception):
        pass

    millijoules, refuses = 1_000_000, False

    def nvmlInit(self):  # noqa: N802 - pynvml's names
        pass

    def nvmlShutdown(self):  # noqa: N802
        self.closed = True

    def nvmlDeviceGetHandleByPciBusId(self, bus):  # noqa: N802
        assert bus == b"0000:65:00.0"
        return "handle"

    def nvmlDeviceGetTotalEnergyConsumption(self, handle):  # noqa: N802
        if self.refuses:
            raise self.NVMLError("Not Supported")
        self.millijoules += 2500
        return self.millijoules


@pytest.mark.parametrize("refuses", [False, True])
def test_nvml_is_asked_for_the_gpu_at_its_address(monkeypatch, refuses):
    nvml = Nvml()
    nvml.refuses = refuses
    monkeypatch.setattr(module, "import_module", lambda name: {"pynvml": nvml}[name])
    monkeypatch.setattr(module, "_bus_id", lambda gpu: b"0000:65:00.0")
    with metered(0) as energy:
        pass
    if refuses:
        assert "Not Supported" in energy.absent["nvml"]
    else:
        assert energy.joules["nvml"] == 2.5
        assert nvml.closed
