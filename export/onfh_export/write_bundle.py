"""Writing a bundle: whole, or not at all."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from onfh_export.networks import checkpoint_from_folder
from onfh_export.onnx_export import INPUT_NAME, OUTPUT_NAME, onnx_from_network
from onfh_runtime.bundle import SCHEMA, Bundle, LoadedBundle, StageInput, load_bundle, sha256_of
from onfh_runtime.errors import OutputError, UsageError

__all__ = ["bundle_from_checkpoints", "read_config"]

_STAGES = ("classifier", "segmenter")
_OURS = ("schema", "files")
_OURS_IN_STAGE = ("architecture", "models", "input_name", "output_name")


def read_config(path: Path) -> dict[str, Any]:
    """Read a bundle's configuration: ``bundle.json`` without what export itself knows.

    That is everything but ``schema`` and ``files``, and in each stage everything but ``architecture``, ``models``,
    ``input_name`` and ``output_name``.

    Raises:
        UsageError: ``config_invalid``.
    """
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError("config_invalid", f"{path} is no readable JSON file: {error}.") from error
    if not isinstance(config, dict) or not all(isinstance(config.get(stage), dict) for stage in _STAGES):
        raise UsageError("config_invalid", f"{path} must be an object with a classifier and a segmenter.")
    given = [key for key in _OURS if key in config]
    given += [f"{stage}.{key}" for stage in _STAGES for key in _OURS_IN_STAGE if key in config[stage]]
    if given:
        raise UsageError("config_invalid", f"{path} holds {', '.join(given)}, which export fills in.", "Remove it.")
    return config


def bundle_from_checkpoints(
    classifier: Path,
    segmenter: Path,
    config: dict[str, Any],
    out: Path,
    *,
    extra: dict[str, str] | None = None,
    force: bool = False,
) -> LoadedBundle:
    """Export both stages to FP32 ONNX and write the bundle to ``out``.

    Everything is made in a temporary folder beside ``out`` and renamed when it is whole; on any failure, what was at
    ``out`` is left as it was.

    Args:
        classifier: Transformers folder of stage 1.
        segmenter: Transformers folder of stage 2.
        config: see :func:`read_config`.
        out: the bundle's folder.
        extra: further text files of the bundle, name to content (the model card).
        force: replace a bundle that is already there.

    Raises:
        UsageError: ``config_invalid``, ``checkpoint_*`` or ``stage_mismatch``.
        OutputError: ``bundle_exists`` or ``output_unwritable``.
        OnfhError: ``onnx_mismatch``.
    """
    if out.exists() and not force:
        raise OutputError("bundle_exists", f"{out} is already there.", "Choose another folder, or add --force.")
    if out.exists() and not (out / "bundle.json").is_file() and (not out.is_dir() or any(out.iterdir())):
        raise OutputError("bundle_exists", f"{out} is there and is no bundle.", "Choose another folder.")
    sources = {"classifier": classifier, "segmenter": segmenter}
    content = {**config, "schema": SCHEMA, "files": {}}
    for stage in _STAGES:
        content[stage] = {
            **config[stage],
            "architecture": "",
            "models": {"fp32": f"{stage}/model.onnx"},
            "input_name": INPUT_NAME,
            "output_name": OUTPUT_NAME,
        }
    _validated(content)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise OutputError("output_unwritable", f"{out.parent} cannot be written ({error.strerror}).") from error
    try:
        temporary.chmod(0o755)
        for stage in _STAGES:
            content[stage]["architecture"] = _export_stage(
                stage, sources[stage], StageInput.model_validate(config[stage]["input"]), temporary
            )
        for name, text in (extra or {}).items():
            (temporary / name).write_text(text, encoding="utf-8")
        content["files"] = {
            str(file.relative_to(temporary).as_posix()): sha256_of(file)
            for file in sorted(temporary.rglob("*"))
            if file.is_file()
        }
        text = _validated(content).model_dump_json(by_alias=True, indent=1)
        (temporary / "bundle.json").write_text(text + "\n", encoding="utf-8")
        load_bundle(temporary)
        _move_into_place(temporary, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return load_bundle(out)


def _export_stage(stage: str, source: Path, spec: StageInput, root: Path) -> str:
    network = checkpoint_from_folder(source)
    expected = "ViTForImageClassification" if stage == "classifier" else "UperNetForSemanticSegmentation"
    name = type(network).__name__
    if name != expected:
        raise UsageError("stage_mismatch", f"{source} holds a {name}; the {stage} must be a {expected}.")
    config: Any = network.config
    vision = config if stage == "classifier" else config.backbone_config
    given = vision.image_size
    size = (given, given) if isinstance(given, int) else tuple(given)
    # A ViT has one position per patch; a Swin runs at other sizes than the one it was configured with.
    if vision.num_channels != len(spec.windows) or (stage == "classifier" and size != tuple(spec.size)):
        raise UsageError(
            "stage_mismatch",
            f"{source} takes {vision.num_channels} channel(s) of {size}, the configuration says "
            f"{len(spec.windows)} of {spec.size}.",
        )
    (root / stage).mkdir()
    onnx_from_network(network, (len(spec.windows), *spec.size), root / stage / "model.onnx")
    return name


def _validated(content: dict[str, Any]) -> Bundle:
    try:
        return Bundle.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "top level"
        raise UsageError(
            "config_invalid", f"The bundle's configuration is wrong at {where}: {first['msg']}."
        ) from error


def _move_into_place(temporary: Path, out: Path) -> None:
    """Rename ``temporary`` to ``out``; what was there is put back when that fails."""
    old = None
    if out.exists():
        old = out.with_name(f".{out.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        out.rename(old)
    try:
        temporary.rename(out)
    except OSError as error:
        if old is not None:
            old.rename(out)
        raise OutputError("output_unwritable", f"{out} cannot be written ({error.strerror}).") from error
    if old is not None:
        shutil.rmtree(old, ignore_errors=True)
