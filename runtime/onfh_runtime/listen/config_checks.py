"""What a configuration may not say although each field of it is well formed, and what this machine must have for it."""

from __future__ import annotations

import contextlib
import os
import ssl
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from onfh_runtime.errors import UsageError
from onfh_runtime.listen.access import token_from_file
from onfh_runtime.listen.config import ListenConfig, Tls
from onfh_runtime.listen.spool import LEAST_ROOM
from onfh_runtime.listen.tls import client_context, server_context
from onfh_runtime.listen.webhook import check_webhook

__all__ = ["Place", "Problem", "file_system_of", "problems_here", "problems_of", "warnings_here", "warnings_of"]

Place = tuple[str | int, ...]
"""Where in the file: names of fields, and positions in lists from 0."""

_NETWORK_FILE_SYSTEMS = frozenset(
    {"9p", "afs", "beegfs", "ceph", "cifs", "gfs2", "glusterfs", "gpfs", "lustre", "ncpfs", "nfs", "nfs4", "ocfs2"}
    | {"smb3", "smbfs", "virtiofs"}
    | {f"fuse.{name}" for name in ("ceph", "glusterfs", "gcsfuse", "rclone", "s3fs", "sshfs")}
)
"""SQLite's write-ahead log needs memory that all its processes share, and locks that hold (sqlite.org/wal.html)."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: where, what (ends a sentence, without a stop), and what to do about it."""

    place: Place
    text: str
    fix: str


def problems_of(config: ListenConfig) -> list[Problem]:
    """Contradictions within a configuration."""
    problems = [
        *_repeated("peers", "name", [peer.name for peer in config.peers]),
        *_repeated("peers", "ae_title", [peer.ae_title for peer in config.peers]),
        *_repeated("routes", "name", [route.name for route in config.routes]),
        *_repeated("destinations", "name", [destination.name for destination in config.destinations]),
    ]
    peers = {peer.name for peer in config.peers}
    destinations = {destination.name for destination in config.destinations}
    for i, route in enumerate(config.routes):
        for j, name in enumerate(route.sources or ()):
            if name not in peers:
                problems.append(
                    Problem(("routes", i, "from", j), f"there is no peer named {name!r}", _one_of("peers", peers))
                )
        for j, name in enumerate(route.destinations):
            if name not in destinations:
                place = ("routes", i, "destinations", j)
                fix = _one_of("destinations", destinations)
                problems.append(Problem(place, f"there is no destination named {name!r}", fix))
    if not config.node.address.is_loopback and not config.peers:
        problems.append(
            Problem(
                ("node", "address"),
                f"{config.node.address} can be reached from elsewhere and anybody could send",
                "List who may send under peers, or listen on 127.0.0.1.",
            )
        )
    if not config.http.address.is_loopback and config.http.token_file is None:
        problems.append(
            Problem(
                ("http", "address"),
                f"{config.http.address} can be reached from elsewhere and anybody could read the page",
                "Set http: token_file, or listen on 127.0.0.1.",
            )
        )
    if config.node.port == config.http.port and config.node.address == config.http.address:
        problems.append(Problem(("http", "port"), f"port {config.http.port} is the node's", "Choose another one."))
    if config.node.tls is not None and config.node.tls.require_client and config.node.tls.ca is None:
        problems.append(
            Problem(
                ("node", "tls", "ca"),
                "clients are asked for a certificate and nothing says who may have signed it",
                "Name a PEM file, or set require_client to false.",
            )
        )
    if config.disk.keep_results_days < config.disk.keep_objects_days:
        problems.append(
            Problem(("disk", "keep_results_days"), "a result is not deleted before its images", "Raise it.")
        )
    if config.disk.max_spool_bytes is not None and config.disk.max_spool_bytes < LEAST_ROOM:
        problems.append(Problem(("disk", "max_spool_bytes"), "no object would be taken", f"Allow {LEAST_ROOM}."))
    return problems + list(_times(config))


def _times(config: ListenConfig) -> Iterator[Problem]:
    """Times that cannot be together."""
    series = config.series
    if series.max_wait_s < series.quiet_s:
        yield Problem(("series", "max_wait_s"), f"quiet_s is {series.quiet_s:g}, which would mean nothing", "Raise it.")
    for i, route in enumerate(config.routes):
        if series.complete_when != "count" and route.deadline_s is not None and route.deadline_s <= series.quiet_s:
            text = f"a series is complete after {series.quiet_s:g} s at the earliest (series: quiet_s)"
            yield Problem(("routes", i, "deadline_s"), text, "Raise it, or lower quiet_s.")
    for i, destination in enumerate(config.destinations):
        if destination.retry.first_s > destination.retry.most_s:
            text = f"most_s is {destination.retry.most_s:g}"
            yield Problem(("destinations", i, "retry", "first_s"), text, "Lower it, or raise most_s.")
        if len(set(destination.send)) < len(destination.send):
            yield Problem(("destinations", i, "send"), "an object would be sent twice", "Name each kind once.")


