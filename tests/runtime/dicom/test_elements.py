"""Headers are walked in bounded time and memory, whatever they hold."""

from __future__ import annotations

import io
import struct
import time
import tracemalloc

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from onfh_runtime.dicom import find_series, read_volume
from onfh_runtime.dicom.elements import MAX_DEPTH, DamagedError, ElementReader
from onfh_runtime.dicom.header import read_header
from onfh_runtime.errors import SeriesError

UNDEFINED = 0xFFFFFFFF


def sequence_head(length, tag=(0x0008, 0x1140)):
    return struct.pack("<HH2sHI", *tag, b"SQ", 0, length)


def item_head(length):
    return struct.pack("<HHI", 0xFFFE, 0xE000, length)


ITEM_END = struct.pack("<HHI", 0xFFFE, 0xE00D, 0)
SEQUENCE_END = struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)


def walk(data, implicit=False):
    reader = ElementReader(io.BytesIO(data))
    return list(reader.elements(0, reader.size, implicit))


def hostile(write_ct, data):
    """A series one of whose files begins its data set with ``data``."""
    written = write_ct(count=4)
    raw = written.paths[0].read_bytes()
    start = next(at for at in range(132, len(raw)) if raw[at : at + 4] == b"\x08\0\x08\0")
    written.paths[0].write_bytes(raw[:start] + data + raw[start:])
    return written


def read_all(written):
    codes = []
    candidates, _ = find_series([written.folder], report=lambda path, code, text: codes.append(code))
    for candidate in candidates:
        try:
            read_volume(candidate)
            codes.append("read")
        except SeriesError as error:
            codes.append(error.code)
    return codes


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_a_header_holds_what_pydicom_reads(write_ct, syntax):
    def edit(index, ds):
        inner = Dataset()
        inner.CodeValue = "1"
        outer = Dataset()
        outer.PurposeOfReferenceCodeSequence = Sequence([inner, inner])
        ds.ReferencedImageSequence = Sequence([outer])
        ds["ReferencedImageSequence"].is_undefined_length = True
        ds.SourceImageSequence = Sequence([outer, outer])
        ds.PatientName = "Käse^Möller"
        ds.SpecificCharacterSet = "ISO_IR 192"

    written = write_ct(edit, syntax=syntax)
    header, offset = read_header(written.paths[2])
    expected = dcmread(written.paths[2])
    assert expected["PixelData"].file_tell - (8 if syntax == ImplicitVRLittleEndian else 12) == offset
    del expected["PixelData"]
    assert str(header.file_meta.TransferSyntaxUID) == syntax
    assert {element.tag: element.value for element in header} == {e.tag: e.value for e in expected}
    assert header.PatientName == "Käse^Möller"


def test_private_elements_and_overlays_are_not_kept(write_ct):
    def edit(index, ds):
        ds.private_block(0x0029, "ACME", create=True).add_new(1, "OB", b"x" * 1000)
        ds.add_new(0x60003000, "OW", b"\0" * 100)
        ds.add_new(0x00281201, "OW", b"\0" * 70_000)

    header, _ = read_header(write_ct(edit).paths[0])
    tags = set(header.keys())
    assert not {tag for tag in tags if tag.is_private or tag.group == 0x6000}
    assert 0x00281201 not in tags
    assert 0x00280010 in tags


def test_an_element_of_two_gigabytes_is_stepped_over(write_ct):
    """The file is sparse; what matters is that nobody reads it."""
    written = write_ct(count=3)
    raw = written.paths[0].read_bytes()
    start = next(at for at in range(132, len(raw)) if raw[at : at + 4] == b"\x08\0\x08\0")
    size = 2**31
    with written.paths[0].open("wb") as file:
        file.write(raw[:start] + struct.pack("<HH2sHI", 9, 0x1010, b"OB", 0, size))
        file.seek(size, io.SEEK_CUR)
        file.write(raw[start:])
    tracemalloc.start()
    begin = time.perf_counter()
    assert read_all(written) == ["read"]
    assert time.perf_counter() - begin < 2
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()


