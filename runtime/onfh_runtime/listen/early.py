"""Stage 1 on native coronal slices while the others are still on their way.

That is possible where nothing of a slice's input depends on the rest of its series: the slices are coronal as they are
stored, no thinner than the bundle's spacing, and the bundle lets the stages see them whole (``coverage.in_plane_mm`` is
null). With a box around the femoral heads, as in the demo bundle, the box is known only when the series is complete.
Rows run one at a time on a CPU, so an early answer is the late one bit for bit; what turns out to have been seen in
another way than the whole series shows it is thrown away.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onfh_runtime.bundle import Bundle
from onfh_runtime.dicom import Candidate, SourceImage
from onfh_runtime.dicom.check import DUPLICATE_MM
from onfh_runtime.dicom.geometry import order_along_normal, series_affine
from onfh_runtime.errors import OnfhError, SeriesError
from onfh_runtime.preprocess import CoronalPlan, coronal_stack, plan_coronal, stage_input
from onfh_runtime.stages import StageRunner
from onfh_runtime.volume import Volume, spacing_from_affine

__all__ = ["EarlyClassifier", "EarlyRows"]

View = tuple[Any, ...]
"""All of a series that a slice's input depends on: axes, flips, pixel spacing, padding."""


@dataclass
class EarlyRows:
    """The images of one series as they come in, those stage 1 has not seen, and what it said of the others, by file."""

    images: list[SourceImage] = field(default_factory=list)
    waiting: deque[SourceImage] = field(default_factory=deque)
    said: dict[Path, tuple[float, View]] = field(default_factory=dict)

    def add(self, image: SourceImage) -> None:
        """A further image, or a file's new one."""
        self.forget(image.path)
        self.images.append(image)
        self.waiting.append(image)

    def forget(self, path: Path) -> None:
        """A file that holds another image now."""
        self.images = [image for image in self.images if image.path != path]
        self.said.pop(path, None)


class EarlyClassifier:
    """Stage 1 for single slices; owns its runner.

    Args:
        runner: of the classifier, on a backend that runs rows one at a time.
        rules: of the bundle.
    """

    def __init__(self, runner: StageRunner, rules: Bundle) -> None:
        self._runner, self._rules = runner, rules

    def classify(self, rows: EarlyRows, image: SourceImage, pixels: NDArray[Any]) -> None:
        """Run stage 1 on an image of ``rows``, if it is a slice that the stages will see as it is.

        Args:
            rows: gets the answer.
            image: one of its images.
            pixels: (rows, columns) stored values of the image.
        """
        try:
            seen = self._seen(rows.images, image, pixels)
            if seen is not None:
                volume, plan = seen
                values = stage_input(coronal_stack(volume, plan), self._runner.spec.input)
                probability = float(self._runner.probabilities(values)[0])
                rows.said[image.path] = probability, _view(plan, volume.padding)
        except OnfhError:
            return  # whatever it is, the analysis of the whole series will say it

    def known(self, rows: EarlyRows, candidate: Candidate) -> dict[str, float]:
        """What was said of images that the whole series shows as they were seen, by SOP Instance UID."""
        if not rows.said:
            return {}
        try:
            images, _ = order_along_normal(candidate.images)
            form = images[0].form
            shape = (len(images), form.rows or 0, form.columns or 0)
            padding = next((image.form.padding for image in images if image.form.padding is not None), None)
            volume = _volume(np.broadcast_to(np.zeros((), np.int16), shape), series_affine(images), images, padding)
            plan = plan_coronal(volume, self._rules.slice_spacing_mm)
        except SeriesError:
            return {}
        if not plan.native or plan.tilted:
            return {}
        view = _view(plan, padding)
        said = ((image.sop_instance_uid, rows.said.get(image.path)) for image in images)
        return {uid: answer[0] for uid, answer in said if answer is not None and answer[1] == view}

    def close(self) -> None:
        """Release the runner."""
        self._runner.close()

    def _seen(
        self, images: list[SourceImage], image: SourceImage, pixels: NDArray[Any]
    ) -> tuple[Volume, CoronalPlan] | None:
        """A volume of this one slice with the axes of its series, and its plan; None when slices are not seen whole."""
        ordered, along = order_along_normal(images)
        gaps = np.diff(along)
        if not len(gaps) or gaps.min() < DUPLICATE_MM:
            return None
        nearest = int(gaps.argmin())
        affine = series_affine(ordered[nearest : nearest + 2])
        volume = _volume(pixels[None], affine, [image], image.form.padding)
        plan = plan_coronal(volume, self._rules.slice_spacing_mm)
        return (volume, plan) if plan.native else None


def _volume(
    voxels: NDArray[Any],
    affine: NDArray[np.float64],
    images: list[SourceImage] | tuple[SourceImage, ...],
    padding: tuple[int, int] | None,
) -> Volume:
    slope = np.array([image.form.slope for image in images], np.float64)
    intercept = np.array([image.form.intercept for image in images], np.float64)
    return Volume(voxels, affine, slope, intercept, padding)


def _view(plan: CoronalPlan, padding: tuple[int, int] | None) -> View:
    return plan.axes, plan.flips, spacing_from_affine(plan.affine)[1:], padding