def problems_here(config: ListenConfig) -> list[Problem]:
    """What this machine lacks for a configuration; nothing is created or changed."""
    problems = list(_state_dir(config.state_dir))
    if config.bundle is not None and not (config.bundle / "bundle.json").is_file():
        problems.append(
            Problem(("bundle",), f"{config.bundle} holds no bundle.json", "Name the folder `onfh export` wrote.")
        )
    if config.node.tls is not None and (config.node.tls.ca is not None or not config.node.tls.require_client):
        problems += _tls(("node", "tls"), config.node.tls, server_context)
    for i, destination in enumerate(config.destinations):
        if destination.tls is not None:
            problems += _tls(("destinations", i, "tls"), destination.tls, client_context)
    if config.http.token_file is not None:
        problems += _raised(("http", "token_file"), token_from_file, config.http.token_file)
    if config.webhook is not None:
        problems += _raised(("webhook", "url"), check_webhook, config.webhook)
    return problems


def warnings_of(config: ListenConfig) -> list[str]:
    """What is allowed and should be known, a sentence each."""
    warnings = []
    if not config.peers:
        warnings.append("peers is empty: every program on this machine may send, under any AE title.")
    if not config.node.address.is_loopback and config.node.tls is None:
        warnings.append(f"node: images reach {config.node.address} without TLS.")
    for destination in config.destinations:
        if destination.tls is None and destination.host not in ("localhost", "127.0.0.1", "::1"):
            warnings.append(f"destinations: results leave for {destination.name} without TLS.")
    routed = {name for route in config.routes for name in route.destinations}
    unused = [destination.name for destination in config.destinations if destination.name not in routed]
    if unused:
        warnings.append(f"destinations: no route sends to {', '.join(unused)}.")
    spool = config.disk.max_spool_bytes
    if spool is not None and spool < config.node.max_object_bytes:
        warnings.append("disk: an object of max_object_bytes is larger than max_spool_bytes and never taken.")
    return warnings + list(_never(config))


def _never(config: ListenConfig) -> Iterator[str]:
    """What is said and never happens, or lets everybody in."""
    for peer in config.peers:
        if any(network.prefixlen == 0 for network in peer.addresses):
            yield f"peers: {peer.name} may call from every address."
        if config.route_of(peer.name) is None:
            yield f"peers: no route takes what {peer.name} sends, so it is rejected."
    everybody = next((i for i, route in enumerate(config.routes) if route.sources is None), len(config.routes))
    for i, route in enumerate(config.routes):
        if i > everybody or route.sources == ():
            yield f"routes: no series ever takes the route {route.name}."
    for destination in config.destinations:
        routes = [route for route in config.routes if destination.name in route.destinations]
        if routes and "sc" in destination.send and not any(route.secondary_capture for route in routes):
            yield f"destinations: {destination.name} gets no sc, since no route to it has secondary_capture."


def warnings_here(config: ListenConfig) -> list[str]:
    """What should be known of this machine, a sentence each."""
    with contextlib.suppress(OSError):
        if config.state_dir.stat().st_mode & 0o077:
            return [f"state_dir: others on this machine may look into {config.state_dir} (chmod 700)."]
    return []


def file_system_of(path: Path, mounts: str | None = None) -> str | None:
    """The type of the file system a path lies on, None where the system does not say.

    Args:
        path: absolute.
        mounts: content of ``/proc/self/mountinfo`` (proc(5)); read when None.
    """
    if mounts is None:
        try:
            mounts = Path("/proc/self/mountinfo").read_text()
        except OSError:
            return None
    found: tuple[int, str] | None = None
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        point = Path(before.split(" ")[4].encode().decode("unicode_escape"))
        # The last of several mounts on one point is the one that is seen.
        if path.is_relative_to(point) and (found is None or len(point.parts) >= found[0]):
            found = len(point.parts), after.split(" ")[0]
    return None if found is None else found[1]


def _state_dir(folder: Path) -> Iterator[Problem]:
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not existing.is_dir():
        yield Problem(("state_dir",), f"{existing} is no folder", "Name a folder, or one that can be made.")
        return
    if not os.access(existing, os.W_OK | os.X_OK):
        yield Problem(
            ("state_dir",), f"nothing can be written in {existing}", f"chown it to the user who runs this: {existing}"
        )
    kind = file_system_of(existing)
    if kind in _NETWORK_FILE_SYSTEMS:
        yield Problem(
            ("state_dir",),
            f"{existing} is on a network file system ({kind})",
            "Name a folder on a disk of this machine.",
        )


def _tls(place: Place, tls: Tls, context: Callable[[Tls], ssl.SSLContext]) -> list[Problem]:
    problems = []
    for field in ("certificate", "key", "ca"):
        path = getattr(tls, field)
        try:
            if path is not None:
                path.open("rb").close()
        except OSError as error:
            text = f"{path} cannot be read ({error.strerror})"
            problems.append(Problem((*place, field), text, "Name a PEM file that the user who runs this may read."))
    return problems or _raised(place, context, tls)


def _raised(place: Place, check: Callable[..., object], value: object) -> list[Problem]:
    """The problem a check raises, if it does."""
    try:
        check(value)
    except UsageError as error:
        return [Problem(place, error.text.rstrip("."), error.fix)]
    return []


def _repeated(section: str, field: str, values: list[str]) -> Iterator[Problem]:
    for i, value in enumerate(values):
        if value in values[:i]:
            yield Problem((section, i, field), f"{value!r} is given twice under {section}", "Give each its own.")


def _one_of(section: str, names: Iterable[str]) -> str:
    known = ", ".join(sorted(names))
    return f"Name one of {known}." if known else f"List it under {section}."
