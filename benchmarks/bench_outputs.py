"""What is written of one study that has a mask: the parts, and all of them with their files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from suite_cases import analysed, candidate_of

from onfh_runtime.analysis import Analysis, Images
from onfh_runtime.bundle import LoadedBundle
from onfh_runtime.outputs.html_report import html_from_result
from onfh_runtime.outputs.secondary_capture import captures_from_mask
from onfh_runtime.outputs.seg import seg_from_mask
from onfh_runtime.outputs.series_folder import to_json, write_series
from onfh_runtime.outputs.sr import sr_from_result
from onfh_runtime.pipeline import Pipeline

DOES_NOT_MEASURE = (
    "imports of highdicom and Pillow, which the first study of a process pays",
    "slow disks: files go to the temporary folder",
)


@pytest.fixture(scope="module")
def bundle(opened: Callable[[str], LoadedBundle]) -> LoadedBundle:
    """The demo bundle."""
    return opened("demo")


@pytest.fixture(scope="module")
def analysis(axial: Path, bundle: LoadedBundle) -> Analysis:
    """A study that the demo bundle outlines."""
    with Pipeline(bundle, backend="onnxruntime") as pipeline:
        (done,) = analysed(pipeline, candidate_of(axial), 1)
    assert images_of(done).volume_mask.any()
    return done.replace(preferred=True)


def images_of(analysis: Analysis) -> Images:
    """The pixels behind the answer."""
    assert analysis.images is not None
    return analysis.images


def test_seg(benchmark: Any, analysis: Analysis, bundle: LoadedBundle) -> None:
    """DICOM SEG."""
    images = images_of(analysis)
    made = benchmark(
        seg_from_mask,
        images.volume_mask,
        images.volume,
        images.sources,
        result=analysis.result,
        bundle=bundle.content,
    )
    benchmark.extra_info["frames"] = int(made.NumberOfFrames)


def test_sr(benchmark: Any, analysis: Analysis, bundle: LoadedBundle) -> None:
    """DICOM SR."""
    images = images_of(analysis)
    benchmark(sr_from_result, analysis.result, images.sources, seg=None, bundle=bundle.content)
    benchmark.extra_info["images"] = len(images.sources)


def test_report(benchmark: Any, analysis: Analysis, bundle: LoadedBundle) -> None:
    """The page."""
    images = images_of(analysis)
    page = benchmark(
        html_from_result, analysis.result, stack=images.stack, mask=images.mask, bundle=bundle.content, description=""
    )
    benchmark.extra_info |= {"slices": len(images.stack.hu), "kb": len(page) / 1e3}


def test_secondary_capture(benchmark: Any, analysis: Analysis, bundle: LoadedBundle) -> None:
    """Pictures with the outline burnt in; only on request."""
    images = images_of(analysis)
    made = benchmark(
        lambda: list(
            captures_from_mask(
                images.volume_mask, images.volume, images.sources, result=analysis.result, bundle=bundle.content
            )
        )
    )
    benchmark.extra_info["pictures"] = len(made)


def test_result_json(benchmark: Any, analysis: Analysis) -> None:
    """result.json, in memory."""
    benchmark.extra_info["kb"] = len(benchmark(to_json, analysis.result)) / 1e3


def test_everything_written(benchmark: Any, analysis: Analysis, bundle: LoadedBundle, tmp_path: Path) -> None:
    """SEG, SR, page and result.json, flushed to disk."""
    benchmark(write_series, tmp_path, analysis, bundle)
    benchmark.extra_info["kb"] = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) / 1e3
