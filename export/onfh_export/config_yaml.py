"""YAML as a configuration needs it: safe, small, without the surprises of YAML 1.1."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from onfh_runtime.errors import UsageError

__all__ = ["mapping_from_file", "value_from_text"]

_MAX_BYTES = 1 << 20
_MAX_VALUES = 10_000
"""Counted with aliases written out: a few lines of them can stand for billions of values."""


def mapping_from_file(path: Path) -> dict[str, Any]:
    """Read a YAML (or JSON) file that holds one mapping.

    Raises:
        UsageError: ``config_invalid``.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(_MAX_BYTES + 1)
        text = raw.decode("utf-8-sig")
    except (OSError, ValueError) as error:
        raise UsageError("config_invalid", f"{path} cannot be read as text ({error}).") from error
    if len(raw) > _MAX_BYTES:
        raise UsageError("config_invalid", f"{path} is over 1 MB, which no configuration is.")
    value = value_from_text(text, str(path))
    if not isinstance(value, dict):
        raise UsageError("config_invalid", f"{path} holds no fields.", "See onfh export --example-config.")
    return value


def value_from_text(text: str, where: str) -> Any:
    """Read one YAML value; ``where`` names it in errors.

    Numbers such as 1e-3 are numbers. A key given twice, a merge key, a date, NaN and infinity are refused.

    Raises:
        UsageError: ``config_invalid``.
    """
    try:
        # JSON allows tabs between its tokens, YAML does not.
        value = json.loads(text, object_pairs_hook=_unique) if text.lstrip().startswith("{") else None
    except (ValueError, RecursionError):
        value = None
    try:
        if value is None:
            value = yaml.load(text, _Loader)
        _check_values(value)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UsageError("config_invalid", f"{where} is no usable YAML: {_problem(error)}.") from error
    return value


class _Loader(yaml.SafeLoader):
    """Builds plain values only."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value:
            problem = ""
            if not isinstance(key, yaml.ScalarNode):
                problem = "a key is no text"
            elif key.tag == "tag:yaml.org,2002:merge":
                problem = "merge keys (<<) are not read"
            elif key.value in seen:
                problem = f"{key.value!r} is given twice"
            if problem:
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


# YAML 1.1 reads 1e-3 as text, because it lacks a point.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) < len(pairs):
        raise ValueError("a key is given twice")
    return dict(pairs)


def _problem(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        return f"line {error.problem_mark.line + 1}: {error.problem}"
    return str(error)


def _check_values(value: Any) -> None:
    waiting, count = [value], 0
    while waiting:
        item = waiting.pop()
        count += 1
        if isinstance(item, dict):
            if not all(isinstance(key, str) for key in item):
                raise ValueError(f"the key {next(key for key in item if not isinstance(key, str))!r} is not text")
            inside = list(item.values())
        else:
            inside = item if isinstance(item, list) else []
        if count + len(waiting) + len(inside) > _MAX_VALUES:
            raise ValueError(f"it stands for more than {_MAX_VALUES} values")
        waiting += inside
        if isinstance(item, float) and not math.isfinite(item):
            raise ValueError(f"{item} is not a usable number")
        if not isinstance(item, (dict, list, str, int, float, type(None))):
            raise ValueError(f"{item!s} is read as a {type(item).__name__}; put it in quotes")
