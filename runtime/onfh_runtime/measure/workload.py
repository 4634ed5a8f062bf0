"""What is measured: one series of the user's study, or a phantom, and how many of its slices reach stage 2."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onfh_runtime.bundle import Gate, LoadedBundle
from onfh_runtime.dicom import Candidate, find_series
from onfh_runtime.dicom.choice import by_preference, eligible
from onfh_runtime.errors import UsageError

__all__ = ["Workload", "gate_for_share", "workload_from_study", "write_phantom"]

PHANTOM_SEED = 7
_ABOVE_EVERY_PROBABILITY = 2.0


@dataclass(frozen=True)
class Workload:
    """A series, the bundle it is analysed with, and whether the bundle's own gate is in it.

    Attributes:
        candidate: the series.
        bundle: with the gate that is measured.
        positive_fraction: the share of slices that an overridden gate lets through, or None for the bundle's own gate.
    """

    candidate: Candidate
    bundle: LoadedBundle
    positive_fraction: float | None = None

    @property
    def file_bytes(self) -> int:
        """Bytes of the files that hold the series."""
        return sum(path.stat().st_size for path in {image.path for image in self.candidate.images})

    @property
    def transfer_syntax(self) -> str:
        """UID of the transfer syntax of the first image."""
        return str(self.candidate.images[0].header.file_meta.TransferSyntaxUID)

    def with_positive_fraction(self, share: float, slices: int) -> Workload:
        """The same, with a gate that lets the most probable ``share`` of ``slices`` through, whatever they score."""
        content = self.bundle.content.model_copy(update={"gate": gate_for_share(share, slices)})
        return Workload(self.candidate, dataclasses.replace(self.bundle, content=content), share)

    def described(self) -> dict[str, object]:
        """The series and the bundle in figures, without a UID or a path."""
        images, content = self.candidate.images, self.bundle.content
        graphs: dict[str, Mapping[str, Any]] = {
            stage: {precision: graph.gmac for precision, graph in spec.graphs.items()}
            for stage, spec in (("classifier", content.classifier), ("segmenter", content.segmenter))
        }
        return {
            "images": len(images),
            "rows": int(images[0].header.Rows),
            "columns": int(images[0].header.Columns),
            "file_mb": self.file_bytes / 1e6,
            "transfer_syntax": self.transfer_syntax,
            "bundle": f"{content.name} {content.version}",
            "bundle_sha256": self.bundle.sha256,
            "gmac_per_slice": graphs,
        }


def workload_from_study(study: Path, bundle: LoadedBundle) -> Workload:
    """The series of a folder that the bundle prefers; of several studies, the one whose UID sorts first.

    Raises:
        UsageError: ``nothing_to_measure``, ``input_not_found``.
    """
    if not study.exists():
        raise UsageError("input_not_found", f"There is no {study}.", "Name a DICOM file or a folder.")
    candidates, _ = find_series([study])
    candidates, _ = eligible(candidates, bundle.content.series)
    if not candidates:
        raise UsageError(
            "nothing_to_measure",
            "There is no CT series here that this bundle analyses.",
            "`onfh infer` says what it finds and why it leaves it out; without STUDY a phantom is measured.",
        )
    first = min(candidate.study_instance_uid for candidate in candidates)
    of_study = [candidate for candidate in candidates if candidate.study_instance_uid == first]
    return Workload(by_preference(of_study, bundle.content.series)[0], bundle)


def write_phantom(folder: Path, *, slices: int, matrix: int) -> Path:
    """Write a phantom's axial series of so many slices of ``matrix`` x ``matrix``, uncompressed; returns the folder."""
    from onfh_runtime.phantom import axial_grid, random_spec, render, write_series

    spec = random_spec(PHANTOM_SEED, scanner="site_a", lesions="right", implant="none")
    axial = render(spec, axial_grid(spec, slices, matrix, matrix))
    write_series(axial, folder, plane="axial", series_number=1, description="Phantom")
    return folder


def gate_for_share(share: float, slices: int) -> Gate:
    """A gate that lets the most probable ``share`` of ``slices`` through.

    The number of slices is rounded, and at least one unless the share is 0: then none passes.
    """
    if not share:
        return Gate.model_construct(threshold=_ABOVE_EVERY_PROBABILITY, max_slices=None)
    return Gate(threshold=0.0, max_slices=max(1, round(share * slices)))
