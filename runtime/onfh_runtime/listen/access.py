"""Who may read the node's pages: the host that was asked for, the token, and the cookie a browser gets for it."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import time
from http.cookies import CookieError, SimpleCookie
from pathlib import Path

from onfh_runtime.errors import UsageError

__all__ = ["SESSION_S", "Access", "token_from_file"]

SESSION_S = 12 * 3600
"""How long a login lasts: a shift."""

_COOKIE = "onfh_session"
_SHORTEST = 32
"""Characters of a token: ``openssl rand -hex 32`` gives 64. What cannot be guessed needs no count of wrong guesses."""

_READABLE_BY_OTHERS = 0o007


def token_from_file(path: Path) -> str:
    """The token of a file: its one line.

    Raises:
        UsageError: ``token_unusable``, when it cannot be read, is short, or everybody on the machine may read it.
    """
    fix = f"Make one: umask 077; openssl rand -hex 32 > {path}"
    try:
        token = path.read_text("ascii").strip()
        mode = path.stat().st_mode
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            "token_unusable", f"The token file {path} cannot be read ({type(error).__name__}).", fix
        ) from None
    if len(token) < _SHORTEST or not token.isprintable() or " " in token:
        raise UsageError(
            "token_unusable", f"The token in {path} is not one word of at least {_SHORTEST} characters.", fix
        )
    if mode & _READABLE_BY_OTHERS:
        raise UsageError("token_unusable", f"Everybody on this machine may read {path}.", f"chmod o-rwx {path}")
    return token


class Access:
    """What a request must show. Without a token everybody who reaches a loopback address is let in."""

    def __init__(self, address: str, token: str | None) -> None:
        """Remember the address the server listens on and the token.

        Raises:
            UsageError: ``token_required``, when the address is not loopback and there is no token.
        """
        self._loopback = ipaddress.ip_address(address).is_loopback
        if token is None and not self._loopback:
            raise UsageError(
                "token_required",
                f"The page at {address} can be reached from elsewhere without a token.",
                "Set token_file.",
            )
        self._token = token

    def host_is_ours(self, host: str | None) -> bool:
        """Whether a ``Host`` header names this machine by number, or as localhost.

        A web site that makes its own name point here (DNS rebinding) sends that name; browsers let no script choose it.
        """
        name = (host or "").strip().lower()
        if name.startswith("["):
            name = name[1:].partition("]")[0]
        elif name.count(":") == 1:
            name = name.partition(":")[0]
        if name == "localhost":
            return True
        try:
            number = ipaddress.ip_address(name)
        except ValueError:
            return False
        return number.is_loopback or not self._loopback

    def is_open(self) -> bool:
        """Whether no token is needed."""
        return self._token is None

    def token_is_right(self, token: str) -> bool:
        """Whether a token is the one, in a time that does not depend on how wrong it is."""
        return self._token is not None and hmac.compare_digest(token.encode(), self._token.encode())

    def bearer_is_right(self, header: str | None) -> bool:
        """Whether an ``Authorization`` header carries the token."""
        scheme, _, token = (header or "").partition(" ")
        return scheme.lower() == "bearer" and self.token_is_right(token.strip())

    def cookie(self, now_s: float | None = None) -> str:
        """A ``Set-Cookie`` value for a browser that showed the token: an end and its seal, not the token itself."""
        end = str(int((time.time() if now_s is None else now_s) + SESSION_S))
        return f"{_COOKIE}={end}.{self._seal(end)}; Path=/; Max-Age={SESSION_S}; HttpOnly; SameSite=Strict"

    def no_cookie(self) -> str:
        """A ``Set-Cookie`` value that ends a login."""
        return f"{_COOKIE}=; Path=/; Max-Age=0; HttpOnly; SameSite=Strict"

    def cookie_is_right(self, header: str | None, now_s: float | None = None) -> bool:
        """Whether a ``Cookie`` header carries a login that has not ended."""
        try:
            value = SimpleCookie(header or "").get(_COOKIE)
        except CookieError:
            return False
        if self._token is None or value is None:
            return False
        end, _, seal = value.value.partition(".")
        if not hmac.compare_digest(seal.encode(), self._seal(end).encode()):
            return False
        return int(end) > (time.time() if now_s is None else now_s)

    def _seal(self, end: str) -> str:
        # Keyed by the token, so a new token ends every login, and a restart none.
        return hmac.new(
            (self._token or "").encode(), b"onfh listen login until " + end.encode(), hashlib.sha256
        ).hexdigest()