@pytest.mark.parametrize("lengths", [True, False])
def test_sequences_nested_too_deep_are_refused(write_ct, lengths):
    data = b""
    for _ in range(3000):
        if lengths:
            data = sequence_head(len(data) + 8) + item_head(len(data)) + data
        else:
            data = sequence_head(UNDEFINED) + item_head(UNDEFINED) + data + ITEM_END + SEQUENCE_END
    with pytest.raises(DamagedError, match="nested"):
        walk(data)
    assert read_all(hostile(write_ct, data)) == ["unreadable", "read"]


def test_sequences_as_deep_as_real_ones_are_read():
    data = b""
    for _ in range(MAX_DEPTH // 2 - 1):
        data = sequence_head(UNDEFINED) + item_head(UNDEFINED) + data + ITEM_END + SEQUENCE_END
    ((tag, vr, begin, start, length),) = walk(data)
    assert (tag, vr, begin, start, length) == (0x00081140, "SQ", 0, 12, len(data) - 20)


def test_an_endless_sequence_ends(write_ct):
    """Twenty megabytes of empty items, and as many empty elements."""
    items = sequence_head(UNDEFINED) + item_head(0) * 2_500_000
    elements = struct.pack("<HH2sH", 9, 0x10, b"LO", 0) * 2_500_000
    for data in (items, elements):
        begin = time.perf_counter()
        assert read_all(hostile(write_ct, data)) == ["unreadable", "read"]
        assert time.perf_counter() - begin < 2


def test_a_sequence_that_never_ends_is_damage(write_ct):
    assert read_all(hostile(write_ct, sequence_head(UNDEFINED) + item_head(UNDEFINED))) == ["unreadable", "read"]


@pytest.mark.parametrize(
    "data",
    [
        ITEM_END,
        item_head(0),
        sequence_head(UNDEFINED) + struct.pack("<HH2sH", 8, 0x60, b"CS", 0),
        struct.pack("<HH2sH", 8, 0x60, b"CS", 100),
        b"\x08\0",
    ],
)
def test_what_is_no_data_set_is_damage(data):
    with pytest.raises(DamagedError):
        walk(data)


@pytest.mark.parametrize("data", [item_head(100), struct.pack("<HH2sH", 8, 0x60, b"CS", 0), item_head(UNDEFINED)])
def test_what_are_no_items_is_damage(data):
    reader = ElementReader(io.BytesIO(data))
    with pytest.raises(DamagedError):
        list(reader.items(0, reader.size, False))


def test_an_implicit_data_set_in_an_explicit_file_is_read(write_ct):
    """A known mistake of gateways; pydicom and dcmtk read it too."""
    path = write_ct(syntax=ImplicitVRLittleEndian).paths[0]
    implicit, explicit = b"1.2.840.10008.1.2\0", b"1.2.840.10008.1.2.1\0"
    raw = path.read_bytes()
    assert raw.count(struct.pack("<H", len(implicit)) + implicit) == 1
    old, new = (struct.pack("<H", len(uid)) + uid for uid in (implicit, explicit))
    path.write_bytes(raw.replace(old, new))
    header, _ = read_header(path)
    assert str(header.file_meta.TransferSyntaxUID) == ExplicitVRLittleEndian
    assert (header.Rows, header.Modality) == (6, "CT")


def test_an_unknown_sequence_holds_implicit_items():
    """UN with an undefined length is a sequence in implicit VR (PS3.5, 6.2.2)."""
    inner = struct.pack("<HHI", 8, 0x60, 2) + b"CT"
    data = (
        struct.pack("<HH2sHI", 9, 0x1001, b"UN", 0, UNDEFINED) + item_head(UNDEFINED) + inner + ITEM_END + SEQUENCE_END
    )
    ((_, vr, _, _, length),) = walk(data)
    assert (vr, length) == ("UN", 8 + len(inner) + 8)
