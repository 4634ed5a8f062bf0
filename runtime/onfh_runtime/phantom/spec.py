"""What a phantom patient is: every number that rendering needs, drawn from one seed.

The hip frame has its origin at the centre of the femoral head: p points away from the midline (lateral), q to the back
and r to the head, in mm. It is the same for both sides, so anatomy is written once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

__all__ = ["SCANNERS", "SIDES", "Confounder", "Hip", "Lesion", "PhantomSpec", "Scanner", "Side", "random_spec"]

Side = Literal["right", "left"]
FieldOfView = Literal["both", "right", "left"]
Implant = Literal["none", "right", "left"]
Confounder = Literal[
    "osteoarthritis", "bone_island", "insufficiency_fracture", "transient_osteoporosis", "herniation_pit", "scar"
]
SIDES: tuple[Side, Side] = ("right", "left")

POSITIVE_SHARE = 0.5
"""Share of patients with at least one lesion when the caller does not say."""
BILATERAL_SHARE = 0.55
"""Share of positive patients with both sides affected."""
IMPLANT_SHARE = 0.05
HIDDEN_SHARE = 0.05
"""Share of lesions that are nearly invisible: as in life, CT does not show every necrosis."""


@dataclass(frozen=True)
class Scanner:
    """How one scanner turns tissue into an image.

    Attributes:
        name: its key in :data:`SCANNERS`.
        noise_sd_hu: noise of a voxel of 1 mm3.
        kernel_fwhm_mm: width of the noise grain.
        sharp: a bone kernel, whose noise has no low frequencies.
        blur_fwhm_mm: resolution in all directions.
        hu_offset: calibration drift, HU.
        hu_gain: calibration drift, factor on HU.
        pixel_spacing_mm: pixel of an axial image that holds both hips in 512 columns.
        slice_spacing_mm: distance of axial slices.
        coronal_spacing_mm: pixel of a native coronal image.
        kernel: ConvolutionKernel written to the header.
        kvp: tube voltage written to the header.
    """

    name: str
    noise_sd_hu: float
    kernel_fwhm_mm: float
    sharp: bool
    blur_fwhm_mm: float
    hu_offset: float
    hu_gain: float
    pixel_spacing_mm: float
    slice_spacing_mm: float
    coronal_spacing_mm: float
    kernel: str
    kvp: float


SCANNERS: dict[str, Scanner] = {
    "site_a": Scanner("site_a", 26.0, 1.1, False, 1.0, 0.0, 1.000, 0.75, 1.50, 1.00, "B60s", 120.0),
    "site_b": Scanner("site_b", 44.0, 0.9, True, 0.8, 6.0, 1.010, 0.72, 1.25, 0.92, "BONE", 120.0),
    "site_c": Scanner("site_c", 20.0, 1.5, False, 1.3, -8.0, 0.985, 0.78, 1.50, 1.08, "FC30", 120.0),
    "external": Scanner("external", 52.0, 1.0, True, 1.1, 12.0, 0.970, 0.70, 1.00, 0.98, "YC", 140.0),
}
"""Three internal sites and an external one that differs from all of them."""


@dataclass(frozen=True)
class Lesion:
    """One osteonecrosis.

    Attributes:
        fraction: volume over that of the head sphere, before the boundary is made serpiginous.
        direction: unit vector (p, q, r) from the head centre to the lesion.
        depth: distance of the lesion's centre from the head centre, in head radii.
        waviness_mm: amplitude of the serpiginous boundary.
        rim_hu: what the sclerotic rim adds.
        rim_width_mm: thickness of the rim.
        rim_gaps: 0 for a complete rim, 1 for none.
        mottle_hu: SD of the texture inside.
        resorption_hu: what the zone inside the rim loses.
        crescent_hu: HU of the subchondral fracture, or None.
        collapse_mm: flattening of the head.
        cysts: number of cysts inside.
    """

    fraction: float
    direction: tuple[float, float, float]
    depth: float
    waviness_mm: float
    rim_hu: float
    rim_width_mm: float
    rim_gaps: float
    mottle_hu: float
    resorption_hu: float
    crescent_hu: float | None
    collapse_mm: float
    cysts: int


@dataclass(frozen=True)
class Hip:
    """One hip: centre in LPS mm, sizes in mm, angles in degrees, densities in HU."""

    side: Side
    centre: tuple[float, float, float]
    head_radius: float
    neck_radius: float
    neck_length: float
    neck_shaft_deg: float
    version_deg: float
    joint_space: float
    cortex_mm: float
    cortex_hu: float
    cancellous_hu: float
    trabecular_hu: float
    scar_hu: float
    confounders: tuple[Confounder, ...]
    lesion: Lesion | None

    @property
    def sign(self) -> float:
        """+1 for the left hip, whose lateral direction is +x, and -1 for the right."""
        return 1.0 if self.side == "left" else -1.0


@dataclass(frozen=True)
class PhantomSpec:
    """One patient on one scanner.

    Attributes:
        seed: names the patient; every random field derives from it.
        sex: "M" or "F".
        midline_mm: x of the patient's midline; the isocentre is not the midline.
        right: the right hip.
        left: the left hip.
        implant: which femur holds metal.
        scanner: what images it.
        field_of_view: both hips, or one.
        fat_mm: thickness of subcutaneous fat.
        half_width_mm: half the width of the body at the hips.
        half_depth_mm: half its depth.
    """

    seed: int
    sex: Literal["M", "F"]
    midline_mm: float
    right: Hip
    left: Hip
    implant: Implant
    scanner: Scanner
    field_of_view: FieldOfView
    fat_mm: float
    half_width_mm: float
    half_depth_mm: float

    @property
    def hips(self) -> tuple[Hip, Hip]:
        """Right, left."""
        return self.right, self.left

    def hip(self, side: Side) -> Hip:
        """The hip of one side."""
        return self.right if side == "right" else self.left

    @property
    def lesions(self) -> dict[Side, Lesion | None]:
        """The lesion of each side."""
        return {"right": self.right.lesion, "left": self.left.lesion}

    @property
    def positive(self) -> bool:
        """Whether any side has a lesion."""
        return any(hip.lesion is not None for hip in self.hips)

    @property
    def centre(self) -> tuple[float, float, float]:
        """Middle between the heads at the midline, LPS mm."""
        a, b = self.right.centre, self.left.centre
        return self.midline_mm, (a[1] + b[1]) / 2, (a[2] + b[2]) / 2


def _lesion(rng: np.random.Generator) -> Lesion:
    direction = np.array([rng.normal(0.15, 0.25), rng.normal(-0.55, 0.25), rng.uniform(0.65, 1.0)])
    direction /= np.linalg.norm(direction)
    fraction = float(np.clip(rng.beta(1.7, 2.2) * 0.38, 0.03, 0.38))
    late = rng.random() < 0.4
    strength = rng.uniform(0.6, 1.0) if rng.random() > HIDDEN_SHARE else rng.uniform(0.1, 0.25)
    return Lesion(
        fraction=fraction,
        direction=(float(direction[0]), float(direction[1]), float(direction[2])),
        depth=float(rng.uniform(0.7, 1.0)),
        waviness_mm=float(rng.uniform(1.2, 3.0)),
        rim_hu=float(strength * rng.uniform(280, 600)),
        rim_width_mm=float(rng.uniform(2.0, 4.0)),
        rim_gaps=float(rng.uniform(0.0, 0.35)),
        mottle_hu=float(strength * rng.uniform(60, 150)),
        resorption_hu=float(strength * rng.uniform(0, 180)),
        crescent_hu=float(rng.uniform(-150, 60)) if late and rng.random() < 0.8 else None,
        collapse_mm=float(rng.uniform(0.8, 4.0)) if late and rng.random() < 0.65 else 0.0,
        cysts=int(rng.integers(1, 4)) if late and rng.random() < 0.5 else 0,
    )


def _confounders(rng: np.random.Generator) -> tuple[Confounder, ...]:
    chances: dict[Confounder, float] = {
        "osteoarthritis": 0.28,
        "bone_island": 0.20,
        "insufficiency_fracture": 0.12,
        "transient_osteoporosis": 0.08,
        "herniation_pit": 0.18,
        "scar": 0.35,
    }
    return tuple(name for name, chance in chances.items() if rng.random() < chance)


def random_spec(
    seed: int,
    *,
    scanner: str | Scanner = "site_a",
    lesions: Literal["none", "right", "left", "both"] | None = None,
    implant: Implant | None = None,
    field_of_view: FieldOfView = "both",
) -> PhantomSpec:
    """Draw a patient; the same arguments give the same patient.

    Args:
        seed: names the patient.
        scanner: a key of :data:`SCANNERS`, or a scanner.
        lesions: which sides are affected; None draws it, about half of the patients being negative.
        implant: which side holds metal; None draws it, and never hides a drawn lesion under it.
        field_of_view: both hips, or one of them.

    Raises:
        KeyError: no scanner has that name.
    """
    rng = np.random.default_rng([seed, 1])
    sex: Literal["M", "F"] = "M" if rng.random() < 0.6 else "F"
    male = sex == "M"
    radius = rng.normal(24.5, 1.7) if male else rng.normal(21.9, 1.1)
    half_gap = rng.normal(89, 4) if male else rng.normal(86, 4)
    midline, y, z = rng.uniform(-8, 8), rng.uniform(-12, 8), rng.uniform(-420, -300)
    density = float(np.clip(rng.normal(250, 65), 110, 400))
    angle, version, space = rng.normal(129, 4), rng.normal(10, 4), rng.normal(4.2, 0.9)
    cortex_hu, cortex_mm = rng.uniform(650, 1000), rng.uniform(1.5, 2.6)
    trabecular = rng.uniform(25, 60)
    scar = rng.uniform(0, 120)
    drawn = "none"
    if rng.random() < POSITIVE_SHARE:
        drawn = "both" if rng.random() < BILATERAL_SHARE else str(rng.choice(["right", "left"]))
    affected = drawn if lesions is None else lesions
    metal: Implant = "none"
    if rng.random() < IMPLANT_SHARE:
        metal = "right" if rng.random() < 0.5 else "left"
        if lesions is None and affected in (metal, "both"):
            metal = "none"
    tilt_y, tilt_z = rng.normal(0, 1.5), rng.normal(0, 2.0)

    def hip(side: Side) -> Hip:
        own = np.random.default_rng([seed, 2 if side == "right" else 3])
        sign = 1.0 if side == "left" else -1.0
        lesion = _lesion(own)
        has = affected in (side, "both")
        confounders = _confounders(own)
        worn = 0.6 if "osteoarthritis" in confounders else 1.0
        return Hip(
            side=side,
            centre=(
                float(midline + sign * (half_gap + own.normal(0, 1))),
                float(y + sign * tilt_y + own.normal(0, 0.5)),
                float(z + sign * tilt_z + own.normal(0, 0.5)),
            ),
            head_radius=float(np.clip(radius + own.normal(0, 0.3), 19.0, 28.5)),
            neck_radius=float((16.0 if male else 14.0) * np.clip(own.normal(1, 0.05), 0.85, 1.15)),
            neck_length=float(own.normal(2.1, 0.1) * radius),
            neck_shaft_deg=float(np.clip(angle + own.normal(0, 1.0), 117, 142)),
            version_deg=float(version + own.normal(0, 1.5)),
            joint_space=float(np.clip(worn * (space + own.normal(0, 0.2)), 1.6, 6.5)),
            cortex_mm=float(cortex_mm),
            cortex_hu=float(cortex_hu),
            cancellous_hu=float(density * own.normal(1, 0.04)),
            trabecular_hu=float(trabecular),
            scar_hu=float(scar),
            confounders=confounders,
            lesion=lesion if has else None,
        )

    return PhantomSpec(
        seed=seed,
        sex=sex,
        midline_mm=float(midline),
        right=hip("right"),
        left=hip("left"),
        implant=metal if implant is None else implant,
        scanner=SCANNERS[scanner] if isinstance(scanner, str) else replace(scanner),
        field_of_view=field_of_view,
        fat_mm=float(rng.uniform(10, 32)),
        half_width_mm=float(rng.uniform(165, 195)),
        half_depth_mm=float(rng.uniform(98, 125)),
    )
