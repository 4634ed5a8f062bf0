"""The studies on which export proves that no answer changed: a folder of one's own, or phantoms.

Parity is a question about arithmetic, so a study needs no truth to be of use; where there is truth, the change of AUC,
Dice and HD95 is known as well.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from onfh_export.dataset import SliceLabels, TruthMask, read_cases, read_truth
from onfh_export.parity_compare import Truth
from onfh_export.prepare import _labels_on, mask_on_stack
from onfh_export.reference_phantoms import phantom_studies
from onfh_runtime.answer import Prepared, prepare
from onfh_runtime.bundle import Bundle, SeriesRules, StageInput
from onfh_runtime.dicom import Candidate, find_series, read_volume
from onfh_runtime.dicom.choice import by_preference, eligible
from onfh_runtime.errors import OutputError, SeriesError, UsageError
from onfh_runtime.phantom import LABEL_MIN_AREA_MM2
from onfh_runtime.preprocess import stage_input
from onfh_runtime.timing import Stopwatch
from onfh_runtime.volume import CoronalStack

__all__ = ["Reference", "ReferenceStudy", "reference_studies", "sample_rows"]

SEED = 31
"""Of the phantoms; no cohort of the training recipe has it, so the demo stages were not trained on them."""
REASONS = 5
"""How many reasons a message spells out."""

_Source = tuple[str | None, list[Candidate], Path | TruthMask | None]
"""Label (None for the StudyInstanceUID), the series of one study, best first, and its truth."""


@dataclass(frozen=True)
class ReferenceStudy:
    """One study, ready for both stages.

    Attributes:
        label: its StudyInstanceUID, or a phantom's number; never a patient's name.
        prepared: what the stages see. Its voxels are mapped from a temporary file, so that many studies fit in memory.
        truth: what is true of the slices of ``prepared.stack``, if that is known.
    """

    label: str
    prepared: Prepared
    truth: Truth | None


@dataclass(frozen=True)
class Reference:
    """The studies and where they come from.

    Attributes:
        kind: "phantoms", or the "studies" of a folder.
        seed: of the phantoms.
        studies: in a fixed order.
        refused: how many series the runtime refused, by the code of the reason.
    """

    kind: Literal["phantoms", "studies"]
    seed: int | None
    studies: tuple[ReferenceStudy, ...]
    refused: dict[str, int]


def reference_studies(
    folder: Path | None,
    rules: Bundle,
    *,
    count: int = 12,
    seed: int = SEED,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Reference:
    """Read and prepare the reference with the runtime's own code.

    Of a study with several series, the first is taken that can be analysed, in the runtime's order of preference. Where
    ``folder`` holds a ``cases.csv`` (:mod:`onfh_export.dataset`), the series it lists and their truth are taken,
    whatever their split, and nothing else.

    Args:
        folder: searched for CT series; None makes phantoms.
        rules: slice spacing and coverage.
        count: phantoms; every second one has a lesion.
        seed: of the phantoms.
        progress: takes (done, total).

    Raises:
        UsageError: ``reference_unusable`` when nothing can be analysed, ``input_not_found``, or what ``cases.csv`` and
            its truth files raise.
        OutputError: ``output_unwritable`` when the temporary folder is full.
    """
    refusals: list[tuple[str, str]] = []
    studies: list[ReferenceStudy] = []
    with tempfile.TemporaryDirectory(prefix="onfh-reference-") as work:
        if folder is None:
            total, sources = count, _of_phantoms(Path(work), rules, count, seed)
        elif (folder / "cases.csv").is_file():
            total, sources = _of_cases(folder)
        else:
            total, sources = _of_folder(folder, rules.series, refusals)
        for done, source in enumerate(sources, 1):
            study = _first_usable(source, rules, refusals)
            if study is not None:
                studies.append(study)
            progress(done, total)
    if not studies:
        raise UsageError(
            "reference_unusable",
            f"{folder or 'The set of phantoms'} holds no study that can be analysed: {_reasons(refusals)}",
            "Name a folder of hip CT studies, or leave --reference away to use phantoms.",
        )
    return Reference(
        "phantoms" if folder is None else "studies",
        seed if folder is None else None,
        _told_apart(studies),
        dict(sorted(Counter(code for code, _ in refusals).items())),
    )


def sample_rows(
    studies: Sequence[ReferenceStudy],
    spec: StageInput,
    n: int,
    seed: int,
    *,
    scores: Sequence[NDArray[np.floating]] | None = None,
) -> NDArray[np.float32]:
    """Rows of a stage's input that are worth recording: half of them the most positive, the rest spread evenly.

    The most positive are taken from each study in turn, so that one large lesion does not fill the sample.

    Args:
        studies: the reference.
        spec: the stage's input.
        n: rows wanted; there are fewer when the reference has fewer slices.
        seed: shifts the evenly spread rows.
        scores: (slices,) for each study, how positive each slice is; by default the area of its true mask, or its
            label. Slices at 0 or below count as not positive.

    Returns:
        (n, channels, height, width) float32, in the order of studies and slices.
    """
    each = [_areas(study) for study in studies] if scores is None else [np.asarray(values) for values in scores]
    places = [(study, index) for study, values in enumerate(each) for index in range(len(values))]
    score = np.concatenate(each)
    turn = np.concatenate([np.argsort(np.argsort(-values, kind="stable"), kind="stable") for values in each])
    positive = np.flatnonzero(score > 0)
    best = positive[np.lexsort((-score[positive], turn[positive]))][: n // 2]
    rest = np.setdiff1d(np.arange(len(places)), best)
    wanted = min(n, len(places)) - len(best)
    phase = np.random.default_rng(seed).random()
    spread = rest[((np.arange(wanted) + phase) * len(rest) / max(1, wanted)).astype(int)]
    rows = []
    for place in np.sort(np.concatenate([best, spread])):
        study, index = places[int(place)]
        seen = studies[study].prepared.seen
        rows.append(stage_input(CoronalStack(seen.hu[index : index + 1], seen.affine), spec))
    return np.concatenate(rows)


def _of_phantoms(work: Path, rules: Bundle, count: int, seed: int) -> Iterator[_Source]:
    for study in phantom_studies(work, rules.slice_spacing_mm, count, seed):
        yield study.label, study.candidates, study.truth


def _of_cases(folder: Path) -> tuple[int, Iterator[_Source]]:
    cases = read_cases(folder, seed=0)
    return len(cases), ((None, find_series([case.series])[0], case.truth) for case in cases)


def _of_folder(folder: Path, rules: SeriesRules, refusals: list[tuple[str, str]]) -> tuple[int, Iterator[_Source]]:
    def unreadable(_path: Path, code: str, text: str) -> None:
        refusals.append((code, text))

    candidates, skipped = find_series([folder], report=unreadable)
    candidates, left_out = eligible(candidates, rules)
    refusals += [(other.code, other.text) for other in skipped + left_out]
    ordered = sorted(candidates, key=_study)
    studies = [by_preference(list(group), rules) for _, group in groupby(ordered, _study)]
    return len(studies), ((None, series, None) for series in studies)


def _study(candidate: Candidate) -> str:
    return candidate.study_instance_uid


def _first_usable(source: _Source, rules: Bundle, refusals: list[tuple[str, str]]) -> ReferenceStudy | None:
    """The first series that the runtime does not refuse; every refusal before it is noted."""
    label, candidates, truth = source
    if truth is not None and len(candidates) != 1:  # a truth is that of one series
        refusals.append(("not_one_series", f"A case's folder holds {len(candidates)} CT series, not 1."))
        return None
    for candidate in candidates:
        try:
            volume, _ = read_volume(candidate)
            prepared = prepare(volume, rules, Stopwatch())
        except SeriesError as error:
            refusals.append((error.code, error.text))
            continue
        known = None if truth is None else _truth_on(prepared.stack, truth)
        return ReferenceStudy(label or candidate.study_instance_uid, _mapped(prepared), known)
    return None


def _truth_on(stack: CoronalStack, truth: Path | TruthMask) -> Truth:
    """Truth on the analysed slices, the labels by the area that training uses too."""
    given: TruthMask | SliceLabels = truth if isinstance(truth, TruthMask) else read_truth(truth)
    if isinstance(given, SliceLabels):
        positive, known = _labels_on(given, stack)
        return Truth(positive, known)
    share = mask_on_stack(given, stack)
    area = share.sum(axis=(1, 2)) * np.prod(stack.spacing_mm[1:])
    return Truth(area >= LABEL_MIN_AREA_MM2, np.ones(len(area), np.bool_), _on_disk(share >= 0.5))


def _mapped(prepared: Prepared) -> Prepared:
    """The same with its voxels in a file, and without the rest of the coronal stack."""
    hu = _on_disk(prepared.stack.hu)
    _, rows, columns = prepared.box
    stack = CoronalStack(hu, prepared.stack.affine)
    seen = CoronalStack(hu[:, rows, columns], prepared.seen.affine)
    return replace(prepared, stack=stack, seen=seen)


def _on_disk(array: NDArray[Any]) -> NDArray[Any]:
    """A read-only copy of an array in a temporary file without a name, which goes when the array does."""
    try:
        with tempfile.TemporaryFile(prefix="onfh-reference-") as file:
            file.write(np.ascontiguousarray(array).data)
            file.flush()
            return np.asarray(np.memmap(file, array.dtype, "r", shape=array.shape))
    except OSError as error:
        raise OutputError(
            "output_unwritable",
            f"The reference studies cannot be kept in {tempfile.gettempdir()} ({error.strerror}).",
            "Make room there, or set TMPDIR to another folder.",
        ) from error


def _areas(study: ReferenceStudy) -> NDArray[np.float64]:
    if study.truth is None:
        return np.zeros(len(study.prepared.seen.hu))
    if study.truth.mask is None:
        return study.truth.positive.astype(np.float64)
    return np.asarray(study.truth.mask.sum(axis=(1, 2)), np.float64)


def _told_apart(studies: Sequence[ReferenceStudy]) -> tuple[ReferenceStudy, ...]:
    """The studies with a number behind each label that was there before: two cases may be of one study."""
    seen: Counter[str] = Counter()
    result = []
    for study in studies:
        seen[study.label] += 1
        again = seen[study.label]
        result.append(replace(study, label=f"{study.label} ({again})") if again > 1 else study)
    return tuple(result)


def _reasons(refusals: Sequence[tuple[str, str]]) -> str:
    """The most frequent reasons with an example of each."""
    if not refusals:
        return "there is no CT series in it."
    texts = dict(reversed(refusals))
    counts = Counter(code for code, _ in refusals).most_common()
    parts = [f"{count} x {code}: {texts[code]}" for code, count in counts[:REASONS]]
    return " ".join(parts) + (f" And {len(counts) - REASONS} other reason(s)." if len(counts) > REASONS else "")
