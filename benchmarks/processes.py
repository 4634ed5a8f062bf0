"""Processes that are measured: once and whole, or kept and asked again and again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

_LAUNCHER = """
import json, os, sys, time
start = time.perf_counter()
pid = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, 2, 1)])
_, status, usage = os.wait4(pid, 0)
wall = time.perf_counter() - start
code = os.waitstatus_to_exitcode(status)
print(json.dumps([wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, code]))
"""
"""A small parent: a process is born with the peak memory of the one it came from."""


@dataclass(frozen=True)
class Run:
    """One whole process: seconds of wall time and of all cores together, peak resident MiB, what it said."""

    wall_s: float
    cpu_s: float
    peak_mb: float
    said: str


def run_whole(command: list[str | Path]) -> Run:
    """Run a command from its start to its end.

    Raises:
        RuntimeError: it failed; with the end of what it said.
    """
    words = [sys.executable, "-I", "-S", "-c", _LAUNCHER, *map(str, command)]
    done = subprocess.run(words, capture_output=True, text=True, check=True, env=_environment())
    wall, cpu, peak, code = json.loads(done.stdout.splitlines()[-1])
    if code:
        raise RuntimeError(f"{Path(str(command[0])).name} ended with {code}:\n{done.stderr[-2000:]}")
    return Run(wall, cpu, peak, done.stderr)


class Kept:
    """A process that does a task for each line it is sent, as ``peers/common.py`` has it; to be closed.

    Raises:
        RuntimeError: it ended before its time; with the end of what it said.
    """

    def __init__(self, command: list[str | Path], log: Path) -> None:
        self._log = log
        with log.open("w") as errors:
            self._process = subprocess.Popen(
                [*map(str, command)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=_environment(),
            )
        try:
            self.tasks: list[str] = self._answer()["ready"]
        except RuntimeError:
            self.close()
            raise

    def __enter__(self) -> Kept:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End it, whatever it does; may be called more than once."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def seconds(self, task: str) -> float:
        """Do a task; the seconds it took there."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{task}\n")
        self._process.stdin.flush()
        return float(self._answer()["seconds"])

    def finish(self) -> float | None:
        """Let it end; the most memory it had resident, MiB."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        peak = self._answer()["peak_mb"]
        self._process.wait()
        return float(peak) if peak is not None else None

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):  # libraries print notices of their own
                answer: dict[str, Any] = json.loads(line)
                return answer
        raise RuntimeError(f"a peer ended with {self._process.wait()}:\n{self._log.read_text()[-2000:]}")


def _environment() -> dict[str, str]:
    """Without what would make a peer look for models or telemetry elsewhere, or torch and onfh use other threads."""
    kept = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    return {**kept, "HF_HUB_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": "1"}
