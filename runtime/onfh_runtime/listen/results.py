"""The results of one series on disk: written as ``onfh infer`` writes them, and true for the study as it grows.

A late image makes a series' next generation. Its result takes the place of the earlier one and names it: ``supersedes``
is the SOP Instance UID of the earlier report (``sr.dcm``), which the new report refers to as well. A result that says
the same of the same images keeps its UIDs, so one that is written again after a crash supersedes nothing. For that,
what came before is noted in ``.listen.json`` of the series' folder before anything of it is replaced.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pydantic import BaseModel, ValidationError
from pydicom.dataset import Dataset

from onfh_runtime.analysis import Analysis, software
from onfh_runtime.bundle import LoadedBundle
from onfh_runtime.dicom import Candidate, Skipped
from onfh_runtime.dicom.choice import preference
from onfh_runtime.dicom.header import codes, read_header
from onfh_runtime.errors import OutputError, SeriesError
from onfh_runtime.infer import series_entry, skipped_entry
from onfh_runtime.listen.config import Destination, Route
from onfh_runtime.listen.records import NewDelivery, SeriesRow
from onfh_runtime.outputs.anonymous import anonymised
from onfh_runtime.outputs.files import ensure_writable, write_atomically
from onfh_runtime.outputs.series_folder import folder_name, get_ready, series_folder, to_json, write_series, write_study
from onfh_runtime.result import Report, Result, SeriesEntry, Study

__all__ = ["Results", "SeriesResults", "deliveries_of"]

MEMORY = ".listen.json"

_SOP_CLASS, _SOP_INSTANCE = 0x00080016, 0x00080018
_KINDS = {"sr": "sr.dcm", "seg": "seg.dcm", "sc": "secondary-capture/*.dcm"}
"""What a destination may take -> the files of a result's folder."""


class _Answer(BaseModel):
    report: Report
    replaces: Report | None


class _Memory(BaseModel):
    """``.listen.json``. Keys are parts, "" for a series that was not split.

    ``earlier`` holds, of the last answer, its report and the one whose place that took, and ``answered_s`` when the
    journal noted that answer; ``preference`` what the series is sorted by among those of its study, for the bundle
    it was answered with.
    """

    answered_s: float | None = None
    earlier: dict[str, _Answer]
    bundle: str
    preference: dict[str, list[float | str]]


class Results:
    """The folder of all results.

    Args:
        root: made when missing.
        bundle: what computes them.
    """

    def __init__(self, root: Path, bundle: LoadedBundle) -> None:
        self.root, self._bundle = root, bundle
        self._listing = threading.Lock()
        get_ready()

    def of(self, row: SeriesRow, route: Route) -> SeriesResults:
        """Where the results of one generation of a series go; nothing is changed yet."""
        return SeriesResults(self.root, self._bundle, row, route, self._listing)

    def forget(self, row: SeriesRow) -> None:
        """Take a series whose folder is deleted off its study's list; from any thread. Raises OutputError."""
        self.of(row, Route(name=row.route)).take_off()


