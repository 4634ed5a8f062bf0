"""A stage on a device: how many rows to give it at once, and the buffers they stand in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from onfh_runtime.backends import DeviceBackend
from onfh_runtime.bundle import Stage, StageName
from onfh_runtime.device import DeviceArray, Stream, Workspace
from onfh_runtime.stages import stage_tensors

__all__ = ["Batch", "DeviceStage"]


@dataclass(frozen=True)
class Batch:
    """Rows ``start`` to ``stop`` of a stack, run as ``bucket`` rows: those behind ``stop`` hold what was there."""

    start: int
    stop: int
    bucket: int

    @property
    def rows(self) -> int:
        """Rows that count."""
        return self.stop - self.start


class DeviceStage:
    """One stage on one device backend; owns the backend.

    A backend runs certain row counts only (its buckets), each with kernels and a CUDA graph of its own, on buffers that
    stay where they are: input and logits of one batch, which the next batch overwrites once the stream is past them.

    Raises:
        BackendError: ``stage_mismatch`` when the model's tensors are not those the bundle describes.
    """

    def __init__(self, stage: StageName, spec: Stage, backend: DeviceBackend) -> None:
        self.stage, self.spec, self.backend = stage, spec, backend
        self.input, self.output = stage_tensors(stage, spec, backend.inputs, backend.outputs)
        self._buckets = [bucket for bucket in backend.buckets if bucket <= spec.max_batch] or [backend.buckets[0]]

    @property
    def buckets(self) -> tuple[int, ...]:
        """Row counts that are run, ascending."""
        return tuple(self._buckets)

    @property
    def most_rows(self) -> int:
        """Rows of the largest batch."""
        return self._buckets[-1]

    def batches(self, rows: int) -> Iterator[Batch]:
        """Cut rows into batches: full ones, then the smallest bucket that holds the rest."""
        for start in range(0, rows, self.most_rows):
            stop = min(start + self.most_rows, rows)
            yield Batch(start, stop, min(bucket for bucket in self._buckets if bucket >= stop - start))

    def shrink(self) -> bool:
        """Give up the largest bucket, for want of memory; False when there is only one."""
        if len(self._buckets) == 1:
            return False
        self._buckets.pop()
        return True

    def buffers(self, workspace: Workspace) -> tuple[DeviceArray, DeviceArray]:
        """Input and logits, of the largest batch."""
        values = workspace.device(f"{self.stage} input", (self.most_rows, *self.input.shape), self.input.dtype)
        logits = workspace.device(f"{self.stage} logits", (self.most_rows, *self.output.shape), self.output.dtype)
        return values, logits

    def run(self, values: DeviceArray, logits: DeviceArray, batch: Batch, *, stream: Stream) -> None:
        """Queue a batch that stands in the first rows of ``values``. Raises what the backend raises."""
        given, wanted = values.rows(0, batch.bucket), logits.rows(0, batch.bucket)
        self.backend.run({self.input.name: given}, {self.output.name: wanted}, stream=stream)

    def close(self) -> None:
        """Release the backend."""
        self.backend.close()
