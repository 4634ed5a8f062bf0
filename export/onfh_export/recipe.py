"""The recipe of the demo stages: every choice of a training, in one frozen object.

The defaults are what ``onfh train`` runs; nothing else in this package holds a number that shapes the result.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from onfh_runtime.bundle import Coverage, StageInput, Window

__all__ = ["ClassifierShape", "Fit", "Recipe", "SegmenterShape", "smoke_recipe"]


@dataclass(frozen=True)
class ClassifierShape:
    """Size of the Vision Transformer. ``patch_cells``: the patch loss sees each patch as cells x cells."""

    hidden_size: int = 128
    layers: int = 6
    heads: int = 4
    mlp_ratio: int = 4
    patch_size: int = 8
    patch_cells: int = 4


@dataclass(frozen=True)
class SegmenterShape:
    """Size of the UperNet with a Swin backbone; one entry of ``depths`` and ``heads`` per Swin stage."""

    embed_dim: int = 32
    depths: tuple[int, ...] = (2, 2, 2)
    heads: tuple[int, ...] = (1, 2, 4)
    patch_size: int = 4
    window_size: int = 9
    hidden_size: int = 48


@dataclass(frozen=True)
class Fit:
    """How one stage is fitted: Muon and AdamW, linear warmup then cosine to zero, averaged weights."""

    epochs: int
    batch_size: int = 32
    learning_rate: float = 1.5e-3
    weight_decay: float = 0.05
    warmup: float = 0.1
    average_decay: float = 0.995
    clip_norm: float = 1.0


@dataclass(frozen=True)
class Recipe:
    """A whole training.

    Attributes:
        seed: of the cohort, the split, the initial weights, the order of slices and the augmentation.
        cohort_seed: of the phantoms only.
        patients_per_site: phantoms for each of the three internal sites.
        external_patients: phantoms of the external site.
        slice_spacing_mm: coronal slice distance; thinner planes are averaged.
        coverage_margin_mm: slices this far in front of and behind the femoral heads are analysed.
        coverage_in_plane_mm: of each slice, the box this far beyond the heads; null for all of it.
        single_hip_every: every so many training cases is seen as a field of view of one hip.
        size: (height, width) of both stages' input.
        pixel_mm: one input pixel covers at least this much.
        window_center: HU window, one channel.
        window_width: HU window, one channel.
        mean: of the windowed value, subtracted.
        std: of the windowed value, divided by.
        positive_area_mm2: a slice is positive when its truth mask covers at least this area.
        part_columns: patches in a row of the parts of slices on which the classifier learns first.
        patch_loss_weight: of the classifier's auxiliary loss per patch; the head is dropped at export.
        classifier_negatives: negative slices shown to the classifier per positive slice and epoch.
        segmenter_negatives: negative slices shown to the segmenter per positive slice and epoch.
        slice_sensitivity: wanted on validation at the slice threshold (the source study's operating point) ...
        slice_specificity_floor: ... as long as the specificity there does not fall below this.
        gate_sensitivity: wanted on validation at the gate ...
        gate_specificity_floor: ... as long as the specificity there does not fall below this.
        patient_sensitivity: wanted on validation at the patient threshold ...
        patient_specificity_floor: ... as long as the specificity there does not fall below this.
        patient_k: candidates for the ``k`` of the patient rule.
        mask_thresholds: candidates for the mask threshold, ascending.
        mask_dice_given_up: the highest candidate whose Dice is within this of the best is taken.
        autocast: bfloat16 autocast while training; measured 1.7 to 2 times faster on CPUs with AVX512-BF16.
    """

    seed: int = 2026
    cohort_seed: int = 11
    patients_per_site: int = 120
    external_patients: int = 60
    slice_spacing_mm: float = 3.0
    coverage_margin_mm: float = 12.0
    coverage_in_plane_mm: float | None = 15.0
    single_hip_every: int = 6
    size: tuple[int, int] = (72, 216)
    pixel_mm: float = 1.2
    window_center: float = 500.0
    window_width: float = 2000.0
    mean: float = 0.27
    std: float = 0.13
    positive_area_mm2: float = 40.0
    classifier: ClassifierShape = ClassifierShape()
    segmenter: SegmenterShape = SegmenterShape()
    part_columns: int = 12
    fit_classifier_parts: Fit = field(default_factory=lambda: Fit(epochs=28))
    fit_classifier: Fit = field(default_factory=lambda: Fit(epochs=10, learning_rate=8e-4))
    fit_segmenter: Fit = field(default_factory=lambda: Fit(epochs=28, batch_size=16))
    patch_loss_weight: float = 1.0
    classifier_negatives: float = 2.0
    segmenter_negatives: float = 0.5
    slice_sensitivity: float = 0.9891
    slice_specificity_floor: float = 0.8
    gate_sensitivity: float = 0.995
    gate_specificity_floor: float = 0.5
    patient_sensitivity: float = 0.95
    patient_specificity_floor: float = 0.8
    patient_k: tuple[int, ...] = (1, 2, 3, 5)
    mask_thresholds: tuple[float, ...] = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
    mask_dice_given_up: float = 0.01
    autocast: bool = True

    @property
    def coverage(self) -> Coverage:
        """What of the coronal stack the stages see, as the bundle states it."""
        return Coverage(margin_mm=self.coverage_margin_mm, in_plane_mm=self.coverage_in_plane_mm)

    @property
    def stage_input(self) -> StageInput:
        """The input of both stages, as the bundle states it."""
        return StageInput(
            size=self.size,
            windows=(Window(center=self.window_center, width=self.window_width),),
            mean=(self.mean,),
            std=(self.std,),
            min_pixel_spacing_mm=self.pixel_mm,
        )

    def as_dict(self) -> dict[str, Any]:
        """Everything, for ``recipe.json`` and the bundle's provenance."""
        return asdict(self)


def smoke_recipe() -> Recipe:
    """The same steps with networks and epochs so small that a test can run them; its figures mean nothing."""
    return Recipe(
        patients_per_site=6,
        external_patients=2,
        size=(48, 120),
        pixel_mm=2.5,
        slice_spacing_mm=6.0,
        classifier=ClassifierShape(hidden_size=24, layers=1, heads=2, mlp_ratio=2, patch_size=12),
        segmenter=SegmenterShape(embed_dim=8, depths=(2, 2), heads=(1, 2), window_size=5, hidden_size=8),
        part_columns=4,
        fit_classifier_parts=Fit(epochs=1, batch_size=8),
        fit_classifier=Fit(epochs=2, batch_size=8),
        fit_segmenter=Fit(epochs=2, batch_size=8),
        autocast=False,
    )
