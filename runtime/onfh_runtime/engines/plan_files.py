"""Plans on disk: ``engines/<flavour>-<version>-sm<cc>/<stage>.plan`` in a bundle, with what they are beside them.

A plan for several GPUs is several plans: the folder names one, and that one alone is promised to run it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import BinaryIO, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from onfh_runtime.bundle import sha256_of
from onfh_runtime.engines.build import BuiltPlan
from onfh_runtime.engines.flavours import TENSORRT
from onfh_runtime.engines.machine import Machine
from onfh_runtime.errors import OutputError
from onfh_runtime.outputs.files import write_atomically

__all__ = ["PlanFacts", "PlanFile", "Unfit", "engine_folder", "plan_facts", "read_plans", "unfit", "write_plan"]


class PlanFacts(BaseModel):
    """What stands in ``<stage>.json`` beside ``<stage>.plan``.

    ``onnx`` names the bundle's file it was built from. ``profiles`` are (least, usual, most) rows. ``stripped`` plans
    must be refitted from that file when they are loaded. ``half_share`` and ``half_products`` are shares of the
    strongly typed network's tensors and of its products; ``engine_half_share`` that of the finished engine's tensors,
    null where no GPU could open it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    schema_: Literal["onfh-plan/1"] = Field("onfh-plan/1", alias="schema")
    stage: str
    flavour: str
    version: str
    target: str = Field(pattern=r"^sm\d+$")
    precision: Literal["fp32", "fp16", "bf16"]
    onnx: str
    onnx_sha256: str
    plan_sha256: str
    profiles: tuple[tuple[int, int, int], ...] = Field(min_length=1)
    stripped: bool
    version_compatible: bool
    workspace_bytes: int | None
    optimization_level: int | None
    layers: int
    half_share: float
    half_products: float
    engine_half_share: float | None
    warnings: tuple[str, ...]
    built: str
    seconds: float


@dataclass(frozen=True)
class PlanFile:
    """A plan found in a bundle; ``facts`` is None, and ``problem`` says why, when nothing vouches for it."""

    path: Path
    facts: PlanFacts | None
    problem: str = ""


@dataclass(frozen=True)
class Unfit:
    """Why a plan does not run here: a stable code and a sentence."""

    code: str
    text: str


def engine_folder(flavour: str, version: str, target: str) -> str:
    """Name of the folder of a flavour's plans for one compute capability, such as ``tensorrt-rtx-1.7.1-sm89``."""
    return f"{flavour}-{version}-{target}"


def plan_facts(
    stage: str, built: BuiltPlan, *, onnx: str, onnx_sha256: str, precision: Literal["fp32", "fp16", "bf16"]
) -> PlanFacts:
    """What stands beside a plan built from the file ``onnx`` of a bundle."""
    return PlanFacts(
        stage=stage,
        flavour=built.flavour,
        version=built.version,
        target=built.target,
        precision=precision,
        onnx=onnx,
        onnx_sha256=onnx_sha256,
        plan_sha256=hashlib.sha256(built.data).hexdigest(),
        profiles=tuple((profile.min, profile.opt, profile.max) for profile in built.options.profiles),
        stripped=built.options.strip_weights,
        version_compatible=built.options.version_compatible,
        workspace_bytes=built.options.workspace_bytes,
        optimization_level=built.options.optimization_level,
        layers=built.layers,
        half_share=round(built.half_share.tensors, 4),
        half_products=round(built.half_share.products, 4),
        engine_half_share=None if built.engine_half_share is None else round(built.engine_half_share, 4),
        warnings=built.warnings,
        built=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        seconds=round(built.seconds, 2),
    )


