"""Energy that was used meanwhile, by whatever meters this machine has: NVML, tegrastats, RAPL.

Every meter counts the whole of what it is attached to, idle parts and other programs included.
"""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

__all__ = ["Energy", "board_milliwatts", "metered", "rapl_joules"]

RAPL = Path("/sys/class/powercap")
_INTERVAL_MS = 100
_RAIL = re.compile(r"\b(\w+) (\d+)mW/\d+mW|\b((?:POM|VDD)_\w+) (\d+)/\d+")
"""``NAME now/average``; before JetPack 5 without a unit, which memory has there too."""
_WHOLE_BOARD = ("VDD_IN", "POM_5V_IN")
"""Rails of tegrastats that feed all others (Orin NX and Nano, TX2 and Nano)."""
_BUS_ID_BYTES = 32


@dataclass
class Energy:
    """Filled in when the metered block is left.

    Attributes:
        joules: by meter.
        absent: meters that say nothing here, and why.
        seconds: how long the block took.
    """

    joules: dict[str, float] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0


class _Absent(Exception):  # noqa: N818 - not an error of the run: one meter is not there
    """This meter says nothing here; the text says why."""


class _Meter(Protocol):
    def start(self) -> None: ...

    def joules(self) -> float: ...

    def stop(self) -> None: ...


@contextmanager
def metered(gpu: int | None) -> Iterator[Energy]:
    """Meter a block.

    Args:
        gpu: the GPU that is used, in the CUDA driver's order, or None.
    """
    energy = Energy()
    running: dict[str, _Meter] = {}
    meters: dict[str, Callable[[], _Meter]] = {"rapl": lambda: _Rapl(RAPL), "tegrastats": _Tegrastats}
    if gpu is not None:
        meters["nvml"] = lambda: _Nvml(gpu)
    else:
        energy.absent["nvml"] = "No GPU was used."
    with ExitStack() as stopping:
        for name, opened in meters.items():
            try:
                meter = opened()
                meter.start()
            except _Absent as reason:
                energy.absent[name] = str(reason)
            else:
                running[name] = meter
                stopping.callback(meter.stop)
        begun = time.perf_counter()
        yield energy
        energy.seconds = time.perf_counter() - begun
        for name, meter in running.items():
            try:
                energy.joules[name] = meter.joules()
            except _Absent as reason:
                energy.absent[name] = str(reason)


class _Nvml:
    """The counter of one GPU since the driver was loaded, its memory included; Volta and later."""

    def __init__(self, gpu: int) -> None:
        try:
            self._nvml: Any = import_module("pynvml")
        except ImportError:
            raise _Absent("nvidia-ml-py is not installed.") from None
        try:
            self._nvml.nvmlInit()
            self._handle = self._nvml.nvmlDeviceGetHandleByPciBusId(_bus_id(gpu))
        except self._nvml.NVMLError as error:
            raise _Absent(f"NVML does not serve this GPU: {error}.") from None

    def start(self) -> None:
        self._begun = self._count()

    def joules(self) -> float:
        return (self._count() - self._begun) / 1e3

    def stop(self) -> None:
        self._nvml.nvmlShutdown()

    def _count(self) -> int:
        try:
            return int(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle))  # mJ
        except self._nvml.NVMLError as error:
            raise _Absent(f"NVML counts no energy of this GPU: {error}.") from None


def _bus_id(gpu: int) -> bytes:
    """PCI address of a GPU: NVML counts them in another order than the CUDA driver, and sees hidden ones."""
    text, device = ctypes.create_string_buffer(_BUS_ID_BYTES), ctypes.c_int()
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        raise _Absent("There is no CUDA driver.") from None
    if (
        driver.cuInit(0)
        or driver.cuDeviceGet(ctypes.byref(device), gpu)
        or driver.cuDeviceGetPCIBusId(text, _BUS_ID_BYTES, device)
    ):
        raise _Absent(f"The CUDA driver does not name GPU {gpu}.")
    return text.value


class _Rapl:
    """The processor packages' own counters, through Linux's powercap; memory only where it is in the package.

    Of the other zones beside them, ``psys`` counts the packages once more.
    """

    def __init__(self, root: Path) -> None:
        self._zones = [zone for zone in sorted(root.glob("intel-rapl:*")) if _is_package(zone)]
        if not self._zones:
            raise _Absent("Linux shows no RAPL counters here.")

    def start(self) -> None:
        self._begun = self._counts()

    def joules(self) -> float:
        return rapl_joules(
            self._begun, self._counts(), [self._read(zone, "max_energy_range_uj") for zone in self._zones]
        )

    def stop(self) -> None:
        """A counter file needs no closing."""

    def _counts(self) -> list[int]:
        return [self._read(zone, "energy_uj") for zone in self._zones]

    def _read(self, zone: Path, name: str) -> int:
        try:
            return int((zone / name).read_text())
        except (OSError, ValueError):
            raise _Absent("The RAPL counters are there, and only root may read them.") from None


def _is_package(zone: Path) -> bool:
    try:
        return zone.name.count(":") == 1 and (zone / "name").read_text().startswith("package")
    except OSError:
        return False


def rapl_joules(before: list[int], after: list[int], ranges: list[int]) -> float:
    """Joules between two readings in uJ of counters that begin again at 0 once they pass their range."""
    used = [(now - then) % (most + 1) for then, now, most in zip(before, after, ranges, strict=True)]
    return sum(used) / 1e6


class _Tegrastats:
    """A Jetson's power rails, sampled ten times a second and summed over time."""

    def __init__(self) -> None:
        if shutil.which("tegrastats") is None:
            raise _Absent("This is no Jetson, or tegrastats is not installed.")
        self._milliwatts: list[float] = []

    def start(self) -> None:
        self._begun = time.perf_counter()
        command = ["tegrastats", "--interval", str(_INTERVAL_MS)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def joules(self) -> float:
        seconds = time.perf_counter() - self._begun
        if not self._milliwatts:
            raise _Absent("tegrastats names no power rail here.")
        return sum(self._milliwatts) / len(self._milliwatts) / 1e3 * seconds

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait()
        self._reader.join()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            found = board_milliwatts(line)
            if found is not None:
                self._milliwatts.append(found)


def board_milliwatts(line: str) -> float | None:
    """Power of the board in a line of tegrastats: the rail that feeds all others, else the sum of the rails named."""
    rails = {name or old: float(now or then) for name, now, old, then in _RAIL.findall(line)}
    whole = [rails[name] for name in _WHOLE_BOARD if name in rails]
    if whole:
        return whole[0]
    return sum(rails.values()) if rails else None
