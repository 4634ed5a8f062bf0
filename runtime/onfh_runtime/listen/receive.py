"""The DICOM node's ear: C-ECHO and C-STORE of CT, from whom and as much as the configuration allows.

The order of an object: bytes on the disk, name on the disk, row in the journal, then the response that says success.
"""

from __future__ import annotations

import ipaddress
import logging
import re
import threading
import time
from collections.abc import Callable, Collection

from pydicom.uid import AllTransferSyntaxes, CTImageStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.pdu_primitives import A_ASSOCIATE

from onfh_runtime.dicom.codecs import can_decode
from onfh_runtime.dicom.frames import ENHANCED_CLASSES
from onfh_runtime.errors import UsageError
from onfh_runtime.listen.association import REQUEST_S, NodeAssociation, Rejection
from onfh_runtime.listen.config import ListenConfig
from onfh_runtime.listen.exchange import Context
from onfh_runtime.listen.incoming import IncomingObject, Keeping, Sender
from onfh_runtime.listen.journal import Journal
from onfh_runtime.listen.log import log_event
from onfh_runtime.listen.messages import Command
from onfh_runtime.listen.records import ObjectRow
from onfh_runtime.listen.server import NodeServer
from onfh_runtime.listen.spool import Spool
from onfh_runtime.listen.tls import server_context
from onfh_runtime.private_log import traceback_without_messages

__all__ = ["Receiver", "offered_syntaxes"]

_log = logging.getLogger(__name__)

_NOT_A_PEER = Rejection(1, 1, 3)
"""Permanent, service user: calling AE title not recognized. A stranger is not told which half was wrong."""
_NOT_OUR_TITLE = Rejection(1, 1, 7)
"""Permanent, service user: called AE title not recognized."""
_BUSY = Rejection(2, 3, 2)
"""Transient, service provider (presentation): local limit exceeded."""
_STOPPING = Rejection(2, 3, 1)
"""Transient, service provider (presentation): temporary congestion."""

_VERIFICATION = "1.2.840.10008.1.1"

_NEWCOMERS = 16
"""Connections beside the associations: time for a rejection to be said."""

_UNNAMED = re.compile(r"[^A-Za-z0-9_.-]")


def offered_syntaxes() -> list[str]:
    """Transfer syntaxes this machine decodes.

    Uncompressed little endian comes first: a sender that can choose is asked for what needs no decoder.
    """
    preferred = [str(ExplicitVRLittleEndian), str(ImplicitVRLittleEndian)]
    others = [str(syntax) for syntax in AllTransferSyntaxes if syntax not in preferred and can_decode(syntax)]
    return preferred + others


