"""``ListenConfig`` from a YAML file, with errors that name the line, the field and the fix."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from onfh_runtime.errors import MissingExtraError, UsageError
from onfh_runtime.listen.config import ListenConfig
from onfh_runtime.listen.config_checks import Place, Problem, problems_here, problems_of

__all__ = ["config_from_yaml"]

_INVALID = "config_invalid"

_SAID = {
    "missing": ("this field must be given", ""),
    "string_type": ("this is no text", "Put it in quotes."),
    "tuple_type": ("this is no list", "Write it in brackets: [a, b]."),
    "model_type": ("this is no section", "Give its fields, one a line and indented."),
}
"""What pydantic's error types mean to whoever wrote the file; other messages speak for themselves."""


def config_from_yaml(path: Path) -> ListenConfig:
    """Read, validate and check a configuration; relative paths in it are relative to its folder.

    Args:
        path: a YAML file, as ``data/listen.example.yaml`` shows.

    Raises:
        UsageError: ``config_unreadable``; ``config_invalid`` with every problem on a line of its own.
        MissingExtraError: ``missing_extra``, PyYAML is not installed.
    """
    value, lines, problems = _parsed(path)
    try:
        config = ListenConfig.model_validate(value, context={"folder": path.parent})
    except ValidationError as error:
        # A list is reported empty when its entries were refused, each of which has a line of its own.
        problems += [
            _problem(detail) for detail in error.errors() if detail["type"] != "too_short" or not detail["input"]
        ]
        raise _refused(path, lines, problems) from None
    problems += [*problems_of(config), *problems_here(config)]
    if problems:
        raise _refused(path, lines, problems)
    return config


def _parsed(path: Path) -> tuple[dict[str, Any], Mapping[Place, int], list[Problem]]:
    """The content of a file, the line of each of its fields, and fields that are given twice."""
    try:
        import yaml
    except ImportError as error:
        raise MissingExtraError(
            "missing_extra", "PyYAML is not installed.", "pip install 'onfh-edge[listen]'"
        ) from error
    try:
        loader = yaml.SafeLoader(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError("config_unreadable", f"{path} cannot be read ({_one_line(error)}).") from error
    try:
        node = loader.get_single_node()
        value = None if node is None else loader.construct_document(node)
        fields = [] if node is None else list(_fields(node, ()))
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise UsageError(
            _INVALID, f"{path} is not YAML: {_one_line(error)}.", "Check its quotes, colons and indents."
        ) from error
    finally:
        loader.dispose()
    if not isinstance(value, dict):
        raise UsageError(_INVALID, f"{path} holds no fields.", "Begin with the line 'state_dir: FOLDER'.")
    lines: dict[Place, int] = {}
    twice = []
    for place, line in fields:
        if place in lines:
            twice.append(Problem(place, f"this field is given on line {lines[place]} too", "Remove one."))
        lines[place] = line
    return value, lines, twice


def _fields(node: Any, place: Place) -> Iterator[tuple[Place, int]]:
    """Every field and list entry below a node of the YAML tree, and its line from 1."""
    if node.id == "mapping":
        for key, value in node.value:
            inner = (*place, str(key.value))
            yield inner, key.start_mark.line + 1
            yield from _fields(value, inner)
    elif node.id == "sequence":
        for i, value in enumerate(node.value):
            yield (*place, i), value.start_mark.line + 1
            yield from _fields(value, (*place, i))


def _problem(detail: Mapping[str, Any]) -> Problem:
    """One of pydantic's errors."""
    place: Place = tuple(detail["loc"])
    if detail["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(place[-1]), _names(place[:-1]), 1)
        return Problem(place, "there is no such field", f"Did you mean {near[0]}?" if near else "Remove it.")
    message = str(detail["msg"]).removeprefix("Value error, ").removeprefix("Input should be ").rstrip(".")
    if detail["type"] in _SAID:
        return Problem(place, *_SAID[detail["type"]])
    return Problem(place, f"{_shown(detail['input'])} does not fit", f"It should be: {message}.")


def _names(place: Place) -> list[str]:
    """The fields of the section at a place."""
    model: Any = ListenConfig
    for step in place:
        if isinstance(step, str) and issubclass(model, BaseModel):
            names = {field.alias or name: field.annotation for name, field in model.model_fields.items()}
            model = _model_in(names.get(step))
        if model is None:
            return []
    return [field.alias or name for name, field in model.model_fields.items()]


def _model_in(annotation: Any) -> Any:
    """The section an annotation holds: itself, or within a tuple or a union."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_model_in, getattr(annotation, "__args__", ()))), None)


def _refused(path: Path, lines: Mapping[Place, int], problems: Sequence[Problem]) -> UsageError:
    said = []
    for problem in sorted(problems, key=lambda problem: _line(lines, problem.place)):
        field = ".".join(str(step) for step in problem.place)
        said.append(f"  line {_line(lines, problem.place)}, {field}: {problem.text}. {problem.fix}".rstrip())
    return UsageError(_INVALID, "\n".join([f"{path} cannot be used:", *said]))


def _line(lines: Mapping[Place, int], place: Place) -> int:
    """The line of a field, or of the section it is missing from."""
    while place and place not in lines:
        place = place[:-1]
    return lines.get(place, 1)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
