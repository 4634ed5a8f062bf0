"""What came of one series, with everything the outputs need of it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from datetime import datetime, timezone

import numpy as np
from numpy.typing import NDArray

from onfh_runtime import __version__
from onfh_runtime.answer import Prepared, Said, conclude
from onfh_runtime.bundle import LoadedBundle
from onfh_runtime.dicom import Candidate, SourceImage
from onfh_runtime.errors import OnfhError, SeriesError
from onfh_runtime.preprocess import CoronalPlan, mask_to_volume
from onfh_runtime.result import BundleId, Engine, Geometry, Note, Report, Result, SliceResult, Software
from onfh_runtime.timing import Stopwatch
from onfh_runtime.volume import CoronalStack, Volume

__all__ = ["Analysis", "Images", "analysed", "bundle_id", "software", "without_answer"]

Warnings = tuple[tuple[str, str], ...]
"""(code, text) pairs."""


@dataclass(frozen=True)
class Images:
    """The pixels behind an answer.

    Attributes:
        volume: the stored voxels; ``sources`` are its images in slice order.
        stack: the coronal slices that were analysed, each of them whole.
        mask: (slices, rows, columns) uint8 on the stack: 0, RIGHT, LEFT or UNSIDED.
        volume_mask: the same on the volume's voxels.
    """

    volume: Volume
    sources: tuple[SourceImage, ...]
    stack: CoronalStack
    mask: NDArray[np.uint8]
    volume_mask: NDArray[np.uint8]


@dataclass(frozen=True)
class Analysis:
    """What came of one candidate.

    ``images`` is None when there is no answer, ``replaces`` when the series had none before.
    """

    candidate: Candidate
    result: Result
    images: Images | None
    clock: Stopwatch
    replaces: Report | None = None

    def replace(self, **changes: object) -> Analysis:
        """A copy whose result has these fields changed."""
        return dataclasses.replace(self, result=self.result.model_copy(update=changes))

    def replacing(self, report: Report | None) -> Analysis:
        """A copy that takes the place of an earlier report."""
        supersedes = None if report is None else report.sop_instance_uid
        return dataclasses.replace(self.replace(supersedes=supersedes), replaces=report)


def software() -> Software:
    """This package, as outputs name it."""
    return Software(name="onfh-edge", version=__version__)


def bundle_id(bundle: LoadedBundle) -> BundleId:
    """The bundle, as outputs name it."""
    return BundleId(name=bundle.content.name, version=bundle.content.version, sha256=bundle.sha256)


def analysed(
    candidate: Candidate,
    volume: Volume,
    sources: tuple[SourceImage, ...],
    prepared: Prepared,
    said: Said,
    *,
    bundle: LoadedBundle,
    engine: Engine,
    warnings: Warnings = (),
    clock: Stopwatch,
) -> Analysis:
    """What both stages said of a series, as findings and on its own voxels."""
    rules = bundle.content
    with clock.step("postprocess"):
        answered = conclude(said, prepared, rules)
        found, stack, plan, chosen = answered.found, prepared.stack, prepared.plan, prepared.box[0]
        on_stack = np.zeros(plan.shape, np.uint8)
        on_stack[chosen] = found.mask
        volume_mask = mask_to_volume(on_stack, plan, volume)
    result = _result(candidate, bundle, engine).model_copy(
        update={
            "status": "succeeded",
            "patient": found.patient,
            "sides": found.sides,
            "slices": _slices(answered.probabilities, found.mask, stack, plan, chosen, sources, rules.slice_threshold),
            "geometry": Geometry(
                acquired=volume.acquired, spacing_mm=volume.spacing_mm, coronal_slices=len(answered.probabilities)
            ),
            "warnings": _notes(candidate.warnings + volume.warnings + warnings) + found.warnings,
        }
    )
    return Analysis(candidate, result, Images(volume, sources, stack, found.mask, volume_mask), clock)


def without_answer(
    candidate: Candidate,
    error: OnfhError,
    *,
    bundle: LoadedBundle,
    engine: Engine,
    warnings: Warnings = (),
    clock: Stopwatch,
) -> Analysis:
    """The result of a series that was refused (SeriesError) or failed (anything else)."""
    result = _result(candidate, bundle, engine).model_copy(
        update={
            "status": "not_analysed" if isinstance(error, SeriesError) else "failed",
            "reason": Note(code=error.code, text=f"{error.text} {error.fix}".strip()),
            "warnings": _notes(candidate.warnings + warnings),
        }
    )
    return Analysis(candidate, result, None, clock)


def _slices(
    probabilities: NDArray[np.float32],
    mask: NDArray[np.uint8],
    stack: CoronalStack,
    plan: CoronalPlan,
    chosen: slice,
    sources: tuple[SourceImage, ...],
    threshold: float,
) -> tuple[SliceResult, ...]:
    _, row_mm, column_mm = stack.spacing_mm
    positions = stack.positions_mm
    rows = []
    for index, probability in enumerate(probabilities):
        source = sources[plan.source_slice(chosen.start + index)] if plan.native else None
        rows.append(
            SliceResult(
                index=index,
                position_mm=round(float(positions[index]), 4),
                sop_instance_uid=source.sop_instance_uid if source else None,
                probability=float(probability),
                positive=bool(probability >= threshold),
                area_mm2=float(np.count_nonzero(mask[index])) * row_mm * column_mm,
            )
        )
    return tuple(rows)


def _notes(pairs: tuple[tuple[str, str], ...]) -> tuple[Note, ...]:
    return tuple(Note(code=code, text=text) for code, text in pairs)


def _result(candidate: Candidate, bundle: LoadedBundle, engine: Engine) -> Result:
    return Result(
        created=datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        status="failed",
        study_instance_uid=candidate.study_instance_uid,
        series_instance_uid=candidate.series_instance_uid,
        part=candidate.part,
        bundle=bundle_id(bundle),
        engine=engine,
        software=software(),
    )
