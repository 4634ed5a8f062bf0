"""The processor has a name, and freed memory can be given back."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest

from onfh_runtime import cpu


def test_the_processor_has_a_name():
    assert cpu.cpu_name()


def test_the_name_is_the_one_the_system_lists():
    listed = Path("/proc/cpuinfo")
    if not listed.exists() or "model name" not in listed.read_text():
        pytest.skip("the system lists no model name")
    assert f": {cpu.cpu_name()}\n" in listed.read_text()


def test_a_name_is_found_without_the_list(monkeypatch):
    def unreadable(path):
        raise OSError

    monkeypatch.setattr(Path, "read_text", unreadable)
    assert cpu.cpu_name()


@pytest.mark.parametrize(("listed", "exactly"), [("flags : avx2 avx512_vnni", True), ("flags : avx2", False)])
def test_vnni_is_one_of_the_flags(monkeypatch, listed, exactly):
    monkeypatch.setattr(Path, "read_text", lambda path: listed)
    assert cpu.multiplies_bytes_exactly() is exactly


def test_free_memory_is_given_back_where_that_can_be_done(monkeypatch):
    asked = []

    class Library:
        malloc_trim = staticmethod(asked.append)

    monkeypatch.setattr(ctypes, "CDLL", lambda name: Library)
    cpu.return_free_memory()
    assert asked == [0]
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    cpu.return_free_memory()
