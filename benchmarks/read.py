"""How long a CT series takes from its files to one int16 volume, beside what Python users do otherwise.

Writes series of a phantom (512 x 512, headers of some 190 elements) into a temporary folder, uncompressed and in four
compressed syntaxes, and reads each with every route that is installed: this runtime (headers, checks and pixels),
pydicom's ``pixel_array`` in a loop with each of its decoder plugins, SimpleITK's ImageSeriesReader. The routes take
turns within every run, the page cache is warm, the median of the runs is quoted with its spread. Each route's volume is
compared with what was written. Peak memory is the operating system's figure for a process that does nothing else.

Needs SimpleITK, and for the compressed syntaxes imagecodecs (which also writes them) and what pydicom decodes with:
pylibjpeg with its plugins, python-gdcm.

Not measured: a cold page cache, network drives, real noise (the phantom compresses a little better), other CPUs.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

PEERS = ("pydicom", "SimpleITK", "imagecodecs", "pyjpegls", "pylibjpeg-libjpeg", "pylibjpeg-openjpeg", "python-gdcm")
RENDERED = 24
"""Slices of the phantom that differ; a longer series repeats them at other places."""
PRIVATE = 120
"""Private elements of a header, as scanners write them."""
INTERCEPT = -1024
"""SimpleITK adds it; the others leave the stored values."""
KEPT: list[Any] = []
"""The image that SimpleITK's array is a view of."""

LAUNCHER = """
import os, sys
pid = os.posix_spawn(sys.executable, [sys.executable, *sys.argv[1:]], os.environ)
_, status, usage = os.wait4(pid, 0)
print(usage.ru_maxrss / 1024, os.waitstatus_to_exitcode(status))
"""
"""A small parent: a process is born with the peak memory of the one it came from."""


def write_series(folder: Path, slices: int, matrix: int, syntax: str, frames: np.ndarray) -> None:
    """Write an axial series in a transfer syntax; the name of the file is not the order of the slices."""
    from pydicom import dcmread
    from pydicom.encaps import encapsulate
    from pydicom.uid import ExplicitVRLittleEndian

    from onfh_runtime.phantom import axial_grid, random_spec, render
    from onfh_runtime.phantom import write_series as write_phantom

    spec = random_spec(7)
    with tempfile.TemporaryDirectory() as name:
        (path,) = write_phantom(render(spec, axial_grid(spec, 1, 16, 16)), Path(name))
        ds = dcmread(path)
    block = ds.private_block(0x0029, "ACME SCANNER", create=True)
    for number in range(PRIVATE):
        block.add_new(number, "LO", f"private value {number}")
    ds.Rows = ds.Columns = matrix
    ds.PixelSpacing = [0.7, 0.7]
    ds.file_meta.TransferSyntaxUID = syntax
    folder.mkdir()
    encoded = [encode(syntax, frame) for frame in frames]
    for k in range(slices):
        ds.SOPInstanceUID, ds.InstanceNumber = f"2.25.{k + 1}", k + 1
        ds.ImagePositionPatient = [0, 0, k * 0.8]
        ds.PixelData = encoded[k % len(encoded)]
        if syntax != ExplicitVRLittleEndian:
            ds.PixelData = encapsulate([ds.PixelData])
            ds["PixelData"].VR = "OB"
            ds["PixelData"].is_undefined_length = True
        ds.save_as(folder / f"{k * 7919 % slices:05d}.dcm", enforce_file_format=True)


def encode(syntax: str, frame: np.ndarray) -> bytes:
    """One frame in a transfer syntax."""
    from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, JPEGLosslessSV1, JPEGLSLossless

    if syntax == ExplicitVRLittleEndian:
        return frame.tobytes()
    import imagecodecs

    plain = frame.view(np.uint16)
    if syntax == JPEGLSLossless:
        return imagecodecs.jpegls_encode(plain)
    if syntax == JPEGLosslessSV1:
        return imagecodecs.ljpeg_encode(plain, bitspersample=16)
    if syntax == JPEG2000Lossless:
        return imagecodecs.jpeg2k_encode(plain, level=0, reversible=True, codecformat="j2k", bitspersample=16)
    return run_lengths(frame)


