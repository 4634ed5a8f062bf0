"""The configuration of an export: what ``bundle.json`` says and export cannot know."""

from __future__ import annotations

import copy
import difflib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from onfh_export.config_yaml import mapping_from_file, value_from_text
from onfh_runtime.bundle import Bundle, Stage
from onfh_runtime.errors import UsageError

__all__ = ["SOURCE_FIELDS", "config_example", "defaults_from_folder", "read_config"]

_STAGES = ("classifier", "segmenter")
SOURCE_FIELDS = ("factory_arguments", "output")
"""Fields of a stage that say how its source is read and do not go into the bundle."""
_OURS = {"schema": "onfh-bundle/1", "files": {}}
_OURS_IN_STAGE = {"architecture": "", "models": {"fp32": "model.onnx"}, "input_name": "input", "output_name": "output"}
"""Fields that export fills in, with stand-ins for the check."""
_ALSO_OURS_IN_STAGE = ("graphs",)
_FROM_BYTES = 1 / 255
"""What image processors multiply 8-bit pixels by to reach 0..1, where a window puts a slice."""
_EXAMPLES = {
    "name": "hip-necrosis",
    "version": '"1.0.0"',
    "slice_spacing_mm": "3.0",
    "coverage.margin_mm": "12.0",
    "gate.threshold": "0.1",
    "slice_threshold": "0.5",
    "patient_rule.threshold": "0.5",
    "minimum_volume_mm3": "100.0",
    "input.size": "[224, 224]",
    "input.windows": "[{center: 500, width: 2000}]",
    "input.mean": "[0.5]",
    "input.std": "[0.5]",
}
_EXAMPLE = """\
# What `onfh export --config FILE` reads. Each field can also be given as --set gate.threshold=0.1.
# Fields in comments are optional and show their default, or an example.
name: hip-necrosis
version: "1.0.0"
# description: ""
# notices: ["Research use only. Not for diagnosis."]
# provenance: {trained_on: "..."}       # any texts

slice_spacing_mm: 3.0                   # distance of the coronal slices that are analysed
coverage:
  margin_mm: 12.0                       # slices in front of and behind the femoral heads
  # in_plane_mm: null                   # box around the heads; null: the whole slice

classifier:                             # stage 1
  # activation: softmax                 # or sigmoid of one channel, or none: probabilities already
  # positive_class: 1                   # output channel of necrosis, from 0
  # max_batch: 8
  input:
    size: [224, 224]                    # height, width
    windows: [{center: 500, width: 2000}]     # HU; one per channel, or one for all of them
    mean: [0.5]                         # of the windowed value, 0 to 1
    std: [0.5]
    # min_pixel_spacing_mm: 0.0         # never enlarge beyond this
  # factory_arguments: {}               # keywords for module:factory
  # output: logits                      # which output of an ONNX file that has several

segmenter:                              # stage 2, the same fields
  input:
    size: [512, 512]
    windows: [{center: 500, width: 2000}]
    mean: [0.5]
    std: [0.5]

gate:
  threshold: 0.1                        # slices at or above it go on to stage 2
  # max_slices: null
slice_threshold: 0.5
patient_rule:
  # kind: top_k_mean
  # k: 1                                # mean of the k most probable slices
  threshold: 0.5
# mask_threshold: 0.5
# minimum_component_mm3: 0.0            # smaller connected pieces of a mask are taken away first
minimum_volume_mm3: 100.0               # a smaller mask is no finding

# series:                               # which CT series of a study are analysed, and which is preferred
#   planes: [axial, coronal]
#   max_slice_spacing_mm: 6.0
#   max_thickness_mm: null
#   min_coverage_mm: 0.0
#   refused_kernels: []                 # regular expressions, searched in Convolution Kernel
#   preferred_kernels: []
#   prefer: [kernel, coronal_pixel, images]

# parity:                               # how far a reduced precision may move the answers
#   patient_flips: 0
#   side_flips: 0
#   slice_flips: 0.01
#   probability_drift: 0.02
#   mask_dice: 0.995
#   auc_change: 0.001
"""


