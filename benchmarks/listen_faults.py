"""Faults that a node must bear, each as a function of a folder and its counts that returns figures and ``faults``."""

from __future__ import annotations

import contextlib
import os
import random
import statistics
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from listen_audit import audit
from listen_site import Archive, BadNetwork, Node, Scanner, Series, until

from onfh_runtime.listen.records import SeriesState

MB = 1 << 20

STATES = ("receiving", "working", "deliveries_pending")
"""What a kill may interrupt, as the journal counts it."""

_MOMENTS_S = {
    "start": (0.2, 1.5),
    "receiving": (0.0, 0.3),
    "working": (0.0, 0.3),
    "deliveries_pending": (0.0, 0.02),
    "any": (0.0, 3.0),
}
"""Each aim of a kill, and the seconds that it waits from there: sending out takes some hundredths."""

_MOST_WAITING = 8
"""Series without an answer at which the scanners make a pause."""


@dataclass
class Site:
    """A scanner, a node and an archive."""

    root: Path
    scanner: Scanner
    archive: Archive
    node: Node

    def audited(self, sent: Sequence[Series], **figures: Any) -> dict[str, Any]:
        """Wait until nothing is left to do, and look."""
        self.node.rest(sum(series.done for series in sent), 120.0 + 10.0 * len(sent))
        return {**figures, **audit(self.node, self.archive, sent), "statuses": dict(self.scanner.statuses)}


@contextlib.contextmanager
def site(root: Path, *, state_dir: Path | None = None, **config: Any) -> Iterator[Site]:
    """A site whose archive is up and whose node is not started; everything ends with the block."""
    root.mkdir(parents=True)
    archive = Archive(root / "archive").start()
    node = Node(root, archive, state_dir=state_dir, **config)
    try:
        yield Site(root, Scanner(root / "scanner"), archive, node)
    finally:
        archive.stop()
        with contextlib.suppress(AssertionError, ProcessLookupError):
            node.kill()


def killed(root: Path, *, kills: int, seed: int = 1, senders: int = 2) -> dict[str, Any]:
    """``kill -9`` at random moments: at the start, while images come, while a series is analysed, while results go out.

    Scanners keep sending, some the whole series again, some only what was not acknowledged.
    """
    chance, aims = random.Random(seed), list(_MOMENTS_S)
    moments: Counter[str] = Counter()
    with site(root) as at:
        node, sent, over = at.node, list[Series](), threading.Event()
        lock = threading.Lock()

        def scan(sender: int) -> None:
            own = random.Random(seed * 100 + sender)
            while not over.is_set():
                with lock:
                    series = at.scanner.series(len(sent))
                    sent.append(series)
                while not at.scanner.send(node.port, own.choice((series.paths, series.rest)), series):
                    time.sleep(own.uniform(0.05, 0.5))
                over.wait(own.uniform(0.0, 1.5))
                while len(sent) - node.counts().get("answered", 0) > _MOST_WAITING and not over.wait(0.5):
                    pass  # a node that is killed all the time gets little done

        scanning = [threading.Thread(target=scan, args=(sender,), daemon=True) for sender in range(senders)]
        for thread in scanning:
            thread.start()
        for kill in range(kills):
            aim = aims[kill % len(aims)]
            node.start(wait=aim != "start")
            if aim in STATES:
                node.is_at(aim, 5.0)
            time.sleep(chance.uniform(*_MOMENTS_S[aim]))
            counts = node.counts()
            node.kill()
            moments["+".join(state for state in STATES if counts.get(state)) or "idle"] += 1
        over.set()
        node.start()
        for thread in scanning:
            thread.join()
        return at.audited(sent, kills=kills, starts=node.starts, killed_while=dict(moments))


def full_disk(root: Path, *, size_mb: int = 48) -> dict[str, Any]:
    """A disk that fills up: to the watermark while images come, wholly while they come, wholly before the answer."""
    mount = root.parent / f"{root.name}-disk"
    mount.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size_mb}m", "onfh-soak", str(mount)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        mount.rmdir()
        return _spool_limit(root)
    try:
        return _full_disk(root, mount)
    finally:
        subprocess.run(["umount", str(mount)], check=False)