def run_lengths(frame: np.ndarray) -> bytes:
    """RLE Lossless by pydicom."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.encaps import generate_frames
    from pydicom.uid import ExplicitVRLittleEndian, RLELossless

    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.Rows, ds.Columns = frame.shape
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 1
    ds.PixelData = frame.tobytes()
    ds["PixelData"].VR = "OW"
    ds.SOPInstanceUID = "2.25.1"
    ds.compress(RLELossless, generate_instance_uid=False)
    return next(generate_frames(ds.PixelData, number_of_frames=1))


def by_onfh(folder: Path) -> np.ndarray:
    """This runtime."""
    from onfh_runtime.dicom import find_series, read_volume

    (candidate,), _ = find_series([folder])
    return read_volume(candidate)[0].voxels


def by_pydicom(folder: Path, plugin: str = "") -> np.ndarray:
    """Dcmread and pixel_array, sorted by position, into one preallocated volume."""
    from pydicom import dcmread

    images = [dcmread(path) for path in folder.iterdir()]
    images.sort(key=lambda ds: float(ds.ImagePositionPatient[2]))
    volume = np.empty((len(images), images[0].Rows, images[0].Columns), np.int16)
    for k, ds in enumerate(images):
        if plugin:
            ds.pixel_array_options(decoding_plugin=plugin)
        volume[k] = ds.pixel_array
    return volume


def by_simpleitk(folder: Path) -> np.ndarray:
    """ImageSeriesReader on the files in GDCM's order."""
    import SimpleITK

    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder)))
    reader.SetOutputPixelType(SimpleITK.sitkInt16)
    KEPT[:] = [reader.Execute()]
    return SimpleITK.GetArrayViewFromImage(KEPT[0])


def routes(syntax: str) -> dict[str, Callable[[Path], np.ndarray]]:
    """Name -> reader, for everything that reads this syntax here."""
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.uid import ExplicitVRLittleEndian

    found: dict[str, Callable[[Path], np.ndarray]] = {"onfh": by_onfh}
    if syntax == ExplicitVRLittleEndian:
        found["pydicom"] = by_pydicom
    else:
        for plugin in get_decoder(syntax).available_plugins:
            found[f"pydicom with {plugin}"] = lambda folder, plugin=plugin: by_pydicom(folder, plugin)
    try:
        import SimpleITK  # noqa: F401

        found["SimpleITK"] = by_simpleitk
    except ImportError:
        pass
    return found


def spread(values: list[float]) -> dict[str, float]:
    """Minimum, median and maximum."""
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


