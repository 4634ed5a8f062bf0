import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pydicom
import pytest

from onfh_runtime.phantom.anatomy import Phantom, render
from onfh_runtime.phantom.series import write_series
from onfh_runtime.phantom.spec import random_spec
from onfh_runtime.phantom.stack import axial_grid, coronal_from
from onfh_runtime.phantom.truth import LABEL_MIN_AREA_MM2, write_truth


@pytest.fixture(scope="module")
def axial() -> Phantom:
    spec = random_spec(17, scanner="site_b", lesions="right", implant="left")
    return render(spec, axial_grid(spec, 16, 128, 160))


@pytest.fixture(scope="module")
def coronal(axial: Phantom) -> Phantom:
    return coronal_from(axial)


@pytest.mark.parametrize("plane", ["axial", "coronal"])
def test_what_is_written_is_read_back(tmp_path: Path, axial: Phantom, coronal: Phantom, plane: str) -> None:
    phantom = axial if plane == "axial" else coronal
    paths = write_series(phantom, tmp_path, plane=plane)  # type: ignore[arg-type]
    assert len(paths) == len(phantom.hu)
    images = [pydicom.dcmread(path) for path in paths]
    for k in (0, len(images) - 1):
        ds = images[k]
        hu = ds.pixel_array.astype(np.float64) * ds.RescaleSlope + ds.RescaleIntercept
        np.testing.assert_allclose(hu, np.maximum(phantom.hu[k], -1024), atol=0.51)
        np.testing.assert_allclose(ds.ImagePositionPatient, (phantom.affine @ [k, 0, 0, 1])[:3], atol=1e-4)
        across, down = np.array(ds.ImageOrientationPatient[:3]), np.array(ds.ImageOrientationPatient[3:])
        np.testing.assert_allclose(across * ds.PixelSpacing[1], phantom.affine[:3, 2], atol=1e-4)
        np.testing.assert_allclose(down * ds.PixelSpacing[0], phantom.affine[:3, 1], atol=1e-4)
    assert len({ds.SOPInstanceUID for ds in images}) == len(images)
    assert len({ds.SeriesInstanceUID for ds in images}) == 1


def test_metal_survives_sixteen_bits(tmp_path: Path, axial: Phantom) -> None:
    assert axial.hu.max() > 3071
    paths = write_series(axial, tmp_path)
    top = max(int(pydicom.dcmread(path).pixel_array.max()) for path in paths)
    assert top - 1024 == pytest.approx(axial.hu.max(), abs=0.51)


def test_series_of_a_patient_share_study_and_frame(tmp_path: Path, axial: Phantom, coronal: Phantom) -> None:
    one = pydicom.dcmread(write_series(axial, tmp_path / "a", series_number=2)[0])
    two = pydicom.dcmread(write_series(coronal, tmp_path / "c", series_number=3)[0])
    assert one.StudyInstanceUID == two.StudyInstanceUID
    assert one.FrameOfReferenceUID == two.FrameOfReferenceUID
    assert one.SeriesInstanceUID != two.SeriesInstanceUID
    assert one.SOPInstanceUID != two.SOPInstanceUID
    assert list(one.ImageType) == ["ORIGINAL", "PRIMARY", "AXIAL"]
    assert list(two.ImageType) == ["DERIVED", "SECONDARY", "MPR"]
    assert two.ImagePositionPatient[1] < one.ImagePositionPatient[1] + 3


def test_files_are_the_same_bytes_every_time(tmp_path: Path, coronal: Phantom) -> None:
    first, second = write_series(coronal, tmp_path / "1"), write_series(coronal, tmp_path / "2")
    assert [p.read_bytes() for p in first[:3]] == [p.read_bytes() for p in second[:3]]


def test_the_plane_must_be_the_phantoms(tmp_path: Path, axial: Phantom) -> None:
    with pytest.raises(ValueError, match="coronal_from"):
        write_series(axial, tmp_path, plane="coronal")


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy (dicom3tools) is not installed")
@pytest.mark.parametrize("field", ["both", "right"])
def test_dciodvfy_finds_no_error(tmp_path: Path, field: str) -> None:
    spec = random_spec(5, field_of_view=field)  # type: ignore[arg-type]
    axial = render(spec, axial_grid(spec, 4, 64, 64))
    paths = write_series(axial, tmp_path / "a")[:1] + write_series(coronal_from(axial), tmp_path / "c")[:1]
    for path in paths:
        found = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, check=False)
        report = (found.stdout + found.stderr).splitlines()
        assert any("CTImage" in line for line in report)
        assert not [line for line in report if line.startswith("Error")]


def test_truth_is_written_beside_the_images(tmp_path: Path, coronal: Phantom) -> None:
    path = write_truth(coronal, tmp_path)
    with np.load(path) as stored:
        np.testing.assert_array_equal(stored["mask"], coronal.truth)
        assert stored["mask"].dtype == np.uint8
        np.testing.assert_array_equal(stored["affine"], coronal.affine)
    truth = json.loads((tmp_path / "truth.json").read_text())
    assert truth["patient_positive"] is True
    assert truth["sides"] == {"right": True, "left": False}
    voxel = float(np.prod(coronal.grid.spacing))
    assert truth["lesion_volume_mm3"]["right"] == pytest.approx((coronal.truth == 1).sum() * voxel, rel=1e-4)
    assert truth["lesion_volume_mm3"]["left"] == 0
    assert len(truth["slices"]) == len(coronal.hu)
    for k, entry in enumerate(truth["slices"]):
        assert entry["label"] == (entry["area_mm2"] >= LABEL_MIN_AREA_MM2)
        assert entry["position_mm"] == pytest.approx(coronal.affine[1, 3] + 3 * k, abs=1e-3)
    assert any(entry["label"] for entry in truth["slices"])
