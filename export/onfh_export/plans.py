"""The TensorRT plans of a bundle: which are wanted, and building them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from onfh_export.engine_backend import EngineBackend
from onfh_export.phases import Phases
from onfh_runtime.backends import StageBackend
from onfh_runtime.bundle import Bundle, Precision, StageName
from onfh_runtime.engines import (
    EngineOptions,
    Flavour,
    Profile,
    check_target,
    find_gpus,
    flavour,
    known_targets,
    plan_from_onnx,
    read_plans,
    this_machine,
    unfit,
    write_plan,
)
from onfh_runtime.errors import UsageError

__all__ = ["PlanRequest", "engines_here", "requested_plans", "write_plans"]

_STAGES: tuple[StageName, ...] = ("classifier", "segmenter")


@dataclass(frozen=True)
class PlanRequest:
    """One flavour and one compute capability."""

    flavour: Flavour
    target: str


def requested_plans(flavours: Sequence[str], targets: Sequence[str]) -> tuple[PlanRequest, ...]:
    """Every flavour with every target, checked before any work is done.

    Args:
        flavours: names.
        targets: compute capabilities such as ``sm89``; empty for the GPUs of this machine, as far as a flavour builds
            for them.

    Raises:
        UsageError: ``flavour_unknown``, ``target_unknown``, or ``target_missing`` when none is given and there is no
            GPU to take it from.
        MissingExtraError: ``flavour_missing``.
    """
    opened = [flavour(name) for name in dict.fromkeys(flavours)]
    wanted = [(each, tuple(dict.fromkeys(targets)) or _targets_here(each)) for each in opened]
    for each, named in wanted:
        check_target(each, named)
    return tuple(PlanRequest(each, target) for each, named in wanted for target in named)


def _targets_here(each: Flavour) -> tuple[str, ...]:
    """The GPUs of this machine that a flavour builds for; all of them where it builds for none."""
    here = tuple(dict.fromkeys(gpu.target for gpu in find_gpus()))
    known = known_targets(each)
    if not here:
        raise UsageError(
            "target_missing",
            "This machine has no NVIDIA GPU to build plans for.",
            f"Name the GPUs they are for, such as --targets sm86,sm89; {each.name} knows "
            f"{', '.join(known) or 'none, without a GPU'}.",
        )
    return tuple(target for target in here if target in known) or here


def engines_here(folder: Path) -> dict[str, dict[StageName, StageBackend]]:
    """Both stages of every flavour whose plans in a bundle's folder run on this machine, opened, by column name.

    Raises:
        BackendError: ``engine_unloadable`` or ``model_unsupported``.
    """
    machine = this_machine()
    found: dict[str, dict[StageName, StageBackend]] = {}
    for plan in read_plans(folder):
        facts = plan.facts
        if facts is None or facts.stripped or unfit(plan, machine, {facts.onnx: facts.onnx_sha256}) is not None:
            continue
        stage: StageName = "classifier" if facts.stage == "classifier" else "segmenter"
        opened = EngineBackend(
            plan.path, flavour(facts.flavour), precision=facts.precision, batch_limit=facts.profiles[0][2]
        )
        found.setdefault(f"engine {facts.flavour} {facts.precision}", {})[stage] = opened
    return {name: stages for name, stages in found.items() if len(stages) == len(_STAGES)}


def write_plans(
    folder: Path,
    requests: Sequence[PlanRequest],
    content: Bundle,
    precision: Precision,
    options: EngineOptions | None,
    phases: Phases,
) -> None:
    """Build every plan of both stages and write it below ``folder/engines``.

    Args:
        folder: of the bundle, with its ONNX files.
        requests: from :func:`requested_plans`.
        content: the bundle's stages.
        precision: of the ONNX file to build from.
        options: None for one profile from 1 to each stage's largest batch.
        phases: told of every build.

    Raises:
        BackendError: a plan could not be built, or is not in the precision asked for.
        OutputError: ``output_unwritable``.
    """
    for request in requests:
        for stage in _STAGES:
            spec = content.classifier if stage == "classifier" else content.segmenter
            chosen = options or EngineOptions()
            if options is None or not options.profiles:
                chosen = replace(chosen, profiles=(Profile(1, spec.max_batch, spec.max_batch),))
            name = f"{stage}: {request.flavour.name} plan for {request.target}"
            with phases.phase(name):
                built = plan_from_onnx(
                    folder / spec.models[precision],
                    request.flavour,
                    request.target,
                    chosen,
                    expect_half=precision != "fp32",
                    progress=lambda _phase, done, total: phases.step(done, total),
                )
                write_plan(folder, stage, built, onnx=spec.models[precision], precision=precision)
            phases.say(
                f"  {len(built.data) / 1e6:.1f} MB, {built.half_share.tensors:.0%} of its network's tensors are half"
                + ("" if built.engine_half_share is None else f", {built.engine_half_share:.0%} of the engine's")
            )
