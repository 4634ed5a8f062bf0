"""A node without a network: objects go straight into its spool and journal, and its clock is turned by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from onfh_runtime.bundle import LoadedBundle
from onfh_runtime.listen.arrivals import Arrivals
from onfh_runtime.listen.clock import Clock
from onfh_runtime.listen.config import ListenConfig
from onfh_runtime.listen.early import EarlyClassifier
from onfh_runtime.listen.journal import Journal
from onfh_runtime.listen.metrics import Metrics
from onfh_runtime.listen.records import ObjectRow, Recorded, SeriesRow
from onfh_runtime.listen.results import Results
from onfh_runtime.listen.spool import Spool
from onfh_runtime.listen.watch import Watch
from onfh_runtime.listen.work import Analyse, Worker
from onfh_runtime.pipeline import Pipeline
from onfh_runtime.result import Result, Study
from onfh_runtime.stages import open_runner

START_S = 1_800_000_000.0

Edit = Callable[[Dataset], Any]


class Room:
    """Everything of a node but its network, on one thread.

    ``analyse`` may be replaced to see or change what the worker asks for.
    """

    def __init__(self, state_dir: Path, bundle: LoadedBundle, *, early: bool = False, **config: object) -> None:
        state_dir.mkdir(parents=True, exist_ok=True)
        self.state_dir, self.bundle = state_dir, bundle
        self.config = ListenConfig.model_validate({"state_dir": state_dir, **config})
        self.now_s = START_S
        self.clock = Clock(lambda: self.now_s, lambda: self.now_s - START_S)
        self.spool = Spool(state_dir / "objects")
        self.journal = Journal(state_dir / "journal.sqlite", remove=self.spool.remove, clock=self.clock.wall)
        self.metrics = Metrics(self.journal, state_dir)
        self.pipeline = Pipeline(bundle, threads=1)
        self.early = None
        if early:
            runner = open_runner(bundle, "classifier", "onnxruntime", threads=1)
            self.early = EarlyClassifier(runner, bundle.content)
        self.arrivals = Arrivals(early=self.early, monotonic=self.clock.monotonic)
        self.told: list[tuple[str, SeriesRow]] = []
        self.delivered = 0
        self.analyse: Analyse = self.pipeline.analyse
        self.watch = Watch(
            self.config,
            self.journal,
            self.arrivals,
            on_ready=lambda: None,
            tell=lambda event, row: self.told.append((event, row)),
            clock=self.clock,
        )
        self.results = Results(state_dir / "results", bundle)
        self.worker = Worker(
            self.config,
            bundle,
            self.journal,
            self.arrivals,
            self.watch,
            lambda candidate, known: self.analyse(candidate, known),
            self.results,
            metrics=self.metrics,
            tell=lambda event, row: self.told.append((event, row)),
            deliver=self._deliver,
            clock=self.clock,
        )

    def close(self) -> None:
        self.arrivals.stop()
        self.pipeline.close()
        if self.early is not None:
            self.early.close()
        self.journal.close()

    def send(
        self, paths: Iterable[Path], *, edit: Edit | None = None, release: bool = True, route: str = "default"
    ) -> list[ObjectRow]:
        """What a receiver does with objects; ``edit`` changes each before it is sent."""
        rows = [self.keep(path, edit, route) for path in paths]
        if release:
            self.journal.association_released([row.series_uid for row in rows], self.now_s)
        return rows

    def keep(self, path: Path, edit: Edit | None = None, route: str = "default") -> ObjectRow:
        data = path.read_bytes()
        dataset = pydicom.dcmread(BytesIO(data))
        if edit is not None:
            edit(dataset)
            dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
            buffer = BytesIO()
            dataset.save_as(buffer, enforce_file_format=True)
            data = buffer.getvalue()
        written = self.spool.write(data[:132], data[132:])
        row = ObjectRow(
            sop_uid=str(dataset.SOPInstanceUID),
            series_uid=str(dataset.SeriesInstanceUID),
            study_uid=str(dataset.StudyInstanceUID),
            path=written.path,
            nbytes=written.nbytes,
            sha256=written.sha256,
            received_s=self.now_s,
            sop_class=str(dataset.SOPClassUID),
            transfer_syntax=str(dataset.file_meta.TransferSyntaxUID),
            peer="scanner",
            route=route,
        )
        if self.journal.record_object(row) is not Recorded.DUPLICATE:
            self.arrivals.on_object(row)
        return row

    def wait(self, seconds: float) -> None:
        self.now_s += seconds

    def settle(self, *, most: int = 20) -> None:
        """Let whatever is due now happen."""
        self.arrivals.work_off()
        for _ in range(most):
            self.watch.turn()
            if self.worker.turn() > 0:
                return
        raise AssertionError("the node never came to rest")

    def answer(self, paths: Iterable[Path], **options: Any) -> SeriesRow:
        """Send a series, wait until it is complete, and let it be answered."""
        row = self.send(paths, **options)[-1]
        self.arrivals.work_off()
        self.wait(self.config.series.quiet_s)
        self.settle()
        return self.series(row.series_uid)

    def series(self, series_uid: str) -> SeriesRow:
        row = self.journal.series(series_uid)
        assert row is not None
        return row

    def result(self, row: SeriesRow, part: int | None = None) -> Result:
        assert row.folder is not None
        folder = row.folder if part is None else row.folder / f"part-{part}"
        return Result.model_validate_json((folder / "result.json").read_bytes())

    def study(self, row: SeriesRow) -> Study:
        assert row.folder is not None
        return Study.model_validate_json((row.folder.parent / "study.json").read_bytes())

    def _deliver(self) -> None:
        self.delivered += 1


def failing(times: int, analyse: Analyse, code: str = "stage_failed") -> Analyse:
    """An ``analyse`` whose first answers are failures."""
    left = [times]

    def analysed(candidate: Any, known: Mapping[str, float]) -> Any:
        analysis = analyse(candidate, known)
        if left[0] == 0:
            return analysis
        left[0] -= 1
        from onfh_runtime.analysis import Analysis
        from onfh_runtime.result import Note

        reason = Note(code=code, text="The segmenter failed.")
        bare = Analysis(analysis.candidate, analysis.result, None, analysis.clock)
        return bare.replace(status="failed", reason=reason, patient=None, sides=None, slices=(), geometry=None)

    return analysed


def refusing(bundle: LoadedBundle, seen: list[str]) -> Analyse:
    """An ``analyse`` that takes no time: notes the series and refuses it."""
    from onfh_runtime.analysis import without_answer
    from onfh_runtime.errors import SeriesError
    from onfh_runtime.result import Engine
    from onfh_runtime.timing import Stopwatch

    def analysed(candidate: Any, known: Mapping[str, float]) -> Any:
        seen.append(candidate.series_instance_uid)
        engine = Engine(backend="none", precision="none", device="none")
        error = SeriesError("missing_slice", "A slice is missing.")
        return without_answer(candidate, error, bundle=bundle, engine=engine, clock=Stopwatch())

    return analysed


def series_copy(number: int) -> Edit:
    """Makes objects those of another series of the same study."""

    def edit(dataset: Dataset) -> None:
        for keyword in ("SeriesInstanceUID", "SOPInstanceUID"):
            setattr(dataset, keyword, generate_uid(entropy_srcs=[dataset[keyword].value, str(number)]))

    return edit
