"""TLS for associations, both ways: what the BCP 195 profiles of DICOM ask for (PS3.15, B.9 to B.12)."""

from __future__ import annotations

import ssl

from onfh_runtime.errors import UsageError
from onfh_runtime.listen.config import Tls

__all__ = ["client_context", "server_context"]


def server_context(tls: Tls) -> ssl.SSLContext:
    """A context for the side that is called: TLS 1.2 or later; a peer without a trusted certificate is refused.

    Raises:
        UsageError: ``tls_unusable``, a file is missing or unreadable, or the two do not belong together.
    """
    context = _context(ssl.PROTOCOL_TLS_SERVER, tls)
    if tls.require_client:
        if tls.ca is None:
            raise UsageError(
                "tls_unusable",
                "Clients are asked for a certificate (require_client) and no ca says who may have signed it.",
                "Name a PEM file as ca, or set require_client to false.",
            )
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(tls: Tls) -> ssl.SSLContext:
    """A context for the side that calls: the other side's certificate must be trusted and must name the host.

    Without ``ca`` the system's certificate authorities are trusted.

    Raises:
        UsageError: ``tls_unusable``.
    """
    context = _context(ssl.PROTOCOL_TLS_CLIENT, tls)
    if tls.ca is None:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    return context


def _context(protocol: int, tls: Tls) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    for path in (tls.certificate, tls.key, tls.ca):
        if path is not None:
            try:
                path.open("rb").close()
            except OSError as error:
                raise UsageError("tls_unusable", f"{path} cannot be read: {error.strerror}.") from error
    try:
        # Without a password of its own OpenSSL would ask for one on the terminal.
        context.load_cert_chain(tls.certificate, tls.key, password="")
        if tls.ca is not None:
            context.load_verify_locations(tls.ca)
    except ssl.SSLError as error:
        raise UsageError(
            "tls_unusable",
            f"The TLS files {tls.certificate}, {tls.key} and {tls.ca or 'no ca'} cannot be used"
            f" ({error.reason or 'not PEM'}).",
            "Give a PEM certificate, its own key without a password, and the certificate of the authority.",
        ) from error
    return context