def read_config(
    path: Path | None, sets: Sequence[str] = (), defaults: Mapping[str, Mapping[str, Any]] | None = None
) -> dict[str, Any]:
    """Read and check what an export is told.

    Allowed is all of ``bundle.json`` but what export fills in (``schema``, ``files``, and in each stage
    ``architecture``, ``models``, ``input_name``, ``output_name``, ``graphs``), and in each stage ``factory_arguments``
    and ``output``. Where a stage's input has one window, mean or std and another of them has several, the one is
    repeated for each channel: a network of three channels sees one window three times.

    Args:
        path: YAML or JSON file, at most 1 MB; None for an empty one.
        sets: ``field=value``, the field with dots, the value in YAML; they replace what the file says, in order.
        defaults: for each stage, fields of its ``input`` that stand where neither says anything, see
            :func:`defaults_from_folder`.

    Returns:
        The fields as they were given, checked. Pop ``SOURCE_FIELDS`` from the stages to get a bundle's.

    Raises:
        UsageError: ``config_invalid`` for a field that is unknown, wrong or not to be given, ``config_incomplete`` with
            every field that is missing.
    """
    where = str(path) if path else "The configuration"
    # Aliases share what they stand for; a copy of each keeps one flag from changing two places.
    config = json.loads(json.dumps(mapping_from_file(path))) if path else {}
    for flag in sets:
        _set(config, flag)
    for stage in _STAGES:
        _complete_stage(config, stage, (defaults or {}).get(stage, {}), where)
    _refuse_ours(config, where)
    _check(config, where)
    return config


def defaults_from_folder(folder: Path) -> dict[str, Any]:
    """What a Transformers folder says of its input: any of ``size``, ``mean`` and ``std``; nothing of another path.

    ``size`` is the ``image_size`` of ``config.json``; for a network that takes others, the one its
    ``preprocessor_config.json`` asks for comes first. ``mean`` and ``std`` are that file's, where it scales pixels to
    0..1, as a window does, and has one for each channel of the network.

    Raises:
        UsageError: ``checkpoint_unreadable``.
    """
    if not (folder / "config.json").is_file():
        return {}
    config = _json_object(folder / "config.json")
    backbone = config.get("backbone_config")
    vision = backbone if isinstance(backbone, dict) else config
    processor = folder / "preprocessor_config.json"
    asked = _json_object(processor) if processor.is_file() else {}
    sizes = [_pair(asked.get("size")), _pair(vision.get("image_size"))]
    if vision.get("model_type") == "vit":
        sizes.reverse()
    found: dict[str, Any] = {"size": sizes[0] or sizes[1]}
    factor, channels = asked.get("rescale_factor", _FROM_BYTES), vision.get("num_channels", 3)
    scaled = isinstance(factor, float) and math.isclose(factor, _FROM_BYTES, rel_tol=1e-3)
    if asked and scaled and asked.get("do_rescale", True) and isinstance(channels, int):
        given = asked.get("image_mean"), asked.get("image_std")
        if not asked.get("do_normalize", True):
            given = [0.0] * channels, [1.0] * channels
        for field, values in zip(("mean", "std"), given, strict=True):
            if isinstance(values, list) and len(values) == channels:
                found[field] = values
    return {field: value for field, value in found.items() if value is not None}


def config_example() -> str:
    """A small configuration in YAML with a comment on every field; it is valid as it stands."""
    return _EXAMPLE


def _set(config: dict[str, Any], flag: str) -> None:
    field, equals, text = flag.partition("=")
    *parents, last = field.strip().split(".")
    if not equals or not all([*parents, last]):
        raise UsageError("config_invalid", f"--set {flag} is not field=value.", "For example --set gate.threshold=0.1.")
    place = config
    for index, name in enumerate(parents):
        place = place.setdefault(name, {})
        if not isinstance(place, dict):
            raise UsageError(
                "config_invalid", f"--set {flag}: {'.'.join(parents[: index + 1])} has no fields.", "Set all of it."
            )
    place[last] = value_from_text(text, f"--set {flag}")


