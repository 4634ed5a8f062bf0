"""One association at a time with a destination, to give it objects (PS3.4, B.2; PS3.7, 9.1.1)."""

from __future__ import annotations

import contextlib
import logging
import ssl
from collections.abc import Collection, Iterator

from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.events import Event

from onfh_runtime.listen.config import Destination
from onfh_runtime.listen.log import log_event
from onfh_runtime.listen.tls import client_context

__all__ = ["StoreScu", "UnreachableError"]

_log = logging.getLogger(__name__)

_CONNECT_S = 10.0
"""Longest wait for a connection, and for TLS."""

_ASSOCIATE_S = 30.0
"""Longest wait for an association to be accepted or released, and for a connection that moves no byte."""

_ANSWER_S = 60.0
"""Longest wait for an answer to an object, beside the time its bytes may take."""

_SLOWEST_BYTES_PER_S = 250_000
"""A link slower than this is taken for one that stands still."""

_MAX_CONTEXTS = 128
_DUPLICATE = 0x0111
"""Duplicate SOP Instance: the destination has the object, for instance because this node was killed after sending."""


class UnreachableError(Exception):
    """No association could be had, or it broke."""


class StoreScu:
    """Gives objects to one destination."""

    def __init__(self, destination: Destination, ae_title: str) -> None:
        """Prepare; nothing is connected yet.

        Args:
            destination: where to.
            ae_title: what we call ourselves unless the destination says otherwise.

        Raises:
            UsageError: ``tls_unusable``.
        """
        self._destination = destination
        self._context: ssl.SSLContext | None = client_context(destination.tls) if destination.tls else None
        self._ae = AE(ae_title=destination.calling_ae_title or ae_title)
        self._ae.connection_timeout = _CONNECT_S
        self._ae.acse_timeout = _ASSOCIATE_S
        self._ae.network_timeout = _ASSOCIATE_S
        self._association: Association | None = None
        self._accepted: set[str] = set()

    @contextlib.contextmanager
    def association(self, sop_classes: Collection[str]) -> Iterator[None]:
        """An association in which objects of these classes may be stored, released at the end.

        Each class is offered as Explicit and as Implicit VR Little Endian, in a context of its own, so that a
        destination may take either.

        Raises:
            UnreachableError: there is no such association.
        """
        self._ae.requested_contexts = []
        for sop_class in sorted(sop_classes)[: _MAX_CONTEXTS // 2]:
            self._ae.add_requested_context(sop_class, ExplicitVRLittleEndian)
            self._ae.add_requested_context(sop_class, ImplicitVRLittleEndian)
        to = self._destination
        try:
            association = self._ae.associate(
                to.host,
                to.port,
                ae_title=to.ae_title,
                tls_args=(self._context, to.host) if self._context is not None else None,
                evt_handlers=[(evt.EVT_CONN_OPEN, _limit_waiting)],
            )
        except (OSError, UnicodeError) as error:  # whoever knows names is away, or does not know this one
            raise UnreachableError(f"The host of {to.name} is not known here.") from error
        self._association = association
        try:
            # A destination that takes none of the classes is there all the same: store() says what it does not take.
            if not association.is_established and not _took_nothing(association):
                raise UnreachableError(self._why_not(association))
            self._accepted = {str(context.abstract_syntax) for context in association.accepted_contexts}
            yield
        finally:
            self._association = None
            if association.is_established:
                association.release()

    def store(self, data: Dataset, nbytes: int) -> str | None:
        """Store an object; None when the destination has it, otherwise why it does not want it.

        Args:
            data: the object.
            nbytes: its size, for how long an answer may take.

        Raises:
            UnreachableError: the association broke, or no answer came.
        """
        association, name = self._association, self._destination.name
        assert association is not None
        sop_class = str(data.SOPClassUID)
        if sop_class not in self._accepted:
            return f"{name} takes no objects of SOP class {sop_class}."
        if not association.is_established:
            raise UnreachableError(f"{name} ended the association.")
        association.dimse_timeout = _ANSWER_S + nbytes / _SLOWEST_BYTES_PER_S
        answer = association.send_c_store(data)
        if "Status" not in answer:
            raise UnreachableError(f"{name} ended the association, or gave no answer to an object.")
        status = int(answer.Status)
        if _is_warning(status):
            log_event(
                _log,
                logging.WARNING,
                "delivery_warning",
                destination=name,
                sop_uid=str(data.SOPInstanceUID),
                status=f"0x{status:04X}",
            )
        elif status not in (0, _DUPLICATE):
            return f"{name} refused an object with status 0x{status:04X}."
        return None

    def abort(self) -> None:
        """Break the association off, from another thread."""
        association = self._association
        if association is not None:
            association.abort()

    def _why_not(self, association: Association) -> str:
        name = self._destination.name
        if association.is_rejected:
            primitive = association.acceptor.primitive
            reason = primitive.reason_str if primitive is not None else "no reason given"
            return f"{name} rejected the association ({reason})."
        secure = " or its certificate is not trusted" if self._context is not None else ""
        return f"{name} cannot be reached{secure}, or ended the association."


def _took_nothing(association: Association) -> bool:
    """Whether the association was accepted with no presentation context, which ends it."""
    answer = association.acceptor.primitive
    return answer is not None and answer.result == 0 and not association.accepted_contexts


def _is_warning(status: int) -> bool:
    """Whether an object was stored, with a remark (PS3.4, table B.2-1; PS3.7, annex C)."""
    return status in (0x0001, 0x0107, 0x0116) or 0xB000 <= status <= 0xBFFF


def _limit_waiting(event: Event) -> None:
    """Bound every wait of the connection itself: pynetdicom waits forever for a peer that does not read."""
    connection = event.assoc.dul.socket
    if connection is not None and connection.socket is not None:
        connection.socket.settimeout(_ASSOCIATE_S)
