"""Everything below some folders: find, analyse, write, and say how it went."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from onfh_runtime.analysis import Analysis, software, without_answer
from onfh_runtime.bundle import LoadedBundle, SeriesRules
from onfh_runtime.dicom import Candidate, Skipped, find_series
from onfh_runtime.dicom.choice import by_preference, eligible
from onfh_runtime.errors import OutputError
from onfh_runtime.outputs.anonymous import anonymised
from onfh_runtime.outputs.files import ensure_writable
from onfh_runtime.outputs.series_folder import (
    folder_name,
    get_ready,
    series_folder,
    write_result,
    write_series,
    write_study,
)
from onfh_runtime.pipeline import Pipeline, as_onfh_error
from onfh_runtime.private_log import traceback_without_messages
from onfh_runtime.result import Note, Result, SeriesEntry, Study

if TYPE_CHECKING:
    from onfh_runtime.engines import Progress

__all__ = ["Report", "infer", "series_entry", "skipped_entry", "warned"]

_log = logging.getLogger(__name__)


@dataclass
class Report:
    """What ``infer`` did. ``folders`` maps (series UID, part) to the folder of the series."""

    results: list[Result] = field(default_factory=list)
    studies: list[Study] = field(default_factory=list)
    folders: dict[tuple[str, int | None], Path] = field(default_factory=dict)

    @property
    def exit_code(self) -> int:
        """0 every candidate analysed, 1 some refused or failed, 3 nothing to analyse."""
        if not self.results:
            return 3
        return 0 if all(result.status == "succeeded" for result in self.results) else 1


def infer(
    inputs: Sequence[Path],
    out: Path,
    *,
    bundle: LoadedBundle,
    backend: str = "auto",
    threads: int = 0,
    gpu: int = 0,
    secondary_capture: bool = False,
    anonymous: bool = False,
    engine_progress: Progress | None = None,
    on_unreadable: Callable[[Path, str, str], None] | None = None,
    on_start: Callable[[int], None] | None = None,
    on_result: Callable[[Result, Path], None] | None = None,
) -> Report:
    """Analyse every eligible CT series below ``inputs`` and write its outputs below ``out``.

    Args:
        inputs: files and folders.
        out: output folder; made when missing.
        bundle: a bundle from :func:`load_bundle`.
        backend: a name of :data:`onfh_runtime.backends.BACKENDS`.
        threads: threads for one operator on the host, 0 for every core.
        gpu: which GPU, in the driver's order, for a backend that runs on one.
        secondary_capture: whether the outline of a mask is also written as pictures.
        anonymous: whether the outputs leave the patient out; their UIDs stay those of the source.
        engine_progress: told of the steps when an engine has to be built.
        on_unreadable: told of each file that looks like DICOM and cannot be read: path, code, sentence.
        on_start: told how many series will be analysed.
        on_result: told of each series' result and folder once they are written.

    Raises:
        OutputError: ``out`` cannot be written.
        UsageError: there is no such backend.
    """
    ensure_writable(out)
    unreadable: list[Path] = []

    def on_problem(path: Path, code: str, text: str) -> None:
        if code != "not_dicom":
            unreadable.append(path.parent)
        if on_unreadable is not None:
            on_unreadable(path, code, text)

    rules = bundle.content.series
    candidates, skipped = find_series(inputs, report=on_problem)
    candidates, left_out = eligible(candidates, rules)
    skipped += left_out
    if anonymous:  # a series description is free text
        candidates = [replace(candidate, description="") for candidate in candidates]
        skipped = [replace(other, description="") for other in skipped]
    studies = _by_study([warned(candidate, unreadable) for candidate in candidates], skipped, rules)
    if on_start is not None:
        on_start(len(candidates))
    report = Report()
    writer = _Writer(out, bundle, secondary_capture=secondary_capture, anonymous=anonymous)
    with Pipeline(bundle, backend=backend, threads=threads, gpu=gpu, progress=engine_progress) as pipeline:
        wanted = (candidate for found, _ in studies.values() for candidate in found)
        outcomes = pipeline.run(wanted, writer.write, get_ready=get_ready)
        for uid, (found, others) in studies.items():
            entries = []
            for candidate in found:
                result = next(outcomes).result
                folder = series_folder(out, result)
                report.results.append(result)
                report.folders[result.series_instance_uid, result.part] = folder
                entries.append(series_entry(result, candidate, folder.relative_to(out / folder_name(uid))))
                if on_result is not None:
                    on_result(result, folder)
            study = Study(study_instance_uid=uid, series=(*entries, *map(skipped_entry, others)), software=software())
            write_study(out, study)
            report.studies.append(study)
    return report


class _Writer:
    """The write lane. The first series of a study that is written as succeeded is the study's preferred one."""

    def __init__(self, out: Path, bundle: LoadedBundle, *, secondary_capture: bool, anonymous: bool) -> None:
        self._out, self._bundle = out, bundle
        self._secondary_capture, self._anonymous = secondary_capture, anonymous
        self._preferred: set[str] = set()

    def write(self, analysis: Analysis) -> Analysis:
        """Write a series; one that cannot be put into words is written as failed. OutputError passes."""
        if self._anonymous:
            analysis = anonymised(analysis)
        result = analysis.result
        preferred = result.status == "succeeded" and result.study_instance_uid not in self._preferred
        try:
            written = write_series(
                self._out,
                analysis.replace(preferred=preferred),
                self._bundle,
                secondary_capture=self._secondary_capture,
            )
        except OutputError:
            raise
        except Exception as error:
            failure = as_onfh_error(error)
            failed = without_answer(
                analysis.candidate, failure, bundle=self._bundle, engine=result.engine, clock=analysis.clock
            )
            try:
                return write_series(self._out, failed, self._bundle)
            except OutputError:
                raise
            except Exception as again:  # not even the failure can be put into DICOM
                _log.error("no report of a failed series: %s", traceback_without_messages(again))
                return write_result(self._out, failed)
        if preferred:
            self._preferred.add(result.study_instance_uid)
        return written