def _complete_stage(config: dict[str, Any], stage: str, defaults: Mapping[str, Any], where: str) -> None:
    """Make room for a stage's input, put ``defaults`` in and repeat single values for each channel."""
    for section in (config, config.setdefault(stage, {})):
        if not isinstance(section, dict):
            raise UsageError("config_invalid", f"{where} is wrong at {stage}: it must hold fields.")
    given = config[stage].setdefault("input", {})
    if not isinstance(given, dict):
        raise UsageError("config_invalid", f"{where} is wrong at {stage}.input: it must hold fields.")
    for field, value in defaults.items():
        given.setdefault(field, copy.deepcopy(value))
    lists = {field: given[field] for field in ("windows", "mean", "std") if isinstance(given.get(field), list)}
    channels = max(map(len, lists.values()), default=0)
    given.update({field: copy.deepcopy(values * channels) for field, values in lists.items() if len(values) == 1})


def _refuse_ours(config: dict[str, Any], where: str) -> None:
    given = [field for field in _OURS if field in config]
    for stage in _STAGES:
        given += [f"{stage}.{field}" for field in (*_OURS_IN_STAGE, *_ALSO_OURS_IN_STAGE) if field in config[stage]]
    if given:
        raise UsageError("config_invalid", f"{where} holds {', '.join(given)}, which export fills in.", "Remove it.")


def _check(config: dict[str, Any], where: str) -> None:
    content = {**{section: {} for section in _sections()}, **config, **_OURS}
    for stage in _STAGES:
        fields = {field: value for field, value in config[stage].items() if field not in SOURCE_FIELDS}
        content[stage] = {**fields, **_OURS_IN_STAGE}
        arguments, output = config[stage].get("factory_arguments", {}), config[stage].get("output")
        if not isinstance(arguments, dict) or not isinstance(output, str | None):
            raise UsageError(
                "config_invalid", f"{where}: {stage}.factory_arguments must hold fields, {stage}.output a name."
            )
    try:
        Bundle.model_validate(content)
    except ValidationError as error:
        problems = error.errors()
        wrong = [_described(problem) for problem in problems if problem["type"] != "missing"]
        if wrong:
            raise UsageError(
                "config_invalid", f"{where} is wrong at {'; '.join(wrong)}.", "See onfh export --example-config."
            ) from error
        raise UsageError(
            "config_incomplete",
            f"{where} lacks {', '.join(_with_example(problem) for problem in problems)}.",
            "Add them to the file, or as --set FIELD=VALUE.",
        ) from error


def _sections() -> Iterator[str]:
    """Fields of a bundle that hold fields of their own, so that a missing one is reported field by field."""
    for name, field in Bundle.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel) and field.is_required():
            yield name


def _path(problem: ErrorDetails) -> str:
    return ".".join(str(part) for part in problem["loc"])


def _described(problem: ErrorDetails) -> str:
    where = _path(problem)
    if problem["type"] != "extra_forbidden":
        return f"{where}: {problem['msg']}"
    near = difflib.get_close_matches(where, _known_fields(Bundle), 1, 0.5)
    return f"{where}: there is no such field" + (f" (did you mean {near[0]}?)" if near else "")


def _known_fields(model: type[BaseModel], prefix: str = "") -> list[str]:
    """Every field that may be given, with dots; those of a window after ``windows.``."""
    skipped = {Bundle: {"schema_", *_OURS}, Stage: {*_OURS_IN_STAGE, *_ALSO_OURS_IN_STAGE}}.get(model, set())
    found = [f"{prefix}{name}" for name in SOURCE_FIELDS] if model is Stage else []
    for name, field in model.model_fields.items():
        if name not in skipped:
            found.append(f"{prefix}{name}")
            for inner in (field.annotation, *get_args(field.annotation)):
                if isinstance(inner, type) and issubclass(inner, BaseModel):
                    found += _known_fields(inner, f"{prefix}{name}.")
    return found


def _with_example(problem: ErrorDetails) -> str:
    where = _path(problem)
    example = _EXAMPLES.get(where) or _EXAMPLES.get(where.partition(".")[2])
    return f"{where} (such as {example})" if example else where


def _json_object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError("checkpoint_unreadable", f"{path} cannot be read: {error}.") from error
    if not isinstance(content, dict):
        raise UsageError("checkpoint_unreadable", f"{path} holds no object.")
    return content


def _pair(size: Any) -> list[int] | None:
    """(height, width) from any of the ways Transformers writes a size, None from others."""
    if isinstance(size, dict):
        size = [size.get("height"), size.get("width")]
    elif not isinstance(size, list):
        size = [size, size]
    return size if len(size) == 2 and all(isinstance(side, int) for side in size) else None
