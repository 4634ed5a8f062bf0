from __future__ import annotations

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGLSLossless, RLELossless

from onfh_runtime.dicom import find_series, read_volume
from onfh_runtime.errors import SeriesError


def put(**attributes):
    def edit(index, ds):
        for keyword, value in attributes.items():
            setattr(ds, keyword, value)

    return edit


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless])
def test_every_storage_gives_the_same_voxels_in_order_of_position(write_ct, syntax):
    written = write_ct(syntax=syntax)
    volume, images = read_volume(written.candidate())
    assert volume.voxels.dtype == np.int16
    assert np.array_equal(volume.voxels, written.stored)
    assert [image.path for image in images] == written.paths
    assert volume.acquired == "axial"
    assert volume.spacing_mm == pytest.approx((2.5, 0.75, 0.5))
    assert volume.affine @ [1, 2, 3, 1] == pytest.approx([-11.5 + 1.5, -22.25 + 1.5, 33 + 2.5, 1])


def test_jpeg_ls_gives_the_same_voxels(write_ct):
    pytest.importorskip("jpeg_ls")
    written = write_ct(syntax=JPEGLSLossless, shape=(40, 50))
    assert np.array_equal(read_volume(written.candidate())[0].voxels, written.stored)


def test_damaged_bytes_are_refused_or_read_but_never_crash(write_ct, tmp_path):
    """Every single-byte damage ends in a volume, a report or a refusal by name."""
    written = write_ct(count=3)
    path = written.paths[1]
    raw = path.read_bytes()
    rng = np.random.default_rng(7)
    codes = set()
    for _ in range(300):
        damaged = bytearray(raw)
        damaged[int(rng.integers(132, len(raw)))] = int(rng.integers(256))
        path.write_bytes(damaged)
        candidates, _ = find_series([written.folder], report=lambda *what: codes.add(what[1]))
        for candidate in candidates:
            try:
                read_volume(candidate)
            except SeriesError as error:
                codes.add(error.code)
    assert {"too_few_slices", "unreadable"} & codes


def test_a_coronal_series_runs_front_to_back(write_ct):
    written = write_ct(iop=(1.0, 0.0, 0.0, 0.0, 0.0, -1.0))
    volume, _ = read_volume(written.candidate())
    assert volume.acquired == "coronal"
    assert np.array_equal(volume.voxels, written.stored)
    assert volume.affine @ [1, 2, 3, 1] == pytest.approx([-10, -22.25 + 2.5, 33 - 1.5, 1])


@pytest.mark.parametrize("iop", [(-1.0, 0.0, 0.0, 0.0, 1.0, 0.0), (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0)])
def test_feet_first_prone_and_mirrored_series_keep_voxels_at_their_place(write_ct, iop):
    volume, images = read_volume(write_ct(iop=iop).candidate())
    for index, image in enumerate(images):
        assert volume.affine[:3, :] @ [index, 0, 0, 1] == pytest.approx(list(image.header.ImagePositionPatient))
    assert volume.affine[:3, 2] == pytest.approx(np.array(iop[:3]) * 0.5)
    assert volume.affine[:3, 1] == pytest.approx(np.array(iop[3:]) * 0.75)


def test_slope_and_intercept_belong_to_their_slice(write_ct):
    def edit(index, ds):
        ds.RescaleSlope, ds.RescaleIntercept = 1 + index, -1000 - index

    written = write_ct(edit)
    volume, _ = read_volume(written.candidate())
    assert volume.slope.tolist() == [1, 2, 3, 4, 5]
    assert volume.intercept.tolist() == [-1000, -1001, -1002, -1003, -1004]
    assert volume.hounsfield(3) == pytest.approx(written.stored[3] * 4.0 - 1003)


