"""The bundle: what to run, on which input, and how its numbers become an answer.

``bundle.json`` is the only thing that passes between export and runtime. Every choice the source study leaves unknown
(variants, input sizes, windows, spacing, patient rule, thresholds) is a field here, so none is hidden in code.
"""

from __future__ import annotations

import hashlib
import json
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from onfh_runtime.cpu import cores
from onfh_runtime.errors import BundleError

__all__ = [
    "SCHEMA",
    "Bundle",
    "Coverage",
    "Gate",
    "Graph",
    "Island",
    "LoadedBundle",
    "ModelPrecision",
    "ParityLimits",
    "PatientRule",
    "Precision",
    "SeriesRules",
    "Stage",
    "StageInput",
    "StageName",
    "Window",
    "load_bundle",
    "sha256_of",
]

SCHEMA = "onfh-bundle/1"
StageName = Literal["classifier", "segmenter"]
Precision = Literal["fp32", "fp16", "bf16"]
ModelPrecision = Literal["fp32", "fp16", "bf16", "int8"]
"""That of a file: ``int8`` has weights of eight bits, is for ONNX Runtime on a CPU, and no GPU runs it."""
_BLOCK = 1 << 20


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class Window(_Model):
    """A HU window: ``center - width / 2`` maps to 0, ``center + width / 2`` to 1, clipped."""

    center: float
    width: float = Field(gt=0)


class StageInput(_Model):
    """How a coronal slice becomes one NCHW row of a stage's input.

    ``size`` is (height, width). One window per channel; ``mean`` and ``std`` normalise the windowed value per channel.
    A slice is scaled to fit, keeping its shape, and padded with air; one input pixel never covers less than
    ``min_pixel_spacing_mm``, so that a small field of view is not blown up to another scale.
    """

    size: tuple[int, int]
    windows: tuple[Window, ...] = Field(min_length=1)
    mean: tuple[float, ...]
    std: tuple[float, ...]
    min_pixel_spacing_mm: float = Field(0.0, ge=0)

    @model_validator(mode="after")
    def _one_per_channel(self) -> StageInput:
        if not len(self.windows) == len(self.mean) == len(self.std):
            raise ValueError("windows, mean and std must have one entry per channel")
        if min(self.size) < 1 or min(self.std) <= 0:
            raise ValueError("size and std must be positive")
        return self


class Island(_Model):
    """A node that stays FP32 in a half graph, and why."""

    node: str
    operator: str
    reason: str


class Graph(_Model):
    """What export says of one ONNX file.

    ``gmac`` is for one row; ``half_share`` is the share of floating activations, by elements, that are half;
    ``rewrites`` maps each exact rewrite that was applied to its figure.
    """

    opset: int
    nodes: int
    operators: dict[str, int]
    parameters: int
    gmac: float
    half_share: float = Field(0.0, ge=0, le=1)
    islands: tuple[Island, ...] = ()
    rewrites: dict[str, str] = {}


class Stage(_Model):
    """One network. ``models`` maps a precision to a file of the bundle; ``positive_class`` indexes its output channel.

    ``activation`` turns logits into probabilities: ``softmax`` over channels or ``sigmoid`` of the positive channel;
    ``none`` when the graph ends in probabilities.
    """

    architecture: str
    models: dict[ModelPrecision, str] = Field(min_length=1)
    graphs: dict[ModelPrecision, Graph] = {}
    input_name: str
    output_name: str
    activation: Literal["softmax", "sigmoid", "none"] = "softmax"
    positive_class: int = Field(1, ge=0)
    max_batch: int = Field(8, ge=1)
    input: StageInput


class Gate(_Model):
    """Which slices go on to stage 2: those at or above ``threshold``, the ``max_slices`` most probable at most."""

    threshold: float = Field(ge=0, le=1)
    max_slices: int | None = Field(None, ge=1)


class PatientRule(_Model):
    """Patient probability: the mean of the ``k`` most probable slices (``k`` = 1 is the maximum)."""

    kind: Literal["top_k_mean"] = "top_k_mean"
    k: int = Field(1, ge=1)
    threshold: float = Field(ge=0, le=1)


class Coverage(_Model):
    """What of the coronal stack the stages see.

    Slices from ``margin_mm`` in front of the femoral heads to ``margin_mm`` behind them; of each slice the box that
    reaches ``in_plane_mm`` beyond the heads, or all of it when that is null.
    """

    margin_mm: float = Field(ge=0)
    in_plane_mm: float | None = Field(None, ge=0)


