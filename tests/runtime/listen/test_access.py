"""Hosts, tokens and cookies."""

from __future__ import annotations

from pathlib import Path

import pytest

from onfh_runtime.errors import UsageError
from onfh_runtime.listen.access import SESSION_S, Access, token_from_file

TOKEN = "0123456789abcdef0123456789abcdef"


def write(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def test_a_token_is_read_and_trimmed(tmp_path: Path) -> None:
    assert token_from_file(write(tmp_path / "token", f"{TOKEN}\n")) == TOKEN


@pytest.mark.parametrize(
    ("text", "mode"), [("short\n", 0o600), (TOKEN, 0o604), (f"{TOKEN} {TOKEN}", 0o600), ("", 0o600), ("é" * 40, 0o600)]
)
def test_a_weak_or_open_token_is_refused(tmp_path: Path, text: str, mode: int) -> None:
    with pytest.raises(UsageError) as caught:
        token_from_file(write(tmp_path / "token", text, mode))
    assert caught.value.code == "token_unusable"
    assert not text.strip() or text.strip() not in str(caught.value)


def test_a_missing_token_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="token_unusable"):
        token_from_file(tmp_path / "none")


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "10.1.2.3", "192.168.0.1"])
def test_no_address_off_loopback_without_a_token(address: str) -> None:
    with pytest.raises(UsageError, match="token_required"):
        Access(address, None)
    Access(address, TOKEN)


@pytest.mark.parametrize(
    ("host", "on_loopback", "elsewhere"),
    [
        ("127.0.0.1:8080", True, True),
        ("localhost", True, True),
        ("LOCALHOST:8080", True, True),
        ("[::1]:8080", True, True),
        ("10.0.0.1:8080", False, True),
        ("[fd00::1]", False, True),
        ("evil.example", False, False),
        ("localhost.evil.example", False, False),
        ("127.0.0.1.evil.example:8080", False, False),
        ("evil.example:127", False, False),
        ("", False, False),
        (None, False, False),
        ("127.0.0.1@evil.example", False, False),
    ],
)
def test_only_this_machines_number_is_a_host(host: str | None, on_loopback: bool, elsewhere: bool) -> None:
    assert Access("127.0.0.1", None).host_is_ours(host) == on_loopback
    assert Access("0.0.0.0", TOKEN).host_is_ours(host) == elsewhere


def test_bearer() -> None:
    access = Access("127.0.0.1", TOKEN)
    assert access.bearer_is_right(f"Bearer {TOKEN}")
    assert access.bearer_is_right(f"bearer  {TOKEN} ")
    for wrong in (None, "", TOKEN, f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer ", "Bearer é"):
        assert not access.bearer_is_right(wrong)
    assert not Access("127.0.0.1", None).bearer_is_right("Bearer ")


def test_a_cookie_lasts_its_time_and_cannot_be_made_up() -> None:
    access = Access("127.0.0.1", TOKEN)
    made = access.cookie(now_s=1000.0)
    assert "HttpOnly" in made
    assert "SameSite=Strict" in made
    assert TOKEN not in made
    pair = made.partition(";")[0]
    assert access.cookie_is_right(f"other=1; {pair}", now_s=1000.0 + SESSION_S - 1)
    assert not access.cookie_is_right(pair, now_s=1000.0 + SESSION_S + 1)
    later = pair.replace(str(1000 + SESSION_S), str(9000 + SESSION_S))
    for wrong in (later, pair + "0", "onfh_session=", "onfh_session=a.b", "", None, ";;=", "onfh_session=1.é"):
        assert not access.cookie_is_right(wrong, now_s=1000.0)
    assert not Access("127.0.0.1", "another token, quite as long as it").cookie_is_right(pair, now_s=1000.0)
    assert not Access("127.0.0.1", None).cookie_is_right(pair, now_s=1000.0)
