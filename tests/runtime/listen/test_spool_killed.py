"""A writer that is killed at random moments, twenty times over: whatever it acknowledged is there."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import kept_objects
from kept_objects import content, open_state, working

from onfh_runtime.listen.retention import recover_spool

ROUNDS = 20


def acknowledged_before_kill(state_dir: Path, run: int, after_s: float) -> dict[str, set[int]]:
    """The objects that a writer acknowledged, by series; -1 is a series whose images it cleaned up itself."""
    command = [sys.executable, kept_objects.__file__, str(state_dir), str(run)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        lines = [writer.stdout.readline()]
        time.sleep(after_s)
        writer.kill()
        lines += writer.stdout.readlines()
    assert writer.returncode == -9
    acknowledged: dict[str, set[int]] = {}
    for line in lines:
        uid, sop = line.split()
        acknowledged.setdefault(uid, set()).add(int(sop))
    return acknowledged


def test_every_acknowledged_object_survives_kill_9(tmp_path: Path) -> None:
    chance = random.Random(7)
    objects = orphans = 0
    for run in range(ROUNDS):
        acknowledged = acknowledged_before_kill(tmp_path / "state", run, chance.uniform(0.0, 0.2))
        spool, journal = open_state(tmp_path / "state")
        recovered = recover_spool(spool, journal)
        journal.recover()
        assert recovered.lost == 0
        assert working(journal) == 0
        assert journal._rows("PRAGMA integrity_check") == [("ok",)]
        assert set(spool.folder.iterdir()) == set(journal.files())
        for uid, sops in acknowledged.items():
            rows = {row.sop_uid: row for row in journal.objects_of(uid)}
            for sop in sops - {-1}:
                path = rows[f"{uid}.{sop}"].path
                # No file is right only where the writer was at cleaning up.
                if path is None:
                    row = journal.series(uid)
                    assert row is not None
                    assert row.missing == row.objects == 5
                else:
                    assert path.read_bytes() == b"DICM" + content(int(uid.split(".")[3]), sop)
                objects += 1
            assert -1 not in sops or all(row.path is None for row in rows.values())
        orphans += recovered.removed
        journal.close()
    print(f"{ROUNDS} kills: {objects} acknowledged objects are there, {orphans} files nobody was told of removed")
    assert objects > 100
