"""Every transfer syntax gives the voxels that were encoded, and what pydicom makes of the same file."""

from __future__ import annotations

import shutil
import subprocess

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    MPEG2MPML,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    JPEG2000Lossless,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from onfh_runtime.dicom import codecs as under_test
from onfh_runtime.dicom import find_series, read_volume
from onfh_runtime.errors import SeriesError

SHAPE = (37, 41)
RANGES = {(0, 12): (0, 4096), (0, 16): (0, 65536), (1, 12): (-2048, 2048), (1, 16): (-32768, 32768)}
LOSSLESS = (JPEGLossless, JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless, HTJ2KLossless, HTJ2KLosslessRPCL)
LOSSY = (JPEGExtended12Bit, JPEGLSNearLossless, JPEG2000, HTJ2K)


def picture(signed, bits, count=3):
    """Smooth enough to be compressed, with every extreme of the range."""
    low, high = RANGES[signed, bits]
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
    wave = np.stack([np.sin(rows / (5 + k)) * np.cos(columns / 7) for k in range(count)])
    values = np.rint((wave + 1) / 2 * (high - 1 - low) + low).astype(np.int64)
    values[:, 0, 0], values[:, -1, -1] = low, high - 1
    return values


def encode(syntax, values, bits):
    """One frame by imagecodecs; JPEG and JPEG-LS hold the bits of signed values, as DICOM has it."""
    plain = (values & ((1 << bits) - 1)).astype(np.uint16)
    lossless = syntax in LOSSLESS
    if syntax in (JPEGLSLossless, JPEGLSNearLossless):
        jpeg_ls = pytest.importorskip("jpeg_ls")
        return bytes(jpeg_ls.encode_buffer(plain.tobytes(), *SHAPE, 1, bits, 0 if lossless else 3, 0))
    ic = pytest.importorskip("imagecodecs")
    if syntax in (JPEGLossless, JPEGLosslessSV1):
        return ic.ljpeg_encode(plain, bitspersample=bits)
    if syntax == JPEGExtended12Bit:
        return ic.jpeg8_encode(plain, level=95, bitspersample=12)
    signed = values.min() < 0
    shown = values.astype(np.int16) if signed else plain
    if syntax in (HTJ2KLossless, HTJ2KLosslessRPCL, HTJ2K):
        if not hasattr(ic, "htj2k_encode"):
            pytest.skip("this imagecodecs writes no HTJ2K (the one for Python 3.10 does not)")
        return ic.htj2k_encode(shown, reversible=lossless, level=None if lossless else 0.01)
    return ic.jpeg2k_encode(
        shown, level=0 if lossless else 40, reversible=lossless, codecformat="j2k", bitspersample=bits
    )


def compressed(write_ct, syntax, values, signed, bits, split=1):
    """A series whose frames are encoded by :func:`encode`, ``split`` fragments each."""
    frames = [encode(syntax, frame, bits) for frame in values]

    def edit(index, ds):
        ds.PixelRepresentation, ds.BitsStored, ds.HighBit = signed, bits, bits - 1

    written = write_ct(edit, count=len(values), stored=values.astype(np.int64).astype(np.uint16))
    for index, path in enumerate(written.paths):
        ds = dcmread(path)
        ds.file_meta.TransferSyntaxUID = syntax
        ds.PixelData = encapsulate([frames[index]], fragments_per_frame=split)
        ds["PixelData"].VR = "OB"
        ds["PixelData"].is_undefined_length = True
        ds.save_as(path)
    return written


def by_pydicom(written):
    try:
        return np.stack([dcmread(path).pixel_array for path in written.paths])
    except RuntimeError as error:
        pytest.skip(f"pydicom has no decoder to compare with: {error}")


@pytest.mark.parametrize(("signed", "bits"), RANGES)
@pytest.mark.parametrize("syntax", LOSSLESS)
def test_lossless_syntaxes_give_back_what_was_encoded(write_ct, syntax, signed, bits):
    values = picture(signed, bits)
    written = compressed(write_ct, syntax, values, signed, bits)
    volume, _ = read_volume(written.candidate())
    assert volume.voxels.dtype == (np.int16 if signed else np.uint16)
    assert np.array_equal(volume.voxels, values)
    assert volume.warnings == ()


@pytest.mark.parametrize(("signed", "bits"), RANGES)
@pytest.mark.parametrize("syntax", [*LOSSLESS, *LOSSY])
def test_compressed_pixels_are_those_of_pydicom(write_ct, syntax, signed, bits):
    if syntax == JPEGExtended12Bit and (bits == 16 or signed):
        pytest.skip("JPEG Extended holds 12 bits without a sign")
    if syntax == JPEGLSNearLossless and signed:
        pytest.skip("a near-lossless coder works on unsigned values")
    written = compressed(write_ct, syntax, picture(signed, bits), signed, bits)
    expected = by_pydicom(written)
    volume, _ = read_volume(written.candidate())
    assert volume.voxels.dtype == expected.dtype
    # Of JPEG alone the standard lets decoders differ (ISO/IEC 10918-2): by one in a coefficient.
    assert np.abs(volume.voxels.astype(int) - expected).max() <= (2 if syntax == JPEGExtended12Bit else 0)


