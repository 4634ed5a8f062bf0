"""docs/codes.md and the source name the same codes."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ERRORS = {"SeriesError", "BackendError", "BundleError", "OutputError", "UsageError"}


def codes_in_source():
    """First arguments of our errors, ``code=`` of notes, and the constants these are given as."""
    found = set()
    for path in (ROOT / "runtime" / "onfh_runtime").rglob("*.py"):
        if "phantom" in path.parts:
            continue
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
                continue
            values = [k.value for k in node.keywords if k.arg == "code"] if node.func.id == "Note" else []
            if node.func.id in ERRORS:
                values = node.args[:1]
            found |= {v.value for v in values if isinstance(v, ast.Constant) and isinstance(v.value, str)}
    return found


def test_every_code_is_documented():
    pages = "\n".join((ROOT / "docs" / name).read_text() for name in ("codes.md", "evaluate.md"))
    assert codes_in_source() - set(re.findall(r"`([a-z_]+)`", pages)) == set()


def test_every_documented_code_exists():
    source = "\n".join(path.read_text() for path in (ROOT / "runtime" / "onfh_runtime").rglob("*.py"))
    documented = set(re.findall(r"`([a-z_]{4,})`", (ROOT / "docs" / "codes.md").read_text())) - {"status"}
    assert {code for code in documented if f'"{code}"' not in source} == set()
