"""The configuration of ``onfh listen``: what may be said in the YAML file, and what holds when nothing is said.

Private until told otherwise: loopback addresses, no sender from elsewhere without an allow-list, no page elsewhere
without a token. ``data/listen.example.yaml`` shows every field.
"""

from __future__ import annotations

import contextlib
import ipaddress
import re
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.networks import IPvAnyAddress, IPvAnyNetwork

__all__ = [
    "Destination",
    "Disk",
    "Http",
    "ListenConfig",
    "Log",
    "Node",
    "Peer",
    "Retry",
    "Route",
    "SeriesRule",
    "Tls",
    "Tries",
    "Webhook",
]

MIB = 1 << 20

_URL = re.compile(r"https?://[^\s/?#@]+([/?][^\s#]*)?")
_LABEL = re.compile(r"[A-Za-z0-9_-]{1,63}")


def _ae_title(value: str) -> str:
    """An application entity title (PS3.5, 6.2): spaces around it mean nothing."""
    title = value.strip(" ")
    if not title or len(title) > 16 or "\\" in title or not title.isascii() or not title.isprintable():
        raise ValueError("an AE title has 1 to 16 printable ASCII characters and no backslash")
    return title


def _host(value: str) -> str:
    """An IP address, or the name of a host (RFC 1123, 2.1); a name of digits alone is a mistaken address."""
    with contextlib.suppress(ValueError):
        ipaddress.ip_address(value)
        return value
    labels = value.removesuffix(".").split(".")
    if len(value) > 253 or labels[-1].isdecimal() or not all(map(_LABEL.fullmatch, labels)):
        raise ValueError("the name of a host, or an IP address")
    return value


def _url(value: str) -> str:
    """A URL that http.client takes as it is: no user, no fragment, nothing that would have to be escaped."""
    with contextlib.suppress(ValueError):  # a port or an IPv6 address that is none
        parts = urlsplit(value)
        if value.isascii() and _URL.fullmatch(value) and parts.port != 0 and _host(parts.hostname or ""):
            return value
    raise ValueError("http://HOST:PORT/PATH or https://, in ASCII, without a user or a fragment")


def _absolute(value: Path, info: ValidationInfo) -> Path:
    """A path of the file, relative to the file's folder."""
    folder = (info.context or {}).get("folder", Path())
    return Path(folder, value).resolve()


def _no_number(value: Any) -> Any:
    """Numbers are addresses to ``ipaddress``: 1 is 0.0.0.1."""
    if isinstance(value, int):
        raise ValueError("an IP address in quotes")
    return value