@dataclass
class SeriesResults:
    """The results of one generation of a series: :meth:`write` for each part, then :meth:`finish`.

    All methods raise OutputError when the folder cannot be written.
    """

    root: Path
    bundle: LoadedBundle
    row: SeriesRow
    route: Route
    listing: threading.Lock
    """Held while ``study.json`` changes."""
    entries: list[SeriesEntry] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        """The folder of the series; one without any result has none."""
        return self.root / folder_name(self.row.study_uid) / folder_name(self.row.series_uid)

    def remember(self, candidates: Sequence[Candidate]) -> None:
        """Note what the results of these candidates will take the place of, and their rank in the study."""
        before = _memory(self.folder)
        if before is not None and before.answered_s == self.row.answered_s:
            earlier = before.earlier  # what lies in the folder was never an answer: nobody got it
        else:
            earlier = _answers(self.folder) or (before.earlier if before is not None else {})
        ranks = {_key(c.part): list(preference(c, self.bundle.content.series)) for c in candidates}
        memory = _Memory(answered_s=self.row.answered_s, earlier=earlier, bundle=self.bundle.sha256, preference=ranks)
        if candidates:
            ensure_writable(self.folder)
            write_atomically(self.folder / MEMORY, memory.model_dump_json().encode())

    def write(self, analysis: Analysis) -> Analysis:
        """Write one part; what it supersedes and whether it is its study's preferred result are filled in."""
        candidate = analysis.candidate
        if self.route.anonymous:
            analysis = anonymised(analysis)
        memory = _memory(self.folder)
        earlier = _earlier(memory, analysis.result.part)
        preferred = analysis.result.status == "succeeded" and self._is_best(candidate.part, memory)
        analysis = analysis.replace(preferred=preferred)
        written = self._write(analysis.replacing(earlier.replaces if earlier is not None else None))
        folder = series_folder(self.root, written.result)
        if earlier is not None and _answer(folder) != earlier:  # it is not that answer once more
            written = self._write(analysis.replacing(earlier.report))
        entry = series_entry(
            written.result, self._described(candidate), folder.relative_to(self.root / folder_name(self.row.study_uid))
        )
        self.entries = [other for other in self.entries if other.part != entry.part] + [entry]
        if folder not in self.folders:
            self.folders.append(folder)
        return written

    def finish(self, skipped: Iterable[Skipped]) -> None:
        """Take away parts that are no more, and bring ``study.json`` up to date."""
        before = self.row.folder
        if before is not None and before.parent.name != self.folder.parent.name:  # sent again, with another study
            shutil.rmtree(before, ignore_errors=True)
            replace(self, row=replace(self.row, study_uid=before.parent.name)).take_off()
        if not self.folders and self.folder.exists():
            shutil.rmtree(self.folder, ignore_errors=True)
        for part in self.folder.glob("part-*"):
            if part not in self.folders:
                shutil.rmtree(part, ignore_errors=True)
        others = [replace(other, description="") if self.route.anonymous else other for other in skipped]
        entries = (*self.entries, *map(skipped_entry, others))
        if entries:
            study = Study(study_instance_uid=self.row.study_uid, series=entries, software=software())
            with self.listing:
                write_study(self.root, study)
                self._settle_preferred()

    def take_off(self) -> None:
        """Off the list of the study, and the study with it when nothing else is on it; see :meth:`Results.forget`."""
        folder = self.root / folder_name(self.row.study_uid)
        with self.listing:
            study = self._study()
            if self.folder.exists():  # it is being answered again
                return
            entries = study.series if study is not None else ()
            left = tuple(entry for entry in entries if entry.series_instance_uid != self.row.series_uid)
            if study is not None and left:
                write_atomically(folder / "study.json", to_json(study.model_copy(update={"series": left})))
                self._settle_preferred()
                return
            with contextlib.suppress(OSError):  # not empty: another series of the study is being written
                for path in [folder / "study.json", *folder.glob(".*.tmp")]:
                    path.unlink(missing_ok=True)
                folder.rmdir()

    def _write(self, analysis: Analysis) -> Analysis:
        return write_series(self.root, analysis, self.bundle, secondary_capture=self.route.secondary_capture)

    def _described(self, candidate: Candidate) -> Candidate:
        return replace(candidate, description="") if self.route.anonymous else candidate

    def _is_best(self, part: int | None, memory: _Memory | None) -> bool:
        """Whether no other success of the study ranks before this part."""
        study = self._study()
        others = [entry for entry in study.series if entry.series_instance_uid != self.row.series_uid] if study else []
        rivals = [*others, *(entry for entry in self.entries if entry.part != part)]
        own = self._rank_in(memory, part)
        return all(own < self._rank(entry) for entry in rivals if entry.outcome == "succeeded")

    def _settle_preferred(self) -> None:
        """Make the best success of the study the preferred one, and no other."""
        study = self._study()
        if study is None:
            return
        best = min((entry for entry in study.series if entry.outcome == "succeeded"), key=self._rank, default=None)
        entries = tuple(entry.model_copy(update={"preferred": entry is best}) for entry in study.series)
        if entries == study.series:
            return
        folder = self.root / folder_name(self.row.study_uid)
        for old, new in zip(study.series, entries, strict=True):
            if old.preferred != new.preferred and new.folder is not None:
                path = folder / new.folder / "result.json"
                result = _result(path)
                if result is not None:
                    write_atomically(path, to_json(result.model_copy(update={"preferred": new.preferred})))
        write_atomically(folder / "study.json", to_json(study.model_copy(update={"series": entries})))

    def _study(self) -> Study | None:
        try:
            path = self.root / folder_name(self.row.study_uid) / "study.json"
            return Study.model_validate_json(path.read_bytes())
        except (OSError, ValueError):
            return None

    def _rank(self, entry: SeriesEntry) -> tuple[object, ...]:
        folder = self.root / folder_name(self.row.study_uid) / folder_name(entry.series_instance_uid)
        return self._rank_in(_memory(folder), entry.part)

    def _rank_in(self, memory: _Memory | None, part: int | None) -> tuple[object, ...]:
        """Best first; what was ranked by another bundle, or never, comes behind all others."""
        if memory is None or memory.bundle != self.bundle.sha256 or _key(part) not in memory.preference:
            return (1,)
        return (0, *memory.preference[_key(part)])