def test_unsigned_values_above_32767_do_not_wrap(write_ct):
    stored = np.full((3, 2, 2), 60000, np.uint16)
    volume, _ = read_volume(write_ct(put(PixelRepresentation=0), count=3, stored=stored).candidate())
    assert volume.voxels.dtype == np.uint16
    assert volume.hounsfield(0).max() == 60000 - 1024


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ExplicitVRBigEndian])
@pytest.mark.parametrize("signed", [0, 1])
def test_garbage_above_twelve_bits_is_removed_and_the_sign_kept(write_ct, signed, syntax):
    values = np.array([[[0, 1, 2047, 2048, 4095]]] * 3, np.uint16)
    stored = values | np.uint16(0x5000)
    edit = put(BitsStored=12, HighBit=11, PixelRepresentation=signed)
    volume, _ = read_volume(write_ct(edit, count=3, stored=stored, syntax=syntax).candidate())
    expected = [0, 1, 2047, -2048, -1] if signed else [0, 1, 2047, 2048, 4095]
    assert volume.voxels[1, 0].tolist() == expected


@pytest.mark.parametrize(
    ("signed", "vr", "value", "stored_padding"),
    [(1, "SS", -2000, -2000), (1, "US", 63536, -2000), (0, "US", 63536, 63536), (0, "SS", -2000, 63536)],
)
def test_padding_is_found_whatever_its_vr_says(write_ct, signed, vr, value, stored_padding):
    def edit(index, ds):
        ds.PixelRepresentation = signed
        ds.add_new("PixelPaddingValue", vr, value)

    stored = np.full((3, 4, 4), 1024, np.uint16)
    stored[:, 0, 0] = 63536
    volume, _ = read_volume(write_ct(edit, count=3, stored=stored).candidate())
    assert volume.padding == (stored_padding, stored_padding)
    hu = volume.hounsfield()
    assert hu[1, 0, 0] == -1000
    assert (hu[1].ravel()[1:] == 0).all()


def test_padding_beyond_twelve_bits_is_not_mistaken_for_bone(write_ct):
    def edit(index, ds):
        ds.PixelRepresentation, ds.BitsStored, ds.HighBit = 0, 12, 11
        ds.add_new("PixelPaddingValue", "US", 63536)

    stored = np.full((3, 1, 3), 63536 & 0xFFF, np.uint16)  # bone whose twelve bits equal those of the padding
    stored[:, 0, 0] = 63536
    volume, _ = read_volume(write_ct(edit, count=3, stored=stored).candidate())
    assert volume.hounsfield(0)[0].tolist() == [-1000, 2096 - 1024, 2096 - 1024]


def test_a_padding_range_runs_either_way(write_ct):
    def edit(index, ds):
        ds.add_new("PixelPaddingValue", "SS", -100)
        ds.add_new("PixelPaddingRangeLimit", "SS", -2000)

    volume, _ = read_volume(write_ct(edit).candidate())
    assert volume.padding == (-2000, -100)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless])
@pytest.mark.parametrize("keep", [0.3, 0.999])
def test_a_cut_file_is_refused_by_its_uid(write_ct, syntax, keep):
    written = write_ct(syntax=syntax, shape=(40, 50))
    path = written.paths[2]
    raw = path.read_bytes()
    start = dcmread(path)["PixelData"].file_tell or 0
    path.write_bytes(raw[: start + int((len(raw) - start) * keep)])
    with pytest.raises(SeriesError, match=str(dcmread(path, stop_before_pixels=True).SOPInstanceUID)) as error:
        read_volume(written.candidate())
    assert error.value.code == "truncated"
    assert "Secret" not in str(error.value)


def test_a_file_cut_before_its_pixels_is_truncated(write_ct):
    written = write_ct()
    path = written.paths[2]
    start = dcmread(path)["PixelData"].file_tell or 0
    path.write_bytes(path.read_bytes()[: start - 12])
    with pytest.raises(SeriesError, match=str(dcmread(path, stop_before_pixels=True).SOPInstanceUID)) as error:
        read_volume(written.candidate())
    assert error.value.code == "truncated"


