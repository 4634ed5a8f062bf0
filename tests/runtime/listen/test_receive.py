"""A node that receives: from dcmtk's tools over loopback, and what is in its spool and its journal then."""

from __future__ import annotations

import subprocess
from concurrent.futures import ThreadPoolExecutor

import pydicom
import pytest
from enhanced_ct import enhanced, save
from pydicom.uid import RLELossless
from receiving import ReceivingNode
from scanner import CT, EXPLICIT, RawPeer, dcmtk, echo, send

from onfh_runtime.dicom.codecs import can_decode
from onfh_runtime.listen.receive import offered_syntaxes
from onfh_runtime.phantom import axial_grid, random_spec, render, write_series

DEFLATED = "1.2.840.10008.1.2.1.99"


@pytest.fixture
def node(tmp_path):
    with ReceivingNode(tmp_path / "state") as running:
        yield running


@pytest.fixture(scope="module")
def phantom():
    spec = random_spec(3)
    return render(spec, axial_grid(spec, 4, 64, 64))


@pytest.fixture(scope="module")
def series(phantom, tmp_path_factory):
    """Paths of four small slices."""
    return write_series(phantom, tmp_path_factory.mktemp("series"), patient_name="SECRET^NAME")


def data_set(path) -> bytes:
    """The bytes after the file meta information."""
    length = pydicom.filereader.read_file_meta_info(path).FileMetaInformationGroupLength
    return path.read_bytes()[132 + 12 + length :]


def test_an_echo_is_answered(node):
    done = echo(node.port)
    assert done.returncode == 0, done.stderr
    node.idle()
    assert node.released == []


def test_what_storescu_sends_is_on_the_disk_byte_for_byte_and_in_the_journal(node, series):
    done = send(node.port, *series)
    assert done.returncode == 0, done.stderr
    node.idle()
    sent = {pydicom.dcmread(path).SOPInstanceUID: path for path in series}
    assert {row.sop_uid for row in node.rows} == set(sent)
    for row in node.rows:
        assert data_set(row.path) == data_set(sent[row.sop_uid])
        kept = pydicom.dcmread(row.path)
        assert kept.file_meta.MediaStorageSOPInstanceUID == kept.SOPInstanceUID == row.sop_uid
        assert kept.file_meta.MediaStorageSOPClassUID == kept.SOPClassUID == row.sop_class == CT
        assert kept.file_meta.TransferSyntaxUID == row.transfer_syntax
        assert kept.file_meta.SourceApplicationEntityTitle == "STORESCU"
        assert (row.series_uid, row.study_uid) == (kept.SeriesInstanceUID, kept.StudyInstanceUID)
        assert (row.peer, row.route, row.nbytes) == ("STORESCU", "default", row.path.stat().st_size)
        checked = subprocess.run([dcmtk("dcmdump"), row.path], capture_output=True, text=True, check=False)
        assert checked.returncode == 0
        assert checked.stderr == ""
    (series_uid,) = {row.series_uid for row in node.rows}
    assert node.released == [frozenset({series_uid})]
    assert sorted(node.journal.objects_of(series_uid), key=lambda row: row.sop_uid) == sorted(
        node.rows, key=lambda row: row.sop_uid
    )
    journalled = node.journal.series(series_uid)
    assert (journalled.objects, journalled.state.value) == (4, "receiving")
    assert journalled.released_s is not None


@pytest.mark.parametrize(("option", "syntax"), [("-xi", "1.2.840.10008.1.2"), ("-xb", "1.2.840.10008.1.2.2")])
def test_the_other_uncompressed_syntaxes_are_kept_as_they_come(node, series, option, syntax):
    done = send(node.port, *series, options=(option,))
    assert done.returncode == 0, done.stderr
    expected = syntax if option == "-xi" else EXPLICIT  # the sender offers both, and little endian is preferred
    assert {pydicom.dcmread(row.path).file_meta.TransferSyntaxUID for row in node.rows} == {expected}
    assert {tuple(pydicom.dcmread(row.path).pixel_array.shape) for row in node.rows} == {(64, 64)}


