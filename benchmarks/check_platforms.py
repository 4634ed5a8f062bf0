"""Resolve the runtime's requirements for every Python and platform it claims, against constraints.txt.

Nothing is run: this shows that wheels exist and fit together (`pip download`), and how large they are. Extras for GPUs
are resolved without being downloaded, each beside the runtime's requirements; PyCUDA, which has no wheels, is left out.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
MACHINES = ("x86_64", "aarch64")
GLIBC = ("2_17", "2_27", "2_28")
GLIBC_OF_EXTRAS = (*GLIBC, "2_35")
"""A GPU's system is Ubuntu 22.04 or newer; TensorRT-RTX for aarch64 needs that."""
EXTRAS = ("gpu", "jetson", "rtx")
SOURCE_ONLY = "pycuda"


def requirements(name: str) -> list[str]:
    """A list of pyproject.toml, ``dependencies`` or an extra, less what has no wheels."""
    found = re.search(rf"^{name} = (\[.*?\])$", (ROOT / "pyproject.toml").read_text(), re.MULTILINE | re.DOTALL)
    if found is None:
        raise SystemExit(f"pyproject.toml has no {name}")
    return [line for line in ast.literal_eval(found[1]) if not line.startswith(SOURCE_ONLY)]


def check(python: str, machine: str, extra: str = "") -> tuple[bool, str]:
    """Whether wheels for one platform resolve, with their count and size or pip's last line."""
    platforms = [f"--platform=manylinux_{glibc}_{machine}" for glibc in (GLIBC_OF_EXTRAS if extra else GLIBC)]
    platforms += [f"--platform=manylinux2014_{machine}"]
    # pip judges markers by the Python it runs on, so the lines for other Pythons are chosen here.
    old = python == "3.10"
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    kept = [x.split(";")[0] for x in lines if ";" not in x or ('< "3.11"' in x) == old]
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder) / "constraints.txt"
        constraints.write_text("\n".join(kept))
        where = ["install", "--dry-run", "--ignore-installed", "--target"] if extra else ["download", "--dest"]
        command = [sys.executable, "-m", "pip", *where, folder, "--quiet", "--disable-pip-version-check"]
        command += ["--only-binary=:all:", f"--python-version={python}", *platforms]
        command += ["--constraint", str(constraints), *requirements("dependencies")]
        command += requirements(extra) if extra else []
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = list(Path(folder).glob("*.whl"))
        size = sum(wheel.stat().st_size for wheel in wheels) / 1e6
    if done.returncode:
        return False, done.stderr.strip().splitlines()[-1]
    return True, extra or f"{len(wheels)} wheels, {size:.0f} MB"


def main() -> int:
    """Print one line a platform; 1 when any does not resolve."""
    failed = False
    for machine in MACHINES:
        for python in PYTHONS:
            for extra in ("", *EXTRAS):
                fits, text = check(python, machine, extra)
                failed |= not fits
                print(f"Python {python} {machine:8} {'ok  ' if fits else 'FAIL'} {text}", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