def test_pixel_data_shorter_than_its_size_says_is_truncated(write_ct):
    def edit(index, ds):
        if index == 1:
            ds.PixelData = ds.PixelData[:-4]

    with pytest.raises(SeriesError) as error:
        read_volume(write_ct(edit).candidate())
    assert error.value.code == "truncated"


def test_pixel_data_of_two_frames_is_refused(write_ct):
    def edit(index, ds):
        ds.PixelData = ds.PixelData * 2

    with pytest.raises(SeriesError) as error:
        read_volume(write_ct(edit).candidate())
    assert error.value.code == "unsupported_pixels"


def test_damaged_compressed_pixels_are_refused(write_ct):
    written = write_ct(syntax=RLELossless, shape=(40, 50))
    path = written.paths[0]
    raw = bytearray(path.read_bytes())
    start = (dcmread(path)["PixelData"].file_tell or 0) + 8
    raw[start + 8 : start + 72] = b"\xff" * 64  # the RLE header
    path.write_bytes(raw)
    with pytest.raises(SeriesError) as error:
        read_volume(written.candidate())
    assert error.value.code == "unreadable_pixels"


def test_a_file_that_vanished_is_unreadable(write_ct):
    written = write_ct()
    candidate = written.candidate()
    written.paths[0].unlink()
    with pytest.raises(SeriesError) as error:
        read_volume(candidate)
    assert error.value.code == "unreadable"


def test_uncompressed_pixels_are_not_parsed_twice(write_ct, monkeypatch):
    candidate = write_ct().candidate()
    monkeypatch.setattr("pydicom.filereader.read_dataset", None)
    monkeypatch.setattr("onfh_runtime.dicom.elements.ElementReader.elements", None)
    read_volume(candidate)


def test_warnings_travel_with_the_volume(write_ct):
    volume, _ = read_volume(write_ct(put(LossyImageCompression="01")).candidate())
    assert [code for code, _ in volume.warnings] == ["lossy_compression"]


@pytest.mark.parametrize(
    ("name", "acquired", "shape"),
    [("hip_ct_axial", "axial", (56, 101, 122)), ("hip_ct_coronal", "coronal", (101, 56, 122))],
)
def test_a_real_series_reads_as_pydicom_reads_it(real_series, name, acquired, shape):
    (candidate,), _ = find_series([real_series(name)])
    volume, images = read_volume(candidate)
    assert (volume.acquired, volume.voxels.shape, volume.warnings) == (acquired, shape, ())
    assert volume.spacing_mm == pytest.approx((3, 3, 3))
    for index in (0, 17, shape[0] - 1):
        source = dcmread(images[index].path)
        assert np.array_equal(volume.voxels[index], source.pixel_array)
        assert volume.affine[:3] @ [index, 0, 0, 1] == pytest.approx(list(source.ImagePositionPatient), abs=1e-3)


def test_the_real_series_show_the_same_patient(real_series):
    """The coronal series was cut from the axial one: both must put the same HU at the same place."""
    (axial,), _ = find_series([real_series("hip_ct_axial")])
    (coronal,), _ = find_series([real_series("hip_ct_coronal")])
    first, second = read_volume(axial)[0], read_volume(coronal)[0]
    to_axial = np.linalg.inv(first.affine) @ second.affine
    grid = np.stack([*np.meshgrid(*(np.arange(n) for n in second.voxels.shape), indexing="ij")], -1).reshape(-1, 3)
    index = np.rint(grid @ to_axial[:3, :3].T + to_axial[:3, 3]).astype(int)
    inside = ((index >= 0) & (index < first.voxels.shape)).all(axis=1)
    assert inside.mean() > 0.99
    same = first.hounsfield()[tuple(index[inside].T)] == second.hounsfield()[tuple(grid[inside].T)]
    assert same.mean() > 0.99
