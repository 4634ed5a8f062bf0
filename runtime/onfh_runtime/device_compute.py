"""Both stages on a GPU: the stored voxels go up, probabilities and masks come back, and nothing in between.

A job has a slot of its own (voxels, tables and what comes back), so the next one is uploaded while this one is
computed. What lies between voxels and mask is shared by all jobs: they follow each other on one stream. On an
integrated GPU the slot's buffers are seen from both sides and nothing is copied.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from onfh_runtime.answer import Prepared, Said
from onfh_runtime.bundle import Bundle, StageName
from onfh_runtime.components import minimum_voxels
from onfh_runtime.compute import Job
from onfh_runtime.device import Device, DeviceArray, DeviceMemoryError, Event, Stream, Workspace
from onfh_runtime.device_stage import Batch, DeviceStage
from onfh_runtime.findings import gated_slices
from onfh_runtime.kernels.mask import component_scratch, launch_mask, launch_probabilities, launch_small_components
from onfh_runtime.kernels.stage_input import launch_stage_input
from onfh_runtime.preprocess import letterbox
from onfh_runtime.preprocess.device_tables import InputTables, device_source, input_tables
from onfh_runtime.preprocess.mask_tables import MaskTables, mask_tables
from onfh_runtime.result import Engine
from onfh_runtime.stages import not_a_probability, precision_of
from onfh_runtime.timing import DOWNLOAD_LANE, GPU_LANE, UPLOAD_LANE, Stopwatch
from onfh_runtime.volume import Volume

__all__ = ["DeviceCompute"]

_log = logging.getLogger(__name__)

_AHEAD = 2
_BAD_PROBABILITY, _BAD_MAP, _REMOVED = 0, 1, 2


@dataclass(frozen=True)
class _Mirror:
    """An array on both sides; one and the same where the GPU is integrated."""

    host: NDArray[Any]
    device: DeviceArray
    shared: bool

    def upload(self, stream: Stream) -> None:
        if not self.shared:
            stream.upload(self.device, self.host)

    def download(self, stream: Stream) -> None:
        if not self.shared:
            stream.download(self.host, self.device)


@dataclass
class _Slot:
    workspace: Workspace
    integrated: bool

    def mirror(self, name: str, shape: tuple[int, ...], dtype: DTypeLike) -> _Mirror:
        if self.integrated:
            return _Mirror(*self.workspace.mapped(name, shape, dtype), shared=True)
        return _Mirror(
            self.workspace.pinned(name, shape, dtype), self.workspace.device(name, shape, dtype), shared=False
        )

    def mirrored(self, name: str, values: NDArray[Any]) -> _Mirror:
        """A copy of an array, of any layout."""
        mirror = self.mirror(name, values.shape, values.dtype)
        np.copyto(mirror.host, values)
        return mirror


class _Timed(NamedTuple):
    """When the GPU did some step, or a part of it."""

    step: str
    lane: str
    begun: Event
    ended: Event


@dataclass
class _DeviceJob(Job):
    slot: _Slot | None
    voxels: _Mirror
    first: tuple[InputTables, _Mirror]
    second: tuple[InputTables, _Mirror]
    back: tuple[MaskTables, _Mirror]
    asked: _Mirror
    """Slices that stage 1 has to see."""
    uploaded: _Timed
    flags: _Mirror | None = None
    probabilities: _Mirror | None = None
    times: list[_Timed] = field(default_factory=list)


class DeviceCompute:
    """Both stages on one device, warmed up; owns the stages and the device.

    Raises (all calls):
        BackendError: a stage failed, or the device did.
        DeviceMemoryError: there is no room, not even for the smallest batch.
    """

    ahead = _AHEAD

    def __init__(
        self,
        device: Device,
        rules: Bundle,
        classifier: DeviceStage,
        segmenter: DeviceStage,
        *,
        stream: Stream,
        warnings: tuple[tuple[str, str], ...] = (),
    ) -> None:
        self._device, self._rules, self._classifier, self._segmenter = device, rules, classifier, segmenter
        self._stream, self._copies, self._loading = stream, device.stream(), Lock()
        self._between = device.workspace()
        # Those ahead, the one that is started and the one that is finished.
        self._slots = [_Slot(device.workspace(), device.integrated) for _ in range(_AHEAD + 2)]
        self.warnings = (*warnings, *classifier.backend.warnings, *segmenter.backend.warnings)
        backend, precision = classifier.backend, precision_of(classifier.backend, segmenter.backend)
        self.engine = Engine(backend=backend.name, precision=precision, device=backend.device)
        self._owned = ExitStack()  # left from the last to the first
        for release in (device.close, segmenter.close, classifier.close, stream.synchronize, self._copies.synchronize):
            self._owned.callback(release)
        for stage in (classifier, segmenter):
            self._warm_up(stage)

    def load(self, prepared: Prepared, volume: Volume, known: Mapping[int, float], clock: Stopwatch) -> Job:
        """Copy what the stages can see into page-locked memory and queue its upload."""
        with clock.step("preprocess"):
            source = device_source(volume, prepared.plan, prepared.box, prepared.seen)
            first = input_tables(source, self._classifier.spec.input)
            second = input_tables(source, self._segmenter.spec.input)
            _, rows, columns = prepared.seen.hu.shape
            _, height, width = self._segmenter.output.shape
            spacing, spec = prepared.seen.spacing_mm[1:], self._segmenter.spec.input
            back = mask_tables(letterbox((rows, columns), spacing, spec, (height, width)))
            asked = np.array([index for index in range(len(prepared.seen.hu)) if index not in known], np.int32)
            with self._loading:
                slot = self._slots.pop()
            try:
                mirrors = [
                    slot.mirrored(name, values)
                    for name, values in (
                        ("voxels", source.voxels),
                        ("classifier tables", first.packed),
                        ("segmenter tables", second.packed),
                        ("mask tables", back.packed),
                        ("asked", asked),
                    )
                ]
                with self._loading, clock.enqueue("preprocess"):
                    begun = self._copies.record()
                    for mirror in mirrors:
                        mirror.upload(self._copies)
                    uploaded = _Timed("preprocess", UPLOAD_LANE, begun, self._copies.record())
            except BaseException:
                self._slots.append(slot)
                raise
            voxels, *tables, slices = mirrors
            return _DeviceJob(
                prepared,
                known,
                clock,
                slot,
                voxels,
                (first, tables[0]),
                (second, tables[1]),
                (back, tables[2]),
                slices,
                uploaded,
            )

    def start(self, job: Job) -> None:
        """Queue stage 1 and the download of what it says."""
        assert isinstance(job, _DeviceJob)
        assert job.slot is not None
        count = job.asked.device.shape[0]
        job.probabilities = job.slot.mirror("probabilities", (count,), np.float32)
        job.flags = job.slot.mirror("flags", (3,), np.int32)
        said, flags = job.probabilities.device, job.flags.device
        self._stream.wait(job.uploaded.ended)
        self._stream.zero(flags)

        def classify() -> None:
            values, logits = self._classifier.buffers(self._between)
            for batch in self._classifier.batches(count):
                launch_stage_input(
                    self._stream,
                    job.first[0],
                    job.first[1].device,
                    job.voxels.device,
                    job.asked.device.rows(batch.start, batch.stop),
                    out=values.rows(0, batch.rows),
                )
                self._classifier.run(values, logits, batch, stream=self._stream)
                launch_probabilities(
                    self._stream,
                    logits.rows(0, batch.rows),
                    self._classifier.spec,
                    out=said.rows(batch.start, batch.stop),
                    bad=flags.rows(_BAD_PROBABILITY, _BAD_PROBABILITY + 1),
                )

        with self._timed(job, "classify"):
            self._in_room(self._classifier, classify)
        with self._timed(job, "classify", DOWNLOAD_LANE):
            job.probabilities.download(self._stream)
            job.flags.download(self._stream)

    def finish(self, job: Job) -> Said:
        """Wait for stage 1, queue stage 2 on the gated slices, and wait for the masks."""
        assert isinstance(job, _DeviceJob)
        assert job.slot is not None
        assert job.probabilities is not None
        assert job.flags is not None
        job.times[-1].ended.synchronize()
        if job.flags.host[_BAD_PROBABILITY]:
            raise not_a_probability("classifier")
        probabilities = np.empty(len(job.prepared.seen.hu), np.float32)
        probabilities[list(job.known)] = list(job.known.values())
        probabilities[job.asked.host] = job.probabilities.host
        gated = gated_slices(probabilities, self._rules.gate)
        mask, removed = self._segment(job, job.slot, job.flags, gated.astype(np.int32))
        self._tell(job)
        return Said(probabilities, gated, mask, removed)

    def drop(self, job: Job) -> None:
        """Give the job's slot to another, once nothing of the job is still queued."""
        assert isinstance(job, _DeviceJob)
        if job.slot is None:
            return
        slot, job.slot = job.slot, None
        try:
            for timed in (job.uploaded, *job.times):
                timed.ended.synchronize()
        finally:
            self._slots.append(slot)

    def captured(self) -> dict[StageName, tuple[int, ...]]:
        """Batch sizes that run as CUDA graphs, by stage."""
        return {stage.stage: stage.backend.captured for stage in (self._classifier, self._segmenter)}

    def close(self) -> None:
        """Wait for what is queued, then release stages and device; may be called more than once."""
        self._owned.close()

    def _warm_up(self, stage: DeviceStage) -> None:
        """Run every batch size once, the largest first: no study then waits for kernels, graphs or memory."""

        def run() -> None:
            values, logits = stage.buffers(self._between)
            self._stream.zero(values)
            for rows in reversed(stage.buckets):
                stage.run(values, logits, Batch(0, rows, rows), stream=self._stream)

        self._in_room(stage, run)
        self._stream.synchronize()

    def _segment(
        self, job: _DeviceJob, slot: _Slot, flags: _Mirror, gated: NDArray[np.int32]
    ) -> tuple[NDArray[np.bool_], int]:
        """Mask (gated slices, rows, columns) on the pixels of what the stages see, and the voxels taken from it."""
        shape = (len(gated), *job.prepared.seen.hu.shape[1:])
        if not len(gated):
            return np.zeros(shape, np.bool_), 0
        slices, masks = slot.mirrored("gated", gated), slot.mirror("mask", shape, np.uint8)
        tables, packed = job.back
        fewest = minimum_voxels(self._rules.minimum_component_mm3, float(np.prod(job.prepared.seen.spacing_mm)))

        def segment() -> None:
            values, logits = self._segmenter.buffers(self._between)
            maps = self._between.device("maps", (self._segmenter.most_rows, *tables.map_size), np.float32)
            for batch in self._segmenter.batches(len(gated)):
                launch_stage_input(
                    self._stream,
                    job.second[0],
                    job.second[1].device,
                    job.voxels.device,
                    slices.device.rows(batch.start, batch.stop),
                    out=values.rows(0, batch.rows),
                )
                self._segmenter.run(values, logits, batch, stream=self._stream)
                launch_probabilities(
                    self._stream,
                    logits.rows(0, batch.rows),
                    self._segmenter.spec,
                    out=maps.rows(0, batch.rows),
                    bad=flags.device.rows(_BAD_MAP, _BAD_MAP + 1),
                )
                launch_mask(
                    self._stream,
                    maps.rows(0, batch.rows),
                    tables,
                    packed.device,
                    self._rules.mask_threshold,
                    out=masks.device.rows(batch.start, batch.stop),
                )

        with self._timed(job, "segment"):
            slices.upload(self._stream)
            self._in_room(self._segmenter, segment)
        with self._timed(job, "postprocess"):
            if fewest > 1:
                launch_small_components(
                    self._stream,
                    masks.device,
                    slices.device,
                    fewest,
                    scratch=self._between.device("components", component_scratch(shape), np.int32),
                    removed=flags.device.rows(_REMOVED, _REMOVED + 1),
                )
        with self._timed(job, "postprocess", DOWNLOAD_LANE):
            masks.download(self._stream)
            flags.download(self._stream)
        job.times[-1].ended.synchronize()
        if flags.host[_BAD_MAP]:
            raise not_a_probability("segmenter")
        return masks.host.astype(np.bool_), int(flags.host[_REMOVED])

    def _in_room(self, stage: DeviceStage, work: Callable[[], None]) -> None:
        """Queue work, with smaller batches of the stage where there is no room for large ones."""
        while True:
            try:
                return work()
            except DeviceMemoryError:
                if not stage.shrink():
                    raise
                _log.warning("the GPU has no room: the %s goes on with batches of %d", stage.stage, stage.most_rows)
                self._stream.synchronize()
                self._between.close()
                self._between = self._device.workspace()

    @contextmanager
    def _timed(self, job: _DeviceJob, step: str, lane: str = GPU_LANE) -> Iterator[None]:
        """Note when the GPU did what is queued in here, and how long queueing it took."""
        with job.clock.enqueue(step):
            begun = self._stream.record()
            try:
                yield
            finally:
                job.times.append(_Timed(step, lane, begun, self._stream.record()))

    def _tell(self, job: _DeviceJob) -> None:
        """Put the GPU's times, which know no clock of the host, before the moment at which the last was waited for."""
        now, last = time.perf_counter(), job.times[-1].ended
        for timed in (job.uploaded, *job.times):
            start, stop = (now - last.elapsed_ms(since=event) / 1e3 for event in (timed.begun, timed.ended))
            job.clock.add(timed.step, start, stop, lane=timed.lane)