def _full_disk(root: Path, mount: Path) -> dict[str, Any]:
    ballast, floor = mount / "ballast", 8 * MB
    disk, series = {"refuse_below_free_bytes": floor}, {"quiet_s": 2.0}
    with site(root, state_dir=mount / "state", disk=disk, series=series) as at:
        node, scanner = at.node, at.scanner
        first, second, third = (scanner.series(number) for number in range(3))
        faults = []
        node.start()

        scanner.send(node.port, first.paths[:5], first)
        _fill(ballast, leave=floor)
        refused = not scanner.send(node.port, first.rest, first) and any("OutOf" in one for one in scanner.statuses)
        health = node.health()
        faults += [] if refused else [f"the watermark was not told as out of resources: {dict(scanner.statuses)}"]
        faults += [] if health[0] == 503 and "spool_low" in health[1] else [f"health said {health}"]
        ballast.unlink()
        _send_until_done(at, first)

        scanner.send(node.port, second.paths[:5], second)
        _fill(ballast)
        faults += ["a full disk took an object"] if scanner.send(node.port, second.rest, second) else []
        time.sleep(1.0)
        ballast.unlink()
        _send_until_done(at, second)

        node.rest(2)
        _send_until_done(at, third)
        _fill(ballast)  # before it was quiet for long enough
        time.sleep(5.0)
        early = node.state_of(third)
        faults += [] if early is not SeriesState.ANSWERED else ["the full disk was not there before the answer"]
        faults += ["a full disk set a series aside"] if early is SeriesState.SET_ASIDE else []
        ballast.unlink()
        figures = at.audited([first, second, third], disk="tmpfs")
        node.stop()
        return {**figures, "faults": faults + figures["faults"]}


def _spool_limit(root: Path) -> dict[str, Any]:
    """Where nothing can be mounted: the limit of the spool, which is raised by a restart."""
    with site(root, disk={"refuse_below_free_bytes": 0, "max_spool_bytes": 4 * MB + 100_000}) as at:
        at.node.start()
        series = at.scanner.series(0)
        sent = at.scanner.send(at.node.port, series.paths, series)
        refused = not sent and any("OutOf" in one for one in at.scanner.statuses)
        at.node.stop()
        at.node.config["disk"] = {"refuse_below_free_bytes": 0}
        at.node.start()
        _send_until_done(at, series)
        figures = at.audited([series], disk="max_spool_bytes, because nothing can be mounted here")
        return figures | {"faults": ([] if refused else ["the limit refused nothing"]) + figures["faults"]}


def destination_down(root: Path, *, series: int, down_s: float) -> dict[str, Any]:
    """The archive is down while series are answered, the node is killed meanwhile, and then the archive comes back."""
    with site(root) as at:
        at.archive.stop()
        at.node.start()
        sent = [at.scanner.series(number) for number in range(series)]
        for one in sent:
            _send_until_done(at, one)
        until("answers", lambda: at.node.counts()["answered"] == series)
        time.sleep(down_s / 2)
        at.node.kill()
        at.node.start()
        time.sleep(down_s / 2)
        pending = at.node.counts()["deliveries_pending"]
        at.archive.start()
        start = time.monotonic()
        figures = at.audited(sent, down_s=down_s, waited=pending)
        at.node.stop()
        return figures | {"delivered_after_s": time.monotonic() - start}


