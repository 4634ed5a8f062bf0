"""What is said of one series and of one study: the schemas of ``result.json`` and ``study.json``."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = [
    "BundleId",
    "Engine",
    "Geometry",
    "Note",
    "Patient",
    "Report",
    "Result",
    "SeriesEntry",
    "Side",
    "Sides",
    "SliceResult",
    "Software",
    "Study",
    "Timing",
]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class Note(_Model):
    """A stable code and one sentence for a reader: a reason or a warning."""

    code: str
    text: str


class Patient(_Model):
    """The answer for the patient, from this one series."""

    state: Literal["positive", "negative", "undetermined"]
    probability: float = Field(ge=0, le=1)
    threshold: float = Field(ge=0, le=1)


class Side(_Model):
    """What is said of one hip. ``centroid_mm`` is LPS; volume and slices are those of the mask on the coronal stack."""

    state: Literal["positive", "negative", "undetermined", "not_analysed"]
    reason: Note | None = None
    volume_mm3: float = 0.0
    slices: int = 0
    centroid_mm: tuple[float, float, float] | None = None


class Sides(_Model):
    """The two hips, by patient coordinates."""

    right: Side
    left: Side


class SliceResult(_Model):
    """One coronal slice. ``position_mm`` is LPS y; ``sop_instance_uid`` is null when the slice was reformatted."""

    index: int
    position_mm: float
    sop_instance_uid: str | None
    probability: float
    positive: bool
    area_mm2: float = 0.0


class Geometry(_Model):
    """How the series was acquired and what was analysed. ``spacing_mm`` is (slice, row, column) of the source."""

    acquired: str
    spacing_mm: tuple[float, float, float]
    coronal_slices: int


class BundleId(_Model):
    """Which bundle gave the answer; ``sha256`` is that of ``bundle.json``, which holds the hash of every other file."""

    name: str
    version: str
    sha256: str


class Engine(_Model):
    """What computed it; ``precision`` is that of both stages, or of one and the other: ``int8/fp32``."""

    backend: str
    precision: str
    device: str


class Timing(_Model):
    """Wall time of each step in ms."""

    read: float = 0.0
    preprocess: float = 0.0
    classify: float = 0.0
    segment: float = 0.0
    postprocess: float = 0.0
    write: float = 0.0
    total: float = 0.0


class Software(_Model):
    """Name and version of this package."""

    name: str
    version: str


class Report(_Model):
    """A report that was given: the SR, as other objects refer to it."""

    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str


class Result(_Model):
    """One series: the whole of ``result.json`` (schema ``onfh-result/1``)."""

    schema_: Literal["onfh-result/1"] = Field("onfh-result/1", alias="schema")
    created: str
    research_use_only: Literal[True] = True
    supersedes: str | None = None
    status: Literal["succeeded", "not_analysed", "failed"]
    reason: Note | None = None
    study_instance_uid: str
    series_instance_uid: str
    part: int | None = None
    preferred: bool = False
    patient: Patient | None = None
    sides: Sides | None = None
    slices: tuple[SliceResult, ...] = ()
    geometry: Geometry | None = None
    bundle: BundleId
    engine: Engine
    timing_ms: Timing = Timing()
    warnings: tuple[Note, ...] = ()
    software: Software


class SeriesEntry(_Model):
    """One line of ``study.json``: a series and its outcome. ``folder`` is relative to the study's folder."""

    series_instance_uid: str
    part: int | None = None
    description: str = ""
    outcome: Literal["succeeded", "not_analysed", "failed", "skipped"]
    reason: Note | None = None
    preferred: bool = False
    folder: str | None = None
    images: int = 0


class Study(_Model):
    """``study.json`` (schema ``onfh-study/1``): every series of a study with its outcome."""

    schema_: Literal["onfh-study/1"] = Field("onfh-study/1", alias="schema")
    study_instance_uid: str
    series: tuple[SeriesEntry, ...]
    software: Software