class Receiver:
    """Receives objects between :meth:`start` and :meth:`stop`."""

    def __init__(
        self,
        config: ListenConfig,
        spool: Spool,
        journal: Journal,
        *,
        on_object: Callable[[ObjectRow], None],
        on_released: Callable[[Collection[str]], None],
        on_refused: Callable[[str], None],
    ) -> None:
        """Open the port; nobody is answered before :meth:`start`.

        Args:
            config: node, peers and routes are read.
            spool: where objects are kept; borrowed.
            journal: where they are listed; borrowed.
            on_object: told of each object that is new or has new content, once it is journalled; returns at once.
            on_released: told which series an association gave, once it ended in whatever way and that is journalled.
            on_refused: told of each association and each object that is refused: a code.

        Raises:
            UsageError: ``tls_unusable``; ``address_unusable``, the address or port cannot be had.
        """
        node = config.node
        self.max_pdu, self.idle_timeout_s = node.max_pdu, node.idle_timeout_s
        self._config, self._journal = config, journal
        self._on_released, self._on_refused = on_released, on_refused
        self._keeping = Keeping(spool, journal, node.max_object_bytes, on_object, on_refused)
        self._lock = threading.Lock()
        self._senders: dict[NodeAssociation, Sender] = {}
        self._stopping = False
        ae = AE(node.ae_title)
        ae.maximum_pdu_size = node.max_pdu
        ae.maximum_associations = node.max_associations + _NEWCOMERS  # counted here: pynetdicom counts newcomers too
        ae.acse_timeout = REQUEST_S
        ae.add_supported_context(_VERIFICATION)
        for sop_class in sorted({CTImageStorage, *ENHANCED_CLASSES}):
            ae.add_supported_context(sop_class, offered_syntaxes())
        try:
            self._server = NodeServer(
                ae,
                (str(node.address), node.port),
                self,
                max_connections=node.max_associations + _NEWCOMERS,
                tls=server_context(node.tls) if node.tls is not None else None,
            )
        except OSError as error:
            raise UsageError(
                "address_unusable",
                f"The node cannot listen on {node.address} port {node.port}: {error.strerror or error}.",
                "Choose another address or port (node), or stop what uses it.",
            ) from error

    @property
    def port(self) -> int:
        """The port that is listened on."""
        return int(self._server.server_address[1])

    def open_associations(self) -> int:
        """How many associations there are, for the metrics."""
        with self._lock:
            return len(self._senders)

    def start(self) -> None:
        """Answer from now on."""
        self._server.start()
        log_event(_log, logging.INFO, "listening", address=str(self._config.node.address), port=self.port)

    def stop(self, timeout_s: float = 5.0) -> None:
        """Take no association any more and end those there are; an object under way has so long to be stored."""
        self._stopping = True
        self._server.stop(timeout_s)

    def knows(self, address: str) -> bool:
        """Whether a peer may call from this address."""
        peers = self._config.peers
        return any(peer.calls_from(address) for peer in peers) if peers else _is_loopback(address)

    def admit(self, association: NodeAssociation, request: A_ASSOCIATE) -> Rejection | None:
        """Judge a request to associate."""
        address = association.requestor.address
        title = request.calling_ae_title.strip()
        rejection, reason, sender = self._judged(title, request.called_ae_title.strip(), address)
        with self._lock:
            if rejection is None and len(self._senders) >= self._config.node.max_associations:
                rejection, reason = _BUSY, "too_many_associations"
            if rejection is None and sender is not None:
                association.peer = sender.peer
                self._senders[association] = sender
        if rejection is not None:
            self._on_refused(reason)
            log_event(
                _log, logging.WARNING, "association_rejected", peer=_name_of(title), address=address, reason=reason
            )
        else:
            log_event(_log, logging.INFO, "association_accepted", peer=association.peer, address=address)
        return rejection

    def incoming(self, association: NodeAssociation, command: Command, context: Context) -> IncomingObject:
        """Take an object of an admitted association."""
        return IncomingObject(self._keeping, self._senders[association], command, context)

    def ended(self, association: NodeAssociation) -> None:
        """An admitted association is over."""
        sender = self._senders[association]
        log_event(_log, logging.INFO, "association_ended", peer=sender.peer, count=len(sender.series))
        try:
            if sender.series:
                self._journal.association_released(sorted(sender.series), time.time())
                self._on_released(frozenset(sender.series))
        except Exception as error:
            _log.error("That an association ended was not noted: %s", traceback_without_messages(error))
        finally:
            with self._lock:
                del self._senders[association]

    def _judged(self, title: str, called: str, address: str) -> tuple[Rejection | None, str, Sender | None]:
        """Rejection with its reason for the log, or who sends."""
        config = self._config
        if self._stopping:
            return _STOPPING, "stopping", None
        if called != config.node.ae_title:
            return _NOT_OUR_TITLE, "called_ae_title", None
        if config.peers:
            peer = config.peer_of(title, address)
            if peer is None:
                return _NOT_A_PEER, "not_a_peer", None
            name = peer.name
            route = config.route_of(name)
        else:
            if not _is_loopback(address):
                return _NOT_A_PEER, "not_loopback", None
            name = _name_of(title)
            route = config.route_of(None)
        if route is None:
            return _NOT_A_PEER, "no_route", None
        return None, "", Sender(name, route.name, title, set())


def _is_loopback(address: str) -> bool:
    where = ipaddress.ip_address(address)
    return (getattr(where, "ipv4_mapped", None) or where).is_loopback


def _name_of(title: str) -> str:
    """What may be logged and journalled of an AE title no list names."""
    return _UNNAMED.sub("_", title)[:16]