class SeriesRules(_Model):
    """Which CT series of a study are analysed, and which of them is preferred.

    A series outside a limit is listed as skipped. ``max_slice_spacing_mm`` is the distance between images (the femoral
    heads are searched up to 6 mm), ``max_thickness_mm`` the stated Slice Thickness (an image that states none passes),
    ``min_coverage_mm`` the extent across all slices. Kernels are regular expressions, any case, searched in Convolution
    Kernel. ``prefer`` orders the series that are analysed, first criterion first: ``kernel`` by the first of
    ``preferred_kernels`` that is found, ``plane`` by the order of ``planes``, ``coronal_pixel`` the finest coronal
    pixel, ``images`` the most images.
    """

    planes: tuple[Literal["axial", "coronal"], ...] = Field(("axial", "coronal"), min_length=1)
    max_slice_spacing_mm: float = Field(6.0, gt=0)
    max_thickness_mm: float | None = Field(None, gt=0)
    min_coverage_mm: float = Field(0.0, ge=0)
    refused_kernels: tuple[str, ...] = ()
    preferred_kernels: tuple[str, ...] = ()
    prefer: tuple[Literal["kernel", "plane", "coronal_pixel", "images"], ...] = ("kernel", "coronal_pixel", "images")

    @field_validator("refused_kernels", "preferred_kernels")
    @classmethod
    def _compiles(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in patterns:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{pattern!r} is no regular expression ({error})") from error
        return patterns


class ParityLimits(_Model):
    """How far a reduced precision may move the answers on the reference studies; beyond them, export fails.

    ``patient_flips``, ``side_flips``: patients and sides whose state changes. ``slice_flips``: share of slices that
    change sides of the slice threshold. ``probability_drift``: largest change of a slice's probability. ``mask_dice``:
    least Dice between the FP32 and the reduced mask of a study. ``auc_change``: of slices and of patients, where the
    reference has truth.
    """

    patient_flips: int = Field(0, ge=0)
    side_flips: int = Field(0, ge=0)
    slice_flips: float = Field(0.01, ge=0, le=1)
    probability_drift: float = Field(0.02, ge=0, le=1)
    mask_dice: float = Field(0.995, ge=0, le=1)
    auc_change: float = Field(0.001, ge=0, le=1)


class Bundle(_Model):
    """The whole of ``bundle.json``.

    Of a mask, connected pieces below ``minimum_component_mm3`` are taken away first (0: none); then what a side has
    left counts from ``minimum_volume_mm3`` on.
    """

    schema_: Literal["onfh-bundle/1"] = Field("onfh-bundle/1", alias="schema")
    name: str
    version: str
    description: str = ""
    notices: tuple[str, ...] = ()
    series: SeriesRules = SeriesRules()
    slice_spacing_mm: float = Field(gt=0)
    coverage: Coverage
    classifier: Stage
    segmenter: Stage
    gate: Gate
    slice_threshold: float = Field(ge=0, le=1)
    patient_rule: PatientRule
    mask_threshold: float = Field(0.5, gt=0, lt=1)
    minimum_component_mm3: float = Field(0.0, ge=0)
    minimum_volume_mm3: float = Field(ge=0)
    parity: ParityLimits = ParityLimits()
    provenance: dict[str, str] = {}
    files: dict[str, str]


@dataclass(frozen=True)
class LoadedBundle:
    """A bundle that was checked: its folder, its content, and the SHA-256 of ``bundle.json``."""

    root: Path
    content: Bundle
    sha256: str

    def cpu_precision(self, stage: StageName) -> ModelPrecision:
        """Which of a stage's files ONNX Runtime runs on a CPU: INT8 where export was asked for it, else FP32."""
        models = (self.content.classifier if stage == "classifier" else self.content.segmenter).models
        return "int8" if "int8" in models else "fp32"

    def model_path(self, stage: StageName, precision: ModelPrecision) -> Path:
        """Path of a stage's ONNX file; BundleError ``precision_missing`` when the bundle holds none."""
        models = (self.content.classifier if stage == "classifier" else self.content.segmenter).models
        if precision not in models:
            raise BundleError(
                "precision_missing",
                f"The bundle in {self.root} holds no {precision} {stage}, only {', '.join(sorted(models))}.",
                "Export it with that precision, or choose another backend.",
            )
        return self.root / models[precision]


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, hexadecimal, read in blocks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def load_bundle(root: Path) -> LoadedBundle:
    """Read and check a bundle.

    Raises:
        BundleError: ``bundle_not_found``, ``bundle_invalid``, ``bundle_path_escapes``, ``bundle_file_missing``,
            ``bundle_file_unlisted`` or ``bundle_hash_mismatch``.
    """
    path = root / "bundle.json"
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise BundleError(
            "bundle_not_found",
            f"There is no readable bundle.json in {root} ({error.strerror}).",
            "Name the folder that `onfh export` wrote.",
        ) from error
    try:
        content = Bundle.model_validate(json.loads(raw))
    except (ValueError, ValidationError) as error:
        raise BundleError("bundle_invalid", f"{path} is not a valid bundle: {_first_problem(error)}") from error
    named = [name for stage in (content.classifier, content.segmenter) for name in stage.models.values()]
    for name in [*named, *content.files]:
        pure = PurePosixPath(name)
        if pure.is_absolute() or ".." in pure.parts or not (root / name).resolve().is_relative_to(root.resolve()):
            raise BundleError("bundle_path_escapes", f"{path} names the file {name!r} outside its own folder.")
    for name in named:
        if name not in content.files:
            raise BundleError("bundle_invalid", f"{path} uses {name!r} without listing its hash under 'files'.")
    for file in sorted(root.rglob("*")):
        name = file.relative_to(root).as_posix()
        if file.is_file() and name != "bundle.json" and name not in content.files and not name.startswith("engines/"):
            # An ONNX file may keep its weights in a file beside it, which no hash would cover.
            raise BundleError(
                "bundle_file_unlisted",
                f"The bundle in {root} holds {name}, which bundle.json does not list.",
                "Remove it, or export the bundle again.",
            )
    for name in content.files:
        if not (root / name).is_file():
            raise BundleError(
                "bundle_file_missing", f"The bundle in {root} lacks {name}.", "Copy the whole folder again."
            )
    with ThreadPoolExecutor(cores()) as pool:  # hashing lets other threads run
        hashes = list(pool.map(sha256_of, [root / name for name in content.files]))
    for (name, expected), found in zip(content.files.items(), hashes, strict=True):
        if found != expected:
            raise BundleError(
                "bundle_hash_mismatch",
                f"{root / name} is not the file the bundle was made with (its SHA-256 differs).",
                "Copy the whole folder again, or export it again.",
            )
    return LoadedBundle(root, content, hashlib.sha256(raw).hexdigest())


def _first_problem(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "top level"
        return f"{where}: {first['msg']} ({error.error_count()} problem(s))"
    return str(error)
