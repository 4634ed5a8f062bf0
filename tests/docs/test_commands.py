"""What the pages tell to type exists: commands and their options, make targets, extras, scripts."""

from __future__ import annotations

import argparse
import re
import shlex
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "benchmarks" / "README.md", *(ROOT / "docs").rglob("*.md")])
FENCED = re.compile(r"^```\w*\n(.*?)^```", re.MULTILINE | re.DOTALL)
SCRIPT = re.compile(r"(?:benchmarks|tests)/[\w./-]+\.py")
COMMANDS = {entry.name: entry.value for entry in entry_points(group="onfh.commands")}


def typed(page):
    """The command lines of a page's blocks, in words, without comments; a trailing backslash goes on."""
    for block in FENCED.findall(page.read_text(encoding="utf-8")):
        for line in block.replace("\\\n", " ").splitlines():
            try:
                words = shlex.split(line, comments=True)
            except ValueError:  # text with an apostrophe
                continue
            while words and re.fullmatch(r"\w+=\S*", words[0]):
                words = words[1:]
            if words:
                yield words


def options_of(command):
    parser = argparse.ArgumentParser()
    parser.add_argument("--verbose", action="store_true")
    import_module(COMMANDS[command]).add_arguments(parser)
    return {string for action in parser._actions for string in action.option_strings}


def unknown(page):
    """What a page names and is not there."""
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    extras = set(re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE))
    for words in typed(page):
        if words[0] == "onfh" and len(words) > 1 and words[1].isalpha() and words[1].islower():
            if words[1] not in COMMANDS:
                yield f"onfh {words[1]}"
                continue
            given = {word.split("=")[0] for word in words[2:] if word.startswith("--")}
            yield from (f"onfh {words[1]} {option}" for option in sorted(given - options_of(words[1])))
        elif words[0] == "make":
            names = [word for word in words[1:] if "=" not in word]
            yield from (f"make {name}" for name in names if name not in targets)
        for word in words:
            if found := re.fullmatch(r"(?:onfh-edge|\.)\[([\w,]+)\]", word):
                yield from (f"the extra {extra}" for extra in found[1].split(",") if extra not in extras)
            elif SCRIPT.fullmatch(word) and not (ROOT / word).exists():
                yield word


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_tells_to_type_exists(page):
    assert sorted(set(unknown(page))) == []


def test_what_does_not_exist_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "```\nPATH=/x:$PATH pip install 'onfh-edge[rtx,nothing]'\nonfh infer S --out O --nothing  # --comment\n"
        "onfh bench \\\n  --other\nonfh nothing\nmake nothing OUT=x\npython benchmarks/nothing.py\n```\n"
    )
    assert sorted(unknown(page)) == [
        "benchmarks/nothing.py",
        "make nothing",
        "onfh bench --other",
        "onfh infer --nothing",
        "onfh nothing",
        "the extra nothing",
    ]