@pytest.mark.parametrize("syntax", [JPEGExtended12Bit, JPEGLSNearLossless])
def test_lossy_syntaxes_are_flagged(write_ct, syntax):
    values = picture(0, 12)
    written = compressed(write_ct, syntax, values, 0, 12)
    volume, _ = read_volume(written.candidate())
    assert [code for code, _ in volume.warnings] == ["lossy_compression"]
    assert 0 < np.abs(volume.voxels.astype(int) - values).max() < 200


def test_what_loss_adds_above_the_stored_bits_does_not_wrap(write_ct):
    """Metal at the top of 12 bits in a 16-bit stream may come back above them: never as air."""
    values = picture(0, 12)
    values[:, 10:20, 10:20] = 4095
    written = compressed(write_ct, HTJ2K, values, 0, 12)
    voxels = read_volume(written.candidate())[0].voxels
    assert voxels.max() > 4095
    assert np.abs(voxels[:, 12:18, 12:18].astype(int) - 4095).max() < 500


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize(("signed", "bits"), RANGES)
def test_run_lengths_give_back_what_was_encoded(write_ct, signed, bits, fast, monkeypatch):
    if fast:
        pytest.importorskip("imagecodecs")
    else:
        monkeypatch.setattr(under_test, "_fast", lambda syntax: None)
    values = picture(signed, bits)

    def edit(index, ds):
        ds.PixelRepresentation, ds.BitsStored, ds.HighBit = signed, bits, bits - 1

    written = write_ct(edit, count=3, stored=values.astype(np.uint16), syntax=RLELossless)
    assert np.array_equal(read_volume(written.candidate())[0].voxels, values)


@pytest.mark.parametrize("syntax", [JPEGLSLossless, JPEG2000Lossless])
def test_the_base_reads_without_the_extra(write_ct, syntax, monkeypatch):
    """pyjpegls and Pillow come with highdicom."""
    values = picture(1, 12)
    written = compressed(write_ct, syntax, values, 1, 12)
    monkeypatch.setattr(under_test, "_fast", lambda syntax: None)
    assert not under_test.decodes_in_parallel(syntax)
    assert np.array_equal(read_volume(written.candidate())[0].voxels, values)


def test_what_nothing_decodes_is_refused_by_name_and_names_the_extra(write_ct, monkeypatch):
    from pydicom.pixels.decoders.base import JPEGLosslessSV1Decoder

    written = compressed(write_ct, JPEGLosslessSV1, picture(0, 12), 0, 12)
    monkeypatch.setattr(under_test, "_fast", lambda syntax: None)
    monkeypatch.setattr(JPEGLosslessSV1Decoder, "_available", {})
    with pytest.raises(SeriesError, match=r"JPEG Lossless.*pip install 'onfh-edge\[codecs\]'") as error:
        read_volume(written.candidate())
    assert error.value.code == "unsupported_transfer_syntax"


@pytest.mark.parametrize("syntax", [MPEG2MPML, "1.2.840.113619.5.2", "1.2.840.10008.1.2.4.110"])
def test_what_no_extra_decodes_does_not_name_one(write_ct, syntax):
    written = write_ct()
    candidate = written.candidate()
    for image in candidate.images:
        image.header.file_meta.TransferSyntaxUID = syntax
    with pytest.raises(SeriesError) as error:
        read_volume(candidate)
    assert error.value.code == "unsupported_transfer_syntax"
    assert "install" not in error.value.fix


@pytest.mark.parametrize("predictor", range(1, 8))
def test_every_predictor_of_dcmtk_is_read(write_ct, predictor):
    """An encoder that shares no code with the decoder."""
    if shutil.which("dcmcjpeg") is None:
        pytest.skip("no dcmcjpeg: install dcmtk")
    pytest.importorskip("imagecodecs")
    stored = np.random.default_rng(3).integers(0, 4096, (3, *SHAPE)).astype(np.uint16)

    def edit(index, ds):
        ds.PixelRepresentation, ds.BitsStored, ds.HighBit = 0, 12, 11

    written = write_ct(edit, count=3, stored=stored)
    options = ["--encode-lossless", "--selection-value", str(predictor), "--uid-never"]
    for path in written.paths:
        subprocess.run(["dcmcjpeg", *options, str(path), str(path)], check=True)
    candidate = written.candidate()
    assert candidate.images[0].header.file_meta.TransferSyntaxUID in (JPEGLossless, JPEGLosslessSV1)
    assert np.array_equal(read_volume(candidate)[0].voxels, stored)


