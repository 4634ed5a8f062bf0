"""Resolve the runtime's requirements for every Python and platform it claims, against constraints.txt.

Nothing is run: this shows that wheels exist and fit together (`pip download`), and how large they are.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
MACHINES = ("x86_64", "aarch64")
GLIBC = ("2_17", "2_27", "2_28")


def requirements() -> list[str]:
    """The runtime's dependencies as pyproject.toml has them."""
    lines = (ROOT / "pyproject.toml").read_text().split("dependencies = [", 1)[1].split("]", 1)[0].splitlines()
    return [line.strip(' ",') for line in lines if line.strip()]


def check(python: str, machine: str) -> tuple[bool, str]:
    """Whether wheels for one platform resolve, with their count and size or pip's last line."""
    platforms = [f"--platform=manylinux_{glibc}_{machine}" for glibc in GLIBC] + [f"--platform=manylinux2014_{machine}"]
    # pip judges markers by the Python it runs on, so the lines for other Pythons are chosen here.
    old = python == "3.10"
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    kept = [x.split(";")[0] for x in lines if ";" not in x or ('< "3.11"' in x) == old]
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder) / "constraints.txt"
        constraints.write_text("\n".join(kept))
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
        command += ["--only-binary=:all:", f"--python-version={python}", *platforms, "--dest", folder]
        command += ["--constraint", str(constraints), *requirements()]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = list(Path(folder).glob("*.whl"))
        size = sum(wheel.stat().st_size for wheel in wheels) / 1e6
    if done.returncode:
        return False, done.stderr.strip().splitlines()[-1]
    return True, f"{len(wheels)} wheels, {size:.0f} MB"


def main() -> int:
    """Print one line a platform; 1 when any does not resolve."""
    failed = False
    for machine in MACHINES:
        for python in PYTHONS:
            fits, text = check(python, machine)
            failed |= not fits
            print(f"Python {python} {machine:8} {'ok  ' if fits else 'FAIL'} {text}", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
