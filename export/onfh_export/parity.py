"""The parity gate: every way of computing the two stages against the first, on the reference studies.

A column is a pair of stages. Each study goes through :func:`onfh_runtime.answer.answer` once per column, the runtime's
own code, so what is compared is what a user would be told.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from onfh_export.parity_compare import Pooled, Said, StudyDifference, pooled, study_difference
from onfh_export.reference import ReferenceStudy
from onfh_runtime.answer import Prepared, answer
from onfh_runtime.bundle import Bundle
from onfh_runtime.errors import BackendError, OnfhError
from onfh_runtime.findings import gated_slices
from onfh_runtime.stages import StageRunner, precision_of
from onfh_runtime.timing import Stopwatch

__all__ = ["NOT_A_PROBABILITY", "Column", "Comparison", "Kind", "Near", "Parity", "Ran", "compare"]

Kind = Literal["reference", "computed", "emulated", "engine"]
NOT_A_PROBABILITY = "not_a_probability"
"""The code of a stage that answers NaN or infinity."""
NEAREST = 10
"""Cases listed for each threshold."""

_Answers = dict[str, dict[str, tuple[NDArray[np.float32], float]]]
"""By column, then study: the slices' probabilities and the patient's."""


@dataclass(frozen=True)
class Column:
    """One way of computing both stages.

    Attributes:
        name: such as "torch fp32", "onnx fp16" or "engine tensorrt-rtx".
        kind: "reference" for what the others are judged by; "computed" in the precision it names; "emulated" when FP32
            kernels stand in for half ones and every half tensor is rounded; "engine" on an accelerator.
        classifier: stage 1.
        segmenter: stage 2.
    """

    name: str
    kind: Kind
    classifier: StageRunner
    segmenter: StageRunner


@dataclass(frozen=True)
class Ran:
    """What computed a column: its name and kind, and what its stages ran on."""

    name: str
    kind: Kind
    backend: str
    precision: str
    device: str


@dataclass(frozen=True)
class Comparison:
    """One column against the reference.

    Attributes:
        column: what computed it.
        studies: the studies it answered.
        failed: label and sentence for each study it gave no probability for (NaN or infinity).
    """

    column: Ran
    studies: tuple[StudyDifference, ...]
    failed: tuple[tuple[str, str], ...]

    @property
    def pooled(self) -> Pooled:
        """The answered studies together."""
        return pooled(self.studies)


@dataclass(frozen=True)
class Near:
    """A case near its threshold.

    ``index`` is the slice, from 0, or None for a patient; ``probabilities`` holds None for a column that gave none;
    ``distance`` is that of the reference's probability.
    """

    study: str
    index: int | None
    probabilities: dict[str, float | None]
    distance: float


@dataclass(frozen=True)
class Parity:
    """Every column against the first.

    Attributes:
        reference: the first column.
        comparisons: one for each further column.
        slices: the ten slices nearest the slice threshold.
        patients: the ten studies nearest the patient threshold.
    """

    reference: Ran
    comparisons: tuple[Comparison, ...]
    slices: tuple[Near, ...]
    patients: tuple[Near, ...]


def compare(
    studies: Sequence[ReferenceStudy],
    rules: Bundle,
    columns: Sequence[Column],
    *,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Parity:
    """Take every study through every column and compare with the first.

    The masks of one study are in memory at a time. A column that answers NaN or infinity for a study fails that study,
    not the run.

    Args:
        studies: the reference.
        rules: thresholds and rules; the models it names are not looked at.
        columns: the reference column, then the others; names are unique.
        progress: takes (answers done, answers in all).

    Raises:
        OnfhError: ``reference_not_finite`` when the first column itself gives no probability.
        BackendError: a stage could not be run.
    """
    first, *others = columns
    answers: _Answers = {column.name: {} for column in columns}
    found: dict[str, list[StudyDifference]] = {column.name: [] for column in others}
    failed: dict[str, list[tuple[str, str]]] = {column.name: [] for column in others}
    steps = len(studies) * len(columns)
    for number, study in enumerate(studies):
        expected = _trusted(study, rules, first)
        answers[first.name][study.label] = expected.probabilities, expected.patient
        progress(number * len(columns) + 1, steps)
        for place, column in enumerate(others, 2):
            given = _said(study.prepared, rules, column)
            if isinstance(given, BackendError):
                failed[column.name].append((study.label, given.text))
            else:
                answers[column.name][study.label] = given.probabilities, given.patient
                spacing = study.prepared.stack.spacing_mm
                difference = study_difference(study.label, expected, given, spacing, study.truth)
                found[column.name].append(difference)
            progress(number * len(columns) + place, steps)
    return Parity(
        _ran(first),
        tuple(Comparison(_ran(c), tuple(found[c.name]), tuple(failed[c.name])) for c in others),
        _nearest_slices(answers, first.name, rules.slice_threshold),
        _nearest_patients(answers, first.name, rules.patient_rule.threshold),
    )


def _ran(column: Column) -> Ran:
    backend = column.classifier.backend
    precision = precision_of(backend, column.segmenter.backend)
    return Ran(column.name, column.kind, backend.name, precision, backend.device)


def _trusted(study: ReferenceStudy, rules: Bundle, column: Column) -> Said:
    said = _said(study.prepared, rules, column)
    if isinstance(said, BackendError):
        raise OnfhError(
            "reference_not_finite",
            f"{column.name}, by which the others are judged, gives no probability for {study.label}: {said.text}",
            "Check the weights and the preprocessing: something is wrong before any precision is reduced.",
        ) from said
    return said


def _said(prepared: Prepared, rules: Bundle, column: Column) -> Said | BackendError:
    """The answer of one column, or the error of a stage that gives no probabilities; other errors pass."""
    try:
        given = answer(prepared, rules, classifier=column.classifier, segmenter=column.segmenter, clock=Stopwatch())
    except BackendError as error:
        if error.code != NOT_A_PROBABILITY:
            raise
        return error
    gated = np.zeros(len(given.probabilities), np.bool_)
    gated[gated_slices(given.probabilities, rules.gate)] = True
    found = given.found
    return Said(
        probabilities=given.probabilities,
        called=given.probabilities >= rules.slice_threshold,
        patient=found.patient.probability,
        state=found.patient.state,
        sides=(found.sides.right.state, found.sides.left.state),
        reported=found.mask > 0,
        gated=gated,
        outlined=given.mask,
    )


def _nearest_slices(answers: _Answers, reference: str, threshold: float) -> tuple[Near, ...]:
    cases = [
        (abs(float(value) - threshold), study, index)
        for study, (slices, _) in answers[reference].items()
        for index, value in enumerate(slices)
    ]
    return tuple(
        Near(study, index, {name: _of(by_study, study, index) for name, by_study in answers.items()}, distance)
        for distance, study, index in sorted(cases)[:NEAREST]
    )


def _nearest_patients(answers: _Answers, reference: str, threshold: float) -> tuple[Near, ...]:
    cases = [(abs(patient - threshold), study) for study, (_, patient) in answers[reference].items()]
    return tuple(
        Near(study, None, {name: _of(by_study, study, None) for name, by_study in answers.items()}, distance)
        for distance, study in sorted(cases)[:NEAREST]
    )


def _of(by_study: dict[str, tuple[NDArray[np.float32], float]], study: str, index: int | None) -> float | None:
    if study not in by_study:
        return None
    slices, patient = by_study[study]
    return patient if index is None else float(slices[index])
