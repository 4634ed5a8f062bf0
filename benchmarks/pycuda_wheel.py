"""Builds PyCUDA's wheel from its source archive where there is no driver, no toolkit on the path, or no network.

Its own set-up takes the CUDA folder to be the one above nvcc's, wants libcuda to link with, and cuRAND. Here it gets
the headers of the toolkit or of NVIDIA's pip packages, an empty libcuda of the right name, and no cuRAND, which we do
not use. It needs a C++ compiler, Python's headers, numpy, setuptools and wheel.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

SITE = """
USE_SHIPPED_BOOST = True
BOOST_INC_DIR = BOOST_LIB_DIR = BOOST_PYTHON_LIBNAME = BOOST_THREAD_LIBNAME = []
CUDA_TRACE = CUDA_ENABLE_GL = CUDA_ENABLE_CURAND = False
CUDA_ROOT = {root!r}
CUDA_INC_DIR = {include!r}
CUDADRV_LIB_DIR = {stub!r}
CUDADRV_LIBNAME = ["cuda"]
CXXFLAGS = ["-O1", "-w"]
LDFLAGS = []
"""


def cuda_headers() -> Path | None:
    """The folder of cuda.h and cudaProfiler.h: that of NVIDIA's packages in this Python, or of a toolkit."""
    found = [folder for entry in sys.path for folder in sorted(Path(entry).glob("nvidia/*/include"))]
    nvcc = shutil.which("nvcc")
    roots = [Path(nvcc).resolve().parents[1]] if nvcc else []
    roots += [Path("/usr/local/cuda"), *sorted(Path("/usr/local").glob("cuda-*"), reverse=True), Path("/usr")]
    found += [root / "include" for root in roots]
    return next((each for each in found if all((each / name).is_file() for name in ("cuda.h", "cudaProfiler.h"))), None)


def wheel_from_source(archive: Path, out: Path, include: Path) -> Path:
    """Build the wheel into ``out``.

    Args:
        archive: pycuda-<version>.tar.gz.
        out: folder of the wheel.
        include: the folder of cuda.h.

    Raises:
        subprocess.CalledProcessError: it does not compile.
    """
    with tempfile.TemporaryDirectory(prefix="pycuda-") as name:
        folder = Path(name)
        with tarfile.open(archive) as packed:
            packed.extractall(folder, filter="data")
        (source,) = folder.glob("pycuda-*")
        empty = folder / "stub" / "libcuda.so"
        empty.parent.mkdir()
        compiler = shutil.which("cc") or "gcc"
        linked = ["-shared", "-Wl,-soname,libcuda.so.1", "-o", str(empty), "-x", "c", os.devnull]
        subprocess.run([compiler, *linked], check=True)
        site = SITE.format(root=str(include.parent), include=[str(include)], stub=[str(empty.parent)])
        (source / "siteconf.py").write_text(site)
        command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-index", "--no-build-isolation", "--quiet"]
        command += ["--disable-pip-version-check", "--wheel-dir", str(out), str(source)]
        # Many linkers drop a library that gives no symbol, and this one is empty; the real one must be loaded.
        flags = f"{os.environ.get('LDFLAGS', '')} -Wl,--no-as-needed"
        subprocess.run(command, check=True, env={**os.environ, "LDFLAGS": flags})
    return max(out.glob("pycuda-*.whl"), key=lambda path: path.stat().st_mtime)


def main() -> int:
    """Build, and print the wheel's path."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("archive", type=Path, help="pycuda-<version>.tar.gz")
    parser.add_argument("out", type=Path, help="folder of the wheel")
    options = parser.parse_args()
    include = cuda_headers()
    if include is None:
        print(
            "There is no cuda.h with cudaProfiler.h: install a CUDA toolkit, or nvidia-cuda-runtime and "
            "nvidia-cuda-profiler-api with pip.",
            file=sys.stderr,
        )
        return 1
    print(wheel_from_source(options.archive, options.out, include))
    return 0


if __name__ == "__main__":
    sys.exit(main())
