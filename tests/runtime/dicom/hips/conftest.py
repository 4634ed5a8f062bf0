"""The phantom as a DICOM series in any geometry and with any fault, for a test to write, read and analyse."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import DeflatedExplicitVRLittleEndian, EnhancedCTImageStorage, ExplicitVRLittleEndian

ROOT = "1.2.826.0.1.3680043.10.999"


@dataclass
class Hip:
    """A phantom of both hips, rendered once: HU as stored, and where they are.

    Attributes:
        hu: (slices, rows, columns) int16.
        affine: (4, 4), array indices to LPS mm.
        truth: (slices, rows, columns) uint8, the lesion.
        header: what its images say of patient, study and scanner.
        save: writes one object to a path in a transfer syntax.
    """

    hu: NDArray[np.int16]
    affine: NDArray[np.float64]
    truth: NDArray[np.uint8]
    header: Dataset
    save: Callable[..., None]

    def at(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """HU at (..., 3) LPS points, linear between voxels, air outside."""
        from scipy.ndimage import map_coordinates

        inverse = np.linalg.inv(self.affine)
        index = np.moveaxis(points @ inverse[:3, :3].T + inverse[:3, 3], -1, 0)
        hu = self.hu.astype(np.float64)
        found: NDArray[np.float64] = map_coordinates(hu, index, order=1, cval=-1000.0, mode="grid-constant")
        return found

    def centre_mm(self) -> NDArray[np.float64]:
        """The middle of the volume."""
        middle: NDArray[np.float64] = self.affine @ [*((n - 1) / 2 for n in self.hu.shape), 1]
        return middle[:3]

    def series(self, middle: int | None = None) -> Series:
        """The axial slices as they are; ``middle`` keeps so many of them."""
        first = 0 if middle is None else (len(self.hu) - middle) // 2
        affine = self.affine.copy()
        affine[:3, 3] += first * affine[:3, 0]
        return self._series(self.hu[first : len(self.hu) - first], affine)

    def oriented(self, row: Sequence[float], column: Sequence[float], *, against_normal: bool = False) -> Series:
        """The same voxels in images whose rows run along ``row`` and columns along ``column`` (patient axes).

        ``against_normal`` numbers the images against row x column.
        """
        normal = np.cross(row, column) * (-1 if against_normal else 1)
        directions = self.affine[:3, :3] / np.linalg.norm(self.affine[:3, :3], axis=0)
        agreement = np.array([normal, column, row]) @ directions
        axes = np.abs(agreement).argmax(axis=1)
        hu, affine = np.transpose(self.hu, axes), self.affine.copy()
        affine[:3, :3] = self.affine[:3, axes]
        for axis in range(3):
            if agreement[axis, axes[axis]] < 0:
                hu = np.flip(hu, axis)
                affine[:3, 3] += affine[:3, axis] * (hu.shape[axis] - 1)
                affine[:3, axis] *= -1
        return self._series(hu, affine)

    def resampled(
        self, step: Sequence[float], column: Sequence[float], row: Sequence[float], shape: tuple[int, int, int]
    ) -> Series:
        """Images on any grid around the middle: mm from slice to slice, from row to row, from column to column."""
        affine = np.eye(4)
        affine[:3, :3] = np.array([step, column, row]).T
        affine[:3, 3] = self.centre_mm() - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
        points = np.stack(np.indices(shape), -1) @ affine[:3, :3].T + affine[:3, 3]
        return self._series(np.rint(self.at(points)).astype(np.int16), affine)

    def tilted(self, degrees: float, *, slices: int = 60, upwards: bool = True) -> Series:
        """Axial slices of a gantry tilted by so much; the table still moves along the body."""
        angle = np.radians(degrees)
        down = self.affine[1, 1] * np.array([0.0, np.cos(angle), -np.sin(angle)])
        step = self.affine[:3, 0] * (1 if upwards else -1)
        return self.resampled(step, down, self.affine[:3, 2], (slices, *self.hu.shape[1:]))

    def oblique_coronal(self, degrees: float) -> Series:
        """Coronal slices of 3 mm turned about the left-right axis."""
        angle = np.radians(degrees)
        step, down = np.array([0, np.cos(angle), np.sin(angle)]), np.array([0, np.sin(angle), -np.cos(angle)])
        return self.resampled(3.0 * step, 1.5 * down, self.affine[:3, 2], (60, 90, self.hu.shape[2]))

    def _series(self, hu: NDArray[np.int16], affine: NDArray[np.float64]) -> Series:
        spacing = np.linalg.norm(affine[:3, :3], axis=0)
        images = []
        for index, pixels in enumerate(hu):
            ds = copy.deepcopy(self.header)
            ds.SOPInstanceUID = f"{ROOT}.5.{index + 1}"
            ds.InstanceNumber = index + 1
            ds.ImagePositionPatient = [round(float(x), 5) for x in affine[:3, 3] + index * affine[:3, 0]]
            cosines = (affine[:3, [2, 1]] / spacing[[2, 1]]).T.ravel()
            ds.ImageOrientationPatient = [round(float(x), 9) for x in cosines]
            ds.PixelSpacing = [round(float(x), 6) for x in spacing[1:]]
            ds.Rows, ds.Columns = pixels.shape
            ds.PixelData = (pixels.astype("<i2") + 1024).tobytes()
            images.append(ds)
        return Series(self, affine, images)


@dataclass
class Series:
    """Images of the phantom, in memory, for a test to change before they are written. Changes return the series.

    ``planted`` are (LPS box low, LPS box high, HU): what was written over the phantom.
    """

    hip: Hip
    affine: NDArray[np.float64]
    images: list[Dataset]
    planted: list[tuple[NDArray[np.float64], NDArray[np.float64], float]] = field(default_factory=list)

    def each(self, change: Callable[[int, Dataset], object]) -> Series:
        for index, ds in enumerate(self.images):
            change(index, ds)
        return self

    def put(self, only: int | None = None, **attributes: object) -> Series:
        """Set attributes of every image, or only of one; None takes an attribute away."""
        for ds in self.images if only is None else [self.images[only]]:
            for keyword, value in attributes.items():
                if value is not None:
                    setattr(ds, keyword, value)
                elif keyword in ds:
                    delattr(ds, keyword)
        return self

    def move(self, only: int, x: float = 0.0, y: float = 0.0, z: float = 0.0) -> Series:
        ds = self.images[only]
        old = ds.ImagePositionPatient
        ds.ImagePositionPatient = [round(float(a) + b, 5) for a, b in zip(old, (x, y, z), strict=True)]
        return self

    def without(self, *indices: int) -> Series:
        self.images = [ds for index, ds in enumerate(self.images) if index not in indices]
        return self

    def again(self, *indices: int, **attributes: object) -> Series:
        """Add copies of some images (of all when none is named), changed, under UIDs of their own."""
        copies = [copy.deepcopy(self.images[index]) for index in indices or range(len(self.images))]
        for ds in copies:
            ds.SOPInstanceUID += ".9"
        self.images += Series(self.hip, self.affine, copies).put(**attributes).images
        return self

    def store(self, encode: Callable[[int, NDArray[np.float64]], NDArray[np.number]], dtype: str = "<i2") -> Series:
        """Store the pixels anew: ``encode(index, HU)`` gives the stored values of one image."""

        def change(index: int, ds: Dataset) -> None:
            hu = np.frombuffer(ds.PixelData, "<i2").reshape(ds.Rows, ds.Columns).astype(float) - 1024
            ds.PixelData = encode(index, hu).astype(dtype).tobytes()

        return self.each(change)

    def plant(self, value: float, rows: slice, columns: slice) -> Series:
        """A block of one HU value through every image; stored values must still be HU + 1024 in 16 bits."""

        def change(index: int, ds: Dataset) -> None:
            pixels = np.frombuffer(ds.PixelData, "<i2").reshape(ds.Rows, ds.Columns).copy()
            pixels[rows, columns] = value + 1024
            ds.PixelData = pixels.tobytes()

        corners = [[0, rows.start, columns.start], [len(self.images) - 1, rows.stop - 1, columns.stop - 1]]
        ends = np.array(corners) @ self.affine[:3, :3].T + self.affine[:3, 3]
        self.planted.append((ends.min(axis=0) - 0.01, ends.max(axis=0) + 0.01, value))
        return self.each(change)

    def shifted_each(self, **step):
        """Every image a little farther than the one before."""
        for index in range(len(self.images)):
            self.move(index, **{axis: index * mm for axis, mm in step.items()})
        return self

    def two_kernels(self, first="B60s", second="B20s"):
        """A second reconstruction, image by image between those of the first, under the same series UID."""
        self.put(ConvolutionKernel=first).again(ConvolutionKernel=second)
        self.images.sort(key=lambda ds: float(ds.ImagePositionPatient[2]))
        return self.each(lambda index, ds: setattr(ds, "InstanceNumber", index + 1))

    def other_slopes(self):
        self.store(lambda index, hu: hu + 1024 if index % 2 else np.rint((hu + 1100) / 0.5))

        def change(index, ds):
            ds.RescaleSlope, ds.RescaleIntercept = (1, -1024) if index % 2 else (0.5, -1100)

        return self.each(change)

    def padded(self, vr, value, stored=-2000):
        """Rows that were never measured, as scanners leave outside their round field of view: air, not -3024 HU."""
        self.plant(-1000, slice(0, 10), slice(0, 160))

        def change(index, ds):
            pixels = np.frombuffer(ds.PixelData, "<u2").reshape(ds.Rows, ds.Columns).copy()
            pixels[:10] = stored & 0xFFFF
            ds.PixelData = pixels.tobytes()
            ds.add_new("PixelPaddingValue", vr, value)

        return self.each(change)

    def unsigned(self):
        return self.put(PixelRepresentation=0)

    def twelve_bits(self, above=0):
        """12 bits stored in 16 with ``above`` in the other four; metal of 9,000 HU through a slope of 3."""
        self.plant(9002, slice(60, 64), slice(30, 40))
        self.put(BitsStored=12, HighBit=11, PixelRepresentation=0, RescaleSlope=3, RescaleIntercept=-1024)
        return self.store(lambda index, hu: np.rint((hu + 1024) / 3).clip(0, 4095).astype(int) | above << 12, "<u2")

    def metal(self):
        """Stored values up to the end of 16 bits, which the intercept takes beyond it: 34,000 HU."""
        self.plant(31000, slice(60, 64), slice(30, 40)).put(RescaleIntercept=1768)
        self.planted = [(low, high, 34000.0) for low, high, _ in self.planted]
        return self.store(lambda index, hu: np.where(hu == 31000, 34000, hu) - 1768)

    def without_a_place(self, **attributes):
        """The first image as no slice of the patient."""
        return self.put(only=0, ImagePositionPatient=None, ImageOrientationPatient=None, **attributes)

    def chest(self):
        """Two lungs in soft tissue."""

        def body(index, hu):
            r, c = np.indices(hu.shape)
            tissue = np.where(((r - 64) / 50) ** 2 + ((c - 80) / 70) ** 2 < 1, 40.0, -1000.0)
            lungs = ((r - 64) / 34) ** 2 + ((abs(c - 80) - 34) / 24) ** 2 < 1
            return np.where(lungs, -850, tissue) + 1024

        return self.store(body)

    def enhanced(self) -> Series:
        """All images as the frames of one Enhanced CT object, the last one first."""
        one, frames = copy.deepcopy(self.images[0]), self.images[::-1]
        one.SOPClassUID, one.NumberOfFrames = EnhancedCTImageStorage, len(frames)
        one.PixelData = b"".join(ds.PixelData for ds in frames)
        once = {
            "PixelMeasuresSequence": ("PixelSpacing", "SliceThickness"),
            "PlaneOrientationSequence": ("ImageOrientationPatient",),
            "PixelValueTransformationSequence": ("RescaleIntercept", "RescaleSlope", "RescaleType"),
        }
        shared = Dataset()
        for group, keywords in once.items():
            setattr(shared, group, [_item({keyword: one[keyword].value for keyword in keywords})])
            for keyword in keywords:
                delattr(one, keyword)
        del one.ImagePositionPatient
        one.SharedFunctionalGroupsSequence = [shared]
        places = [_item({"ImagePositionPatient": ds.ImagePositionPatient}) for ds in frames]
        one.PerFrameFunctionalGroupsSequence = [_item({"PlanePositionSequence": [place]}) for place in places]
        self.images = [one]
        return self

    def expected(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """HU at (n, 3) LPS points."""
        hu = self.hip.at(points)
        for low, high, value in self.planted:
            hu[((points >= low) & (points <= high)).all(axis=1)] = value
        return hu

    def write(self, folder: Path, syntax: str = ExplicitVRLittleEndian) -> Files:
        """Write the images, in files whose order is neither that of positions nor of instances."""
        for index, ds in enumerate(self.images):
            self.hip.save(copy.deepcopy(ds), folder / f"{(index * 7) % 11:02}-{index:03}.dcm", syntax)
        return Files(folder)


def _item(attributes: dict[str, object]) -> Dataset:
    ds = Dataset()
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    return ds


@dataclass(frozen=True)
class Files:
    """What was written, for a test to damage."""

    folder: Path

    @property
    def paths(self) -> list[Path]:
        return sorted(self.folder.iterdir())

    def cut(self, keep: float) -> None:
        """End one file after this share of its pixel data."""
        path = self.paths[3]
        raw = path.read_bytes()
        start = dcmread(path)["PixelData"].file_tell or 0
        path.write_bytes(raw[: start + int((len(raw) - start) * keep)])

    def twice(self) -> None:
        """A copy of one file."""
        (self.folder / "again.dcm").write_bytes(self.paths[3].read_bytes())

    def deflate(self) -> None:
        for path in self.paths:
            ds = dcmread(path)
            ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
            ds.save_as(path, implicit_vr=False, little_endian=True)

    def compress(self, syntax: str, codec: str, **options: object) -> None:
        """Encode every file with imagecodecs."""
        encode = getattr(pytest.importorskip("imagecodecs"), codec)
        for path in self.paths:
            ds = dcmread(path)
            pixels = np.frombuffer(ds.PixelData, "<u2").reshape(ds.Rows, ds.Columns)
            ds.PixelData = encapsulate([encode(pixels, **options)])
            ds.file_meta.TransferSyntaxUID = syntax
            ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True
            ds.save_as(path)

    def call(self, syntax: str, *, implicit: bool = False) -> None:
        """Give every file another transfer syntax, without touching its pixels."""
        for path in self.paths:
            ds = dcmread(path)
            ds.file_meta.TransferSyntaxUID = syntax
            ds.save_as(path, implicit_vr=implicit, little_endian=True)

    def empty_sop_class(self) -> None:
        """Empty the SOP Class UID in the files themselves: no writer lets that pass."""
        for path in self.paths:
            raw = bytearray(path.read_bytes())
            at = raw.index(b"\x08\x00\x16\x00UI") + 8
            raw[at : at + 26] = bytes(26)
            path.write_bytes(raw)


@pytest.fixture(scope="session")
def hip(tmp_path_factory: pytest.TempPathFactory, write_object: Callable[..., None]) -> Hip:
    """A patient with a lesion of the right head; pixels of 3.0 x 2.4 mm, slices of 1.5 mm. Do not change it."""
    from onfh_runtime.phantom import axial_grid, random_spec, render, write_series

    spec = random_spec(7, scanner="site_a", lesions="right", implant="none")
    phantom = render(spec, axial_grid(spec, slices=90, rows=128, columns=160))
    header = dcmread(write_series(render(spec, axial_grid(spec, 1, 8, 8)), tmp_path_factory.mktemp("header"))[0])
    hu = np.clip(np.rint(phantom.hu), -1024, 3000).astype(np.int16)
    del header.PixelData
    header.StudyInstanceUID, header.SeriesInstanceUID = f"{ROOT}.6", f"{ROOT}.7"
    return Hip(hu, phantom.grid.affine, phantom.truth, Dataset(header), write_object)