def test_dcmtk_run_lengths_of_an_odd_number_of_pixels_are_read(write_ct):
    """An odd segment is padded by a byte that is no run."""
    if shutil.which("dcmcrle") is None:
        pytest.skip("no dcmcrle: install dcmtk")
    stored = np.random.default_rng(3).integers(0, 4096, (3, *SHAPE)).astype(np.uint16)
    written = write_ct(count=3, stored=stored)
    for path in written.paths:
        subprocess.run(["dcmcrle", str(path), str(path)], check=True)
    assert np.array_equal(read_volume(written.candidate())[0].voxels, stored)


@pytest.mark.parametrize("split", [2, 5])
def test_a_frame_in_several_fragments_is_whole(write_ct, split):
    values = picture(0, 12)
    written = compressed(write_ct, JPEGLSLossless, values, 0, 12, split)
    assert np.array_equal(read_volume(written.candidate())[0].voxels, values)


def test_frames_are_decoded_by_several_threads(write_ct, monkeypatch):
    import threading

    pytest.importorskip("imagecodecs")
    values = picture(0, 12, count=12)
    written = compressed(write_ct, JPEG2000Lossless, values, 0, 12)
    monkeypatch.setattr("onfh_runtime.dicom.decode.cores", lambda: 3)
    meet, seen = threading.Barrier(3, timeout=20), set()
    whole = under_test.decode_frame

    def watched(*arguments):
        if threading.get_ident() not in seen:
            seen.add(threading.get_ident())
            meet.wait()  # passes only when three threads are here at once
        whole(*arguments)

    monkeypatch.setattr("onfh_runtime.dicom.decode.decode_frame", watched)
    assert np.array_equal(read_volume(written.candidate())[0].voxels, values)
    assert len(seen) == 3


@pytest.mark.parametrize(
    ("syntax", "mark", "offset", "size"),
    [(JPEGLSLossless, b"\xff\xf7", 5, 4), (JPEGLosslessSV1, b"\xff\xc3", 5, 4), (JPEG2000Lossless, b"\xff\x51", 6, 8)],
)
def test_a_stream_of_another_size_never_reaches_a_decoder(write_ct, syntax, mark, offset, size, monkeypatch):
    """The stream claims 65535 (or 4 billion) pixels a side; the header does not."""
    values = picture(0, 12)
    written = compressed(write_ct, syntax, values, 0, 12)
    raw = bytearray(written.paths[0].read_bytes())
    at = raw.index(mark) + offset
    raw[at : at + size] = b"\xff" * size
    written.paths[0].write_bytes(raw)

    def no_decoder(*arguments, **options):
        pytest.fail("a decoder saw the stream")

    candidate = written.candidate()
    monkeypatch.setattr(under_test, "_fast", lambda syntax: no_decoder)
    monkeypatch.setattr(under_test, "_by_pydicom", no_decoder)
    with pytest.raises(SeriesError) as error:
        read_volume(type(candidate)(**{**vars(candidate), "images": candidate.images}))
    assert error.value.code == "unreadable_pixels"


def test_compressed_pixels_larger_than_plain_ones_are_refused(write_ct):
    values = picture(0, 12)
    written = compressed(write_ct, JPEGLSLossless, values, 0, 12)
    ds = dcmread(written.paths[1])
    ds.PixelData = encapsulate([encode(JPEGLSLossless, values[1], 12) + b"\0" * 200_000])
    ds.save_as(written.paths[1])
    with pytest.raises(SeriesError, match="more than plain ones") as error:
        read_volume(written.candidate())
    assert error.value.code == "unreadable_pixels"


def test_run_lengths_without_end_are_cut_at_the_size_of_the_image(monkeypatch):
    """A segment that would unpack to 64 times its bytes."""
    assert len(under_test._unpacked(b"\x81\x07" * 100_000, 1000)) == 1000


def test_a_candidate_keeps_its_order_of_syntaxes(write_ct):
    """Images of one series may be stored differently."""
    stored = np.random.default_rng(1).integers(0, 3000, (5, 6, 8)).astype(np.uint16)
    written = write_ct(stored=stored)
    for path in written.paths[::2]:
        ds = dcmread(path)
        ds.compress(RLELossless, generate_instance_uid=False)
        ds.save_as(path)
    candidates, _ = find_series([written.folder])
    syntaxes = {str(image.header.file_meta.TransferSyntaxUID) for image in candidates[0].images}
    assert syntaxes == {ExplicitVRLittleEndian, RLELossless}
    assert np.array_equal(read_volume(candidates[0])[0].voxels, stored)