def write_plan(
    root: Path,
    stage: str,
    built: BuiltPlan,
    *,
    onnx: str,
    precision: Literal["fp32", "fp16", "bf16"],
    onnx_sha256: str = "",
) -> PlanFile:
    """Write a plan and its facts below a bundle's folder.

    The facts come last and hold the plan's hash, so that a writer killed in between leaves a plan nothing vouches for.

    Args:
        root: the bundle's folder, or one laid out like it.
        stage: ``classifier`` or ``segmenter``.
        built: from :func:`plan_from_onnx`.
        onnx: the file of the bundle the plan was built from, such as ``classifier/model.fp16.onnx``.
        precision: the precision that file holds.
        onnx_sha256: of that file; needed where ``root`` does not hold it.

    Raises:
        OutputError: ``output_unwritable``.
    """
    folder = root / "engines" / engine_folder(built.flavour, built.version, built.target)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError("output_unwritable", f"{folder} cannot be made ({error.strerror}).") from error
    path = folder / f"{stage}.plan"

    def write(file: BinaryIO) -> None:
        file.write(built.data)

    write_atomically(path, write)
    facts = plan_facts(stage, built, onnx=onnx, onnx_sha256=onnx_sha256 or sha256_of(root / onnx), precision=precision)
    write_atomically(path.with_suffix(".json"), (facts.model_dump_json(by_alias=True, indent=1) + "\n").encode())
    return PlanFile(path, facts)


def read_plans(root: Path) -> tuple[PlanFile, ...]:
    """Every plan below a bundle's folder, by folder and stage."""
    return tuple(_plan_file(path) for path in sorted((root / "engines").glob("*/*.plan")))


def unfit(plan: PlanFile, machine: Machine, files: Mapping[str, str]) -> Unfit | None:
    """Why a plan does not run on a machine, or None when it does.

    Args:
        plan: from :func:`read_plans`.
        machine: from :func:`this_machine`.
        files: SHA-256 of the bundle's files by name, as ``bundle.json`` lists them.
    """
    facts = plan.facts
    if facts is None:
        return Unfit("plan_unvouched", plan.problem)
    if facts.flavour not in machine.flavours:
        return Unfit("flavour_missing", f"it is for {facts.flavour}, which is not installed here")
    here = machine.flavours[facts.flavour]
    if facts.version != here and not (facts.version_compatible and _runs_older(facts, here)):
        return Unfit("version_differs", f"it was built by {facts.flavour} {facts.version}, here is {here}")
    if not machine.gpus:
        return Unfit("no_gpu", f"it is for {facts.target}, and no NVIDIA GPU was found here")
    if facts.target not in (gpu.target for gpu in machine.gpus):
        found = ", ".join(f"{gpu.name} ({gpu.target})" for gpu in machine.gpus)
        return Unfit("other_gpu", f"it is for {facts.target}, here is {found}")
    if files.get(facts.onnx) != facts.onnx_sha256:
        return Unfit("onnx_differs", f"it was built from another {facts.onnx} than the bundle's")
    if sha256_of(plan.path) != facts.plan_sha256:
        return Unfit("plan_damaged", "it is not the file its facts were written for (its SHA-256 differs)")
    return None


def _plan_file(path: Path) -> PlanFile:
    beside = path.with_suffix(".json")
    try:
        facts = PlanFacts.model_validate(json.loads(beside.read_bytes()))
    except OSError as error:
        return PlanFile(path, None, f"{beside.name} beside it cannot be read ({error.strerror})")
    except (ValidationError, ValueError):
        return PlanFile(path, None, f"{beside.name} beside it does not describe a plan")
    if (path.parent.name, path.stem) != (engine_folder(facts.flavour, facts.version, facts.target), facts.stage):
        return PlanFile(path, None, f"{beside.name} beside it describes the plan of another folder or stage")
    return PlanFile(path, facts)


def _runs_older(facts: PlanFacts, version: str) -> bool:
    """Whether a version runs a version-compatible plan: TensorRT runs those of earlier ones."""
    return facts.flavour == TENSORRT and _numbers(facts.version) <= _numbers(version)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())