def crowd(root: Path, *, series: int = 40, associations: int = 8) -> dict[str, Any]:
    """Many associations at once, each with its share of the series."""
    with site(root) as at:
        sent = [at.scanner.series(number) for number in range(series)]
        at.node.start()

        def send(share: Sequence[Series]) -> None:
            paths = {path: one for one in share for path in one.paths}
            whole = Series("", "", list(paths))
            at.scanner.send(at.node.port, list(paths), whole, timeout_s=300)
            for path in whole.acknowledged:
                paths[path].acknowledged.add(path)

        start = time.monotonic()
        threads = [threading.Thread(target=send, args=(sent[k::associations],)) for k in range(associations)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        sent_s = time.monotonic() - start
        at.node.rest(series)
        rest_s = time.monotonic() - start
        with contextlib.closing(at.node.view()) as journal:
            latencies = [row.latency_ms for row in journal.recent(series) if row.latency_ms is not None]
        figures = at.audited(sent, associations=associations, received_s=sent_s, all_delivered_s=rest_s)
        at.node.stop()
        faults = [f"{one.uid} was not taken" for one in sent if not one.done] + figures["faults"]
        return figures | {"latency_ms_median": statistics.median(latencies), "faults": faults}


def cut_off(root: Path, *, series: int, cuts: int, seed: int = 3) -> dict[str, Any]:
    """Associations that end in the middle, at any byte; then the rest is sent as it should be."""
    chance = random.Random(seed)
    with site(root) as at:
        at.node.start()
        sent = [at.scanner.series(number) for number in range(series)]
        made = 0
        for one in sent:
            for _ in range(cuts):
                if one.done:
                    break
                network = BadNetwork(at.node.port, chance.randrange(1, sum(path.stat().st_size for path in one.rest)))
                at.scanner.send(network.port, one.rest, one)
                network.close()
                made += 1
        partial = sum(not one.done for one in sent)
        for one in sent:
            _send_until_done(at, one)
        figures = at.audited(sent, cuts=made, series_left_partial=partial, **at.node.resources())
        at.node.stop()
        return figures


def stalled(root: Path, *, peers: int, seed: int = 4) -> dict[str, Any]:
    """Peers that stop in the middle and stay; others are served meanwhile, and the silent ones are cut off."""
    chance, idle_s = random.Random(seed), 3.0
    with site(root, node={"idle_timeout_s": idle_s, "max_associations": peers + 1}) as at:
        at.node.start()
        first = at.scanner.series(0)
        _send_until_done(at, first)
        at.node.rest(1)
        before = at.node.resources()
        slow = [at.scanner.series(1 + number) for number in range(peers)]
        networks = [BadNetwork(at.node.port, chance.randrange(20_000, 200_000), stall=True) for _ in slow]
        threads = [
            threading.Thread(target=at.scanner.send, args=(network.port, one.paths, one))
            for network, one in zip(networks, slow, strict=True)
        ]
        for thread in threads:
            thread.start()
        time.sleep(1.0)
        other = at.scanner.series(1 + peers)
        start = time.monotonic()
        _send_until_done(at, other)
        served_s = time.monotonic() - start
        until("the silent are cut off", lambda: at.node.log().count("nothing came for too long") >= peers, 30.0)
        for network in networks:
            network.close()
        for thread in threads:
            thread.join()
        for one in slow:
            _send_until_done(at, one)
        figures = at.audited([first, *slow, other], peers=peers, other_served_s=served_s)
        # What the pools of the libraries opened stays; an association leaves nothing.
        until("threads end", lambda: at.node.resources()["threads"] <= before["threads"] + 1, 30.0)
        figures |= {"before": before, "after": at.node.resources()}
        at.node.stop()
        return figures


def _send_until_done(at: Site, series: Series) -> None:
    until(f"{series.uid} is acknowledged", lambda: at.scanner.send(at.node.port, series.rest, series), 60.0)


def _fill(path: Path, leave: int = 0) -> None:
    """Write until so much of the disk is free; 0 until nothing is."""
    with contextlib.suppress(OSError), path.open("ab", buffering=0) as file:
        while (free := os.statvfs(path.parent).f_bavail * os.statvfs(path.parent).f_frsize - leave) > 0:
            file.write(bytes(min(free, MB)))
        while not leave:
            file.write(bytes(4096))