def peak_mb(folder: Path, route: str) -> float:
    """Peak resident MiB of a process that imports what it needs and reads a series once ("none" reads nothing)."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", LAUNCHER, __file__, "--child", route, "--folder", str(folder)]
    said = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout.split()
    if said[1] != "0":
        raise SystemExit(f"{route} failed on {folder}")
    return float(said[0])


def child(route: str, folder: Path) -> None:
    """What :func:`peak_mb` starts."""
    if route == "none":
        import onfh_runtime.dicom  # noqa: F401
    elif route == "onfh":
        by_onfh(folder)
    elif route == "SimpleITK":
        by_simpleitk(folder)
    else:
        by_pydicom(folder)


def measure(name: str, syntax: str, folder: Path, expected: np.ndarray, runs: int) -> dict[str, Any]:
    """Time every route on one series, in turns."""
    readers = routes(syntax)
    times: dict[str, list[float]] = {route: [] for route in readers}
    for route, read in list(readers.items()):
        try:
            volume = read(folder)
        except Exception as error:  # a peer that cannot read this syntax is left out, and said so
            print(f"  {route} cannot read {name}: {type(error).__name__}")
            del readers[route], times[route]
            continue
        assert len(volume) == len(expected), route
        added = INTERCEPT if route == "SimpleITK" else 0
        assert all(np.array_equal(a - added, b) for a, b in zip(volume, expected, strict=True)), route
        del volume
    for _ in range(runs):
        for route, read in readers.items():
            start = time.perf_counter()
            read(folder)
            times[route].append(time.perf_counter() - start)
    ours = times["onfh"]
    figures: dict[str, Any] = {"slices": len(expected), "routes": {}}
    for route, seconds in times.items():
        ratios = [theirs / mine for theirs, mine in zip(seconds, ours, strict=True)]
        figures["routes"][route] = {"seconds": spread(seconds), "times_ours": spread(ratios)}
    figures["best_peer"] = min(
        (route for route in times if route != "onfh"), key=lambda r: statistics.median(times[r]), default=None
    )
    print(f"{name}, {len(expected)} slices")
    for route, figure in figures["routes"].items():
        seconds, ratio = figure["seconds"], figure["times_ours"]
        print(
            f"  {route:26} {seconds['median']:7.3f} s ({seconds['min']:.3f} to {seconds['max']:.3f})   "
            f"{seconds['median'] / len(expected) * 1000:6.2f} ms a slice   "
            f"{ratio['median']:5.2f} x ours ({ratio['min']:.2f} to {ratio['max']:.2f})"
        )
    return figures


def machine() -> dict[str, object]:
    """What the figures were taken on."""
    import platform

    from onfh_runtime.cpu import cpu_name

    found: dict[str, object] = {"cpu": cpu_name(), "cores": len(os.sched_getaffinity(0))}
    found |= {"python": platform.python_version(), "numpy": np.__version__}
    for name in PEERS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


class Cycle:
    """The slices as they were written: a few, again and again."""

    def __init__(self, frames: np.ndarray, slices: int) -> None:
        self.frames, self.slices = frames, slices

    def __len__(self) -> int:
        return self.slices

    def __iter__(self) -> Any:
        return (self.frames[k % len(self.frames)] for k in range(self.slices))


def main() -> int:
    """Measure and print everything; write JSON where asked."""
    from pydicom.uid import (
        ExplicitVRLittleEndian,
        JPEG2000Lossless,
        JPEGLosslessSV1,
        JPEGLSLossless,
        RLELossless,
    )

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=5, help="counted runs (default: %(default)s)")
    parser.add_argument("--slices", type=int, default=400, help="of the uncompressed series (default: %(default)s)")
    parser.add_argument("--compressed-slices", type=int, default=100, help="of each other one (default: %(default)s)")
    parser.add_argument("--matrix", type=int, default=512, help="rows and columns (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child, options.folder)
        return 0
    from onfh_runtime.phantom import axial_grid, random_spec, render

    spec = random_spec(7)
    hu = render(spec, axial_grid(spec, min(RENDERED, options.slices), options.matrix, options.matrix)).hu
    frames = np.clip(np.rint(hu) + 1024, 0, 32767).astype("<i2")
    syntaxes = {
        "uncompressed": ExplicitVRLittleEndian,
        "RLE": RLELossless,
        "JPEG-LS": JPEGLSLossless,
        "JPEG lossless": JPEGLosslessSV1,
        "JPEG 2000": JPEG2000Lossless,
    }
    figures: dict[str, Any] = {"machine": machine(), "load_before": os.getloadavg(), "syntaxes": {}, "peak_mb": {}}
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for storage, syntax in syntaxes.items():
            slices = options.slices if storage == "uncompressed" else options.compressed_slices
            write_series(root / storage, slices, options.matrix, syntax, frames)
            expected: Any = Cycle(frames, slices)
            figures["syntaxes"][storage] = measure(storage, syntax, root / storage, expected, options.runs)
        volume_mb = options.slices * options.matrix**2 * 2 / 2**20
        for storage, route in (
            *(("uncompressed", route) for route in ("none", "onfh", "pydicom", "SimpleITK")),
            ("JPEG 2000", "onfh"),
        ):
            folder = root / storage
            size = volume_mb if storage == "uncompressed" else volume_mb * options.compressed_slices / options.slices
            peak = peak_mb(folder, route)
            figures["peak_mb"][f"{storage}, {route}"] = {"peak": peak, "volume": size, "ratio": peak / size}
            print(
                f"peak memory, {storage}, {route:10} {peak:7.0f} MiB, {peak / size:.2f} x the volume of {size:.0f} MiB"
            )
    figures["load_after"] = os.getloadavg()
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