Address = Annotated[IPvAnyAddress, BeforeValidator(_no_number)]
Network = Annotated[IPvAnyNetwork, BeforeValidator(_no_number)]
AeTitle = Annotated[str, AfterValidator(_ae_title)]
Count = Annotated[int, Field(strict=True, ge=1)]
Url = Annotated[str, AfterValidator(_url)]
Host = Annotated[str, AfterValidator(_host)]
File = Annotated[Path, AfterValidator(_absolute)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
Port = Annotated[int, Field(strict=True, ge=1, le=65535)]
Positive = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class Tls(_Model):
    """PEM files: our certificate and its chain, its key without a password, and who signs the other side's."""

    certificate: File
    key: File
    ca: File | None = None
    require_client: bool = True


class Node(_Model):
    """What listens, and what it bears. Sizes in bytes; ``max_pdu`` is what one PDU of a peer may hold."""

    ae_title: AeTitle = "ONFH"
    address: Address = Field(ipaddress.IPv4Address("127.0.0.1"), validate_default=True)
    port: Port = 11112
    tls: Tls | None = None
    max_associations: Count = 16
    max_pdu: int = Field(262144, strict=True, ge=4096, le=16 * MIB)
    idle_timeout_s: Positive = 60.0
    max_object_bytes: int = Field(2048 * MIB, strict=True, ge=MIB)


class Peer(_Model):
    """Who may send: one AE title, from some addresses or networks (``10.1.2.3``, ``10.1.2.0/24``)."""

    name: Name
    ae_title: AeTitle
    addresses: tuple[Network, ...] = Field(min_length=1)

    def calls_from(self, address: str) -> bool:
        """Whether this is one of its addresses."""
        where = ipaddress.ip_address(address)
        where = getattr(where, "ipv4_mapped", None) or where
        return any(where in network for network in self.addresses)


class Disk(_Model):
    """When to refuse, and what retention may delete. Sizes in bytes.

    Only answered series nothing waits for are deleted.
    """

    refuse_below_free_bytes: int = Field(2048 * MIB, strict=True, ge=0)
    max_spool_bytes: Count | None = None
    keep_objects_days: Positive = 7.0
    keep_results_days: Positive = 30.0


class SeriesRule(_Model):
    """When a series is complete: quiet for ``quiet_s``, and (``association``) what sent it has ended.

    ``count`` is for peers that always send the same number: at that many images a series is complete at once. A series
    still open ``max_wait_s`` after its last image is taken for complete.
    """

    complete_when: Literal["association", "quiet", "count"] = "association"
    quiet_s: Positive = 5.0
    count: Count | None = None
    max_wait_s: Positive = 600.0

    @model_validator(mode="after")
    def _counted(self) -> SeriesRule:
        if (self.complete_when == "count") != (self.count is not None):
            raise ValueError("count and 'complete_when: count' go together")
        return self


class Tries(_Model):
    """How often a series is analysed before it is set aside, and the seconds before each further try."""

    analysis: Count = 3
    backoff_s: tuple[Positive, ...] = Field((1.0, 10.0, 60.0), min_length=1)


class Route(_Model):
    """Which peers' series go where, and how soon; ``from: any`` is None. The first route that names a peer is its."""

    name: Name
    sources: tuple[Name, ...] | None = Field(None, alias="from")
    deadline_s: Positive | None = None
    destinations: tuple[Name, ...] = ()
    secondary_capture: bool = False
    anonymous: bool = False

    @field_validator("sources", mode="before")
    @classmethod
    def _any_is_none(cls, value: Any) -> Any:
        if value != "any" and not isinstance(value, list | tuple | None):
            raise ValueError("a list of peers' names, or any")
        return None if value == "any" else value


class Retry(_Model):
    """Seconds before the second try, the most between two, and when a delivery is given up."""

    first_s: Positive = 2.0
    most_s: Positive = 600.0
    give_up_after_s: Positive = 86400.0


class Destination(_Model):
    """A PACS that takes results. ``calling_ae_title`` null: the node's own."""

    name: Name
    ae_title: AeTitle
    host: Host
    port: Port
    calling_ae_title: AeTitle | None = None
    tls: Tls | None = None
    send: tuple[Literal["sr", "seg", "sc"], ...] = Field(("sr", "seg"), min_length=1)
    retry: Retry = Retry()


class Webhook(_Model):
    """A URL on this machine or a private network that is told of events, without identifiers of a patient."""

    url: Url
    timeout_s: Positive = 5.0
    events: tuple[Literal["result", "deadline_missed", "set_aside"], ...] = ("result", "deadline_missed", "set_aside")


class Http(_Model):
    """Metrics, health and the live page. ``token_file`` holds one line; off loopback there must be one."""

    address: Address = Field(ipaddress.IPv4Address("127.0.0.1"), validate_default=True)
    port: Port = 8080
    token_file: File | None = None


class Log(_Model):
    """Lines on standard error: one JSON object each, or text for people."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["json", "text"] = "json"


class ListenConfig(_Model):
    """Everything ``onfh listen`` is told. Only ``state_dir`` has no default; ``bundle`` null is the demo bundle."""

    state_dir: File
    bundle: File | None = None
    backend: str = "auto"
    threads: int = Field(0, strict=True, ge=0)
    gpu: int = Field(0, strict=True, ge=0)
    node: Node = Node()
    peers: tuple[Peer, ...] = ()
    disk: Disk = Disk()
    series: SeriesRule = SeriesRule()
    tries: Tries = Tries()
    routes: tuple[Route, ...] = Field((Route(name="default"),), min_length=1)
    destinations: tuple[Destination, ...] = ()
    webhook: Webhook | None = None
    http: Http = Http()
    log: Log = Log()

    @field_validator("*", mode="before")
    @classmethod
    def _nothing_is_default(cls, value: Any, info: ValidationInfo) -> Any:
        """A section whose every line is commented out reads as null: it is as if it were absent."""
        field = cls.model_fields[info.field_name or ""]
        return field.default if value is None and not field.is_required() else value

    def peer_of(self, ae_title: str, address: str) -> Peer | None:
        """The peer that calls by this AE title from this address, None when no allow-list names it."""
        for peer in self.peers:
            if peer.ae_title == ae_title.strip(" ") and peer.calls_from(address):
                return peer
        return None

    def route_of(self, peer: str | None) -> Route | None:
        """The first route that takes a peer's series, by the peer's name; None is a peer without an allow-list."""
        for route in self.routes:
            if route.sources is None or peer in route.sources:
                return route
        return None