def test_big_endian_is_read_where_nothing_else_is_offered(node, series):
    swapped = series[0].with_name("big_endian")
    subprocess.run([dcmtk("dcmconv"), "+tb", str(series[0]), str(swapped)], check=True)
    image = pydicom.dcmread(series[0])
    with RawPeer(node.port) as peer:
        assert peer.associate([(CT, ("1.2.840.10008.1.2.2",))])[0] == 2
        assert peer.store(data_set(swapped), image.SOPInstanceUID)[0] == 0
        assert peer.release() == 6
    swapped.unlink()
    assert (pydicom.dcmread(node.rows[0].path).pixel_array == image.pixel_array).all()


def test_a_compressed_object_stays_compressed(node, series, tmp_path):
    image = pydicom.dcmread(series[0])
    image.compress(RLELossless)
    image.save_as(tmp_path / "rle.dcm")
    done = send(node.port, tmp_path / "rle.dcm", options=("-xr",))
    assert done.returncode == 0, done.stderr
    assert node.rows[0].transfer_syntax == RLELossless
    assert data_set(node.rows[0].path) == data_set(tmp_path / "rle.dcm")


def test_an_enhanced_object_is_taken(node, series, tmp_path):
    ds = enhanced([pydicom.dcmread(path) for path in series])
    save(ds, tmp_path / "enhanced.dcm")
    done = send(node.port, tmp_path / "enhanced.dcm")
    assert done.returncode == 0, done.stderr
    assert [row.sop_class for row in node.rows] == [ds.SOPClassUID]
    assert pydicom.dcmread(node.rows[0].path).NumberOfFrames == 4


def test_what_this_machine_cannot_decode_is_not_offered(node):
    assert DEFLATED not in offered_syntaxes()
    assert all(can_decode(syntax) for syntax in offered_syntaxes())
    secondary_capture = "1.2.840.10008.5.1.4.1.1.7"
    with RawPeer(node.port) as peer:
        kind, content = peer.associate(
            [(CT, (DEFLATED,)), (secondary_capture, (EXPLICIT,)), (CT, (DEFLATED, EXPLICIT))]
        )
        assert kind == 2
        results = {content[at + 4]: content[at + 6] for at in range(68, len(content)) if content[at : at + 2] == b"!\0"}
        assert results == {1: 4, 3: 3, 5: 0}  # no transfer syntax supported, abstract syntax not supported, accepted
        assert peer.release() == 6


def test_several_associations_send_at_once(node, phantom, tmp_path):
    folders = [tmp_path / f"series{number}" for number in range(8)]
    for number, folder in enumerate(folders):
        write_series(phantom, folder, series_number=number + 1)
    with ThreadPoolExecutor(8) as pool:
        sent = list(pool.map(lambda folder: send(node.port, folder), folders))
    assert [done.returncode for done in sent] == [0] * 8, [done.stderr for done in sent]
    node.idle()
    assert len(node.rows) == len(node.files) == 32
    assert len(node.released) == len(set(node.released)) == 8
    assert sum(row.objects for row in node.journal.recent(100)) == 32


def test_a_resend_changes_nothing_and_succeeds(node, series):
    assert [send(node.port, *series).returncode for _ in range(2)] == [0, 0]
    node.idle()
    assert len(node.rows) == len(node.files) == 4
    assert len(node.released) == 2
    assert node.journal.series(node.rows[0].series_uid).generation == 1


def test_other_content_under_a_known_uid_replaces_it_and_is_noted(node, series, tmp_path, caplog):
    changed = pydicom.dcmread(series[0])
    changed.SeriesDescription = "Another"
    changed.save_as(tmp_path / "changed.dcm")
    assert send(node.port, series[0]).returncode == send(node.port, tmp_path / "changed.dcm").returncode == 0
    assert [row.sop_uid for row in node.rows] == [changed.SOPInstanceUID] * 2
    assert [data_set(path) for path in node.files] == [data_set(tmp_path / "changed.dcm")]
    assert "came again with other content" in caplog.text


def test_the_smallest_fragments_do(node, series):
    image = pydicom.dcmread(series[0])
    with RawPeer(node.port) as peer:
        assert peer.associate()[0] == 2
        assert peer.store(data_set(series[0]), image.SOPInstanceUID, piece=7)[0] == 0
        assert peer.release() == 6
    assert data_set(node.files[0]) == data_set(series[0])


def test_dcmsend_is_answered_too(node, series):
    done = subprocess.run(
        [dcmtk("dcmsend"), "-v", "-aec", "ONFH", "127.0.0.1", str(node.port), *map(str, series)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(node.rows) == 4