def warned(candidate: Candidate, unreadable: list[Path]) -> Candidate:
    """The candidate with a warning when files beside its own could not be read: they may have been part of it."""
    folders = {image.path.parent for image in candidate.images}
    count = sum(folder in folders for folder in unreadable)
    if not count:
        return candidate
    text = f"{count} file(s) beside those of this series could not be read; if they belong to it, it is incomplete."
    return replace(candidate, warnings=(*candidate.warnings, ("unreadable_files", text)))


def _by_study(
    candidates: list[Candidate], skipped: list[Skipped], rules: SeriesRules
) -> dict[str, tuple[list[Candidate], list[Skipped]]]:
    uids = sorted({c.study_instance_uid for c in candidates} | {s.study_instance_uid for s in skipped})
    return {
        uid: (
            by_preference([c for c in candidates if c.study_instance_uid == uid], rules),
            [s for s in skipped if s.study_instance_uid == uid],
        )
        for uid in uids
    }


def series_entry(result: Result, candidate: Candidate, folder: Path) -> SeriesEntry:
    """The line of ``study.json`` for a result; ``folder`` is relative to the study's."""
    return SeriesEntry(
        series_instance_uid=result.series_instance_uid,
        part=result.part,
        description=candidate.description,
        outcome=result.status,
        reason=result.reason,
        preferred=result.preferred,
        folder=folder.as_posix(),
        images=len(candidate.images),
    )


def skipped_entry(skipped: Skipped) -> SeriesEntry:
    """The line of ``study.json`` for what is not analysed."""
    return SeriesEntry(
        series_instance_uid=skipped.series_instance_uid,
        part=skipped.part,
        description=skipped.description,
        outcome="skipped",
        reason=Note(code=skipped.code, text=skipped.text),
        images=skipped.images,
    )