def deliveries_of(results: SeriesResults, destinations: Iterable[Destination]) -> list[NewDelivery]:
    """What of a series' results goes to which destination.

    Raises:
        OutputError: ``output_unwritable``, somebody deleted a result that was just written.
    """
    for folder in results.folders:
        if not (folder / "sr.dcm").is_file():
            raise OutputError("output_unwritable", f"{folder} was written and is gone.", "Let nobody tidy it up.")
    files: dict[Path, tuple[str, str]] = {}
    found = []
    for destination in destinations:
        for folder in results.folders:
            for kind in destination.send:
                for path in sorted(folder.glob(_KINDS[kind])):
                    sop_uid, sop_class = files.setdefault(path, _identity(path))
                    found.append(NewDelivery(destination.name, path, sop_uid, sop_class))
    return found


def _key(part: int | None) -> str:
    return "" if part is None else str(part)


def _memory(folder: Path) -> _Memory | None:
    try:
        return _Memory.model_validate_json((folder / MEMORY).read_bytes())
    except (OSError, ValidationError):
        return None


def _earlier(memory: _Memory | None, part: int | None) -> _Answer | None:
    """The result that a part takes the place of: its own, that of the whole series, or that of its first part."""
    known = memory.earlier if memory is not None else {}
    return known.get(_key(part)) or known.get("") or (next(iter(known.values()), None) if part is None else None)


def _answers(folder: Path) -> dict[str, _Answer]:
    """The finished results in a series' folder, by part."""
    found: dict[str, _Answer] = {}
    for place in (folder, *sorted(folder.glob("part-*"))):
        result, answer = _result(place / "result.json"), _answer(place)
        if result is not None and answer is not None:
            found[_key(result.part)] = answer
    return found


def _result(path: Path) -> Result | None:
    try:
        return Result.model_validate(json.loads(path.read_bytes()))
    except (OSError, ValueError):
        return None


def _answer(folder: Path) -> _Answer | None:
    """The report in a folder, and the one whose place it takes."""
    try:
        header, _ = read_header(folder / "sr.dcm")
    except SeriesError:
        return None
    report = Report(
        study_instance_uid=header.StudyInstanceUID,
        series_instance_uid=header.SeriesInstanceUID,
        sop_instance_uid=header.SOPInstanceUID,
    )
    earlier = header.get("PredecessorDocumentsSequence")
    return _Answer(report=report, replaces=_predecessor(earlier[0]) if earlier else None)


def _predecessor(study: Dataset) -> Report:
    """The one report that an item of a Predecessor Documents Sequence names."""
    (series,) = study.ReferencedSeriesSequence
    (shown,) = series.ReferencedSOPSequence
    return Report(
        study_instance_uid=study.StudyInstanceUID,
        series_instance_uid=series.SeriesInstanceUID,
        sop_instance_uid=shown.ReferencedSOPInstanceUID,
    )


def _identity(path: Path) -> tuple[str, str]:
    """SOP Instance UID and SOP Class UID of an object of ours."""
    header, _ = read_header(path)
    return codes(header, _SOP_INSTANCE)[0], codes(header, _SOP_CLASS)[0]
