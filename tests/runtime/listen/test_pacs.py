"""``onfh listen`` between dcmtk's tools as scanner and a real Orthanc as PACS: what comes back, and of whom it is."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom
import pytest
from enhanced_ct import enhanced, save
from orthanc import Orthanc, running_orthanc
from pydicom.dataset import Dataset
from receiving import until
from scanner import dcmtk, free_port, send

from onfh_runtime.listen.journal_view import JournalView
from onfh_runtime.listen.records import SeriesRow, SeriesState
from onfh_runtime.phantom import coronal_grid, random_spec, render, write_series
from onfh_runtime.result import Result

ROOT = "1.2.826.0.1.3680043.10.999"
SR, SEG = "1.2.840.10008.5.1.4.1.1.88.34", "1.2.840.10008.5.1.4.1.1.66.4"

Write = Callable[[int], list[Path]]


@dataclass
class Site:
    """A node on a folder, and the archive that its results go to."""

    state_dir: Path
    port: int
    orthanc: Orthanc

    def row(self, paths: list[Path]) -> SeriesRow | None:
        with contextlib.closing(JournalView(self.state_dir / "journal.sqlite")) as journal:
            return journal.series(str(pydicom.dcmread(paths[0], specific_tags=["SeriesInstanceUID"]).SeriesInstanceUID))

    def answered(self, paths: list[Path]) -> SeriesRow:
        """Wait for the answer to a series, and give it."""

        def answer() -> SeriesRow | None:
            row = self.row(paths)
            assert row is None or row.state is not SeriesState.SET_ASIDE, row
            return row if row is not None and row.state is SeriesState.ANSWERED else None

        until(answer, 60)
        row = answer()
        assert row is not None
        return row

    def delivered(self, paths: list[Path]) -> SeriesRow:
        """The same, and it is all in the archive."""
        row = self.answered(paths)
        until(lambda: set(self.deliveries(row)) == {"sent"}, 60)
        return row

    def deliveries(self, row: SeriesRow) -> list[str]:
        with contextlib.closing(JournalView(self.state_dir / "journal.sqlite")) as journal:
            return [one.state for one in journal.deliveries_of(row.series_uid)]

    def kept(self, row: SeriesRow) -> dict[str, Dataset]:
        """What the archive has of a study, by SOP Class UID; two of one class are an error."""
        found: dict[str, Dataset] = {}
        for name in self.orthanc.json("instances"):
            tags = self.orthanc.json(f"instances/{name}/simplified-tags")
            if tags["StudyInstanceUID"] == row.study_uid:
                assert tags["SOPClassUID"] not in found
                found[tags["SOPClassUID"]] = pydicom.dcmread(self._file(name))
        return found

    def _file(self, name: str) -> Path:
        path = self.orthanc.folder / f"{name}.dcm"
        path.write_bytes(self.orthanc.get(f"instances/{name}/file"))
        return path


@contextlib.contextmanager
def running_node(folder: Path, orthanc: Orthanc, **node: object) -> Iterator[Site]:
    """``onfh listen`` as a program of its own, with the demo bundle."""
    pacs = {"name": "pacs", "ae_title": "ORTHANC", "host": "127.0.0.1", "port": orthanc.dicom}
    site = Site(folder / "state", free_port(), orthanc)
    config = {
        "state_dir": str(site.state_dir),
        "threads": 1,
        "node": {"port": site.port, **node},
        "http": {"port": free_port()},
        "series": {"quiet_s": 0.2},
        "disk": {"refuse_below_free_bytes": 0},
        "routes": [{"name": "default", "destinations": ["pacs"]}],
        "destinations": [{**pacs, "retry": {"first_s": 0.2, "most_s": 0.5}}],
    }
    (folder / "listen.yaml").write_text(json.dumps(config))
    command = [sys.executable, "-m", "onfh_runtime.cli.main", "listen", "--config", str(folder / "listen.yaml")]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stderr=log)
    try:
        until(lambda: b'"listening"' in (folder / "log").read_bytes() or process.poll() is not None, 60)
        assert process.poll() is None, (folder / "log").read_text()
        yield site
    finally:
        process.terminate()
        assert process.wait(60) == 0, (folder / "log").read_text()
    said = (folder / "log").read_text()
    assert "PACS-" not in said  # no patient in the log
    assert "PHANTOM" not in said


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    dcmtk("storescu")  # skips where there is none
    with running_orthanc(lambda: tmp_path_factory.mktemp("orthanc"), "ONFH") as archive:
        yield archive


@pytest.fixture(scope="module")
def site(orthanc: Orthanc, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with running_node(tmp_path_factory.mktemp("node"), orthanc) as running:
        yield running


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Dataset]:
    """Thirty coronal slices of a patient with a lesion on the right."""
    spec = random_spec(7, scanner="site_a", lesions="right", implant="none")
    paths = write_series(render(spec, coronal_grid(spec, 3.0, 2.0)), tmp_path_factory.mktemp("rendered"))
    return [pydicom.dcmread(path) for path in paths]


@pytest.fixture
def write(images: list[Dataset], tmp_path: Path) -> Write:
    """Writes the slices as a study of another patient, by number."""

    def written(number: int) -> list[Path]:
        paths = []
        for k, image in enumerate(images, 1):
            image.StudyInstanceUID, image.SeriesInstanceUID = f"{ROOT}.{number}", f"{ROOT}.{number}.1"
            image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = f"{ROOT}.{number}.1.{k}"
            image.PatientID, image.PatientName = f"PACS-{number}", f"PHANTOM^{number}"
            image.AccessionNumber = f"A{number}"
            paths.append(tmp_path / f"{k:03d}.dcm")
            image.save_as(paths[-1])
        return paths

    return written


def result_of(row: SeriesRow) -> Result:
    assert row.folder is not None
    return Result.model_validate_json((row.folder / "result.json").read_bytes())


def sources_in(report: Dataset) -> dict[str, set[str]]:
    """The objects that a report is about, by series."""
    return {
        str(series.SeriesInstanceUID): {str(one.ReferencedSOPInstanceUID) for one in series.ReferencedSOPSequence}
        for study in report.CurrentRequestedProcedureEvidenceSequence
        for series in study.ReferencedSeriesSequence
    }


def check_identities(kept: dict[str, Dataset], paths: list[Path]) -> None:
    """SR and SEG, and nothing else, of the patient, the study and the very images that were sent."""
    assert kept.keys() == {SR, SEG}
    sent = [pydicom.dcmread(path, stop_before_pixels=True) for path in paths]
    uids = {str(image.SOPInstanceUID) for image in sent}
    for made in kept.values():
        for keyword in ("PatientID", "PatientName", "StudyInstanceUID", "AccessionNumber"):
            assert made[keyword].value == sent[0][keyword].value, keyword
        assert made.SeriesInstanceUID != sent[0].SeriesInstanceUID
    report, mask = kept[SR], kept[SEG]
    assert mask.FrameOfReferenceUID == sent[0].FrameOfReferenceUID
    series = {str(one.SeriesInstanceUID): one for one in mask.ReferencedSeriesSequence}
    assert set(series) == {str(sent[0].SeriesInstanceUID)}
    referenced = series[str(sent[0].SeriesInstanceUID)].ReferencedInstanceSequence
    assert {str(one.ReferencedSOPInstanceUID) for one in referenced} <= uids
    derived = {
        str(source.ReferencedSOPInstanceUID)
        for frame in mask.PerFrameFunctionalGroupsSequence
        for derivation in frame.DerivationImageSequence
        for source in derivation.SourceImageSequence
    }
    assert derived
    assert derived <= uids
    about = sources_in(report)
    assert about[str(sent[0].SeriesInstanceUID)] == uids
    assert about[str(mask.SeriesInstanceUID)] == {str(mask.SOPInstanceUID)}


def test_a_study_comes_back_as_sr_and_seg_of_the_same_patient_and_images(site: Site, write: Write) -> None:
    paths = write(1)
    assert send(site.port, *paths).returncode == 0
    row = site.delivered(paths)
    kept = site.kept(row)
    check_identities(kept, paths)
    result = result_of(row)
    assert result.status == "succeeded"
    assert result.sides is not None
    assert (result.sides.right.state, result.sides.left.state) == ("positive", "negative")
    assert row.folder is not None
    for sop_class, name in ((SR, "sr.dcm"), (SEG, "seg.dcm")):
        assert kept[sop_class] == pydicom.dcmread(row.folder / name)
    assert send(site.orthanc.dicom, *paths[:1], options=("-R", "-aet", "ONFH")).returncode == 0
    studies = [site.orthanc.json(f"studies/{name}") for name in site.orthanc.json("studies")]
    own = [study for study in studies if study["PatientMainDicomTags"]["PatientID"] == "PACS-1"]
    assert [len(study["Series"]) for study in own] == [3]  # the images' own, the SR's, the SEG's


def test_a_resend_by_another_program_multiplies_nothing(site: Site, write: Write) -> None:
    paths = write(2)
    assert send(site.port, *paths).returncode == 0
    row = site.delivered(paths)
    before = {uid: one.SOPInstanceUID for uid, one in site.kept(row).items()}
    again = [dcmtk("dcmsend"), "-aec", "ONFH", "127.0.0.1", str(site.port), *map(str, paths)]
    assert subprocess.run(again, timeout=60, check=False).returncode == 0
    time.sleep(1.0)  # five times what makes a series complete
    assert site.row(paths) == row
    assert {uid: one.SOPInstanceUID for uid, one in site.kept(row).items()} == before


@pytest.mark.parametrize(
    ("number", "tool", "option"),
    [(3, "dcmcrle", "-xr"), (4, "dcmcjpls", "-xt"), (5, "dcmcjpeg", "-xs")],
    ids=["rle", "jpeg-ls", "jpeg-lossless"],
)
def test_a_compressed_series_gives_the_same_answer(
    site: Site, write: Write, number: int, tool: str, option: str
) -> None:
    paths = write(number)
    for path in paths:
        subprocess.run([dcmtk(tool), str(path), str(path)], check=True, timeout=60)
    assert pydicom.dcmread(paths[0]).file_meta.TransferSyntaxUID.is_compressed
    assert send(site.port, *paths, options=(option,)).returncode == 0
    row = site.delivered(paths)
    check_identities(site.kept(row), paths)
    assert seen(row) == seen_plain(site, write)


def test_an_enhanced_series_gives_the_same_answer(site: Site, write: Write, tmp_path: Path) -> None:
    paths = write(6)
    save(enhanced([pydicom.dcmread(path) for path in paths], uid=f"{ROOT}.6.1.99"), tmp_path / "enhanced.dcm")
    assert send(site.port, tmp_path / "enhanced.dcm").returncode == 0
    row = site.delivered([tmp_path / "enhanced.dcm"])
    check_identities(site.kept(row), [tmp_path / "enhanced.dcm"])
    assert seen(row) == seen_plain(site, write)


def seen(row: SeriesRow) -> Any:
    """What both stages said, which no way of sending the same images may change."""
    result = result_of(row)
    assert result.sides is not None
    return result.patient, result.sides.right, result.sides.left, [one.probability for one in result.slices]


def seen_plain(site: Site, write: Write) -> Any:
    """The same for the images as they are; sent once."""
    paths = write(7)
    if site.row(paths) is None:
        assert send(site.port, *paths).returncode == 0
    return seen(site.answered(paths))


def test_an_archive_that_was_down_gets_what_it_missed(site: Site, write: Write) -> None:
    paths = write(8)
    site.orthanc.stop()
    try:
        assert send(site.port, *paths).returncode == 0
        row = site.answered(paths)
        time.sleep(0.5)
        assert site.deliveries(row) == ["pending", "pending"]
    finally:
        assert site.orthanc.start()
    check_identities(site.kept(site.delivered(paths)), paths)


def test_a_scanner_that_speaks_tls_is_answered(orthanc: Orthanc, write: Write, tmp_path: Path) -> None:
    new = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2")
    for name, signed in (("ca", ()), ("node", ("-CA", "ca.pem", "-CAkey", "ca.key")),
                         ("scanner", ("-CA", "ca.pem", "-CAkey", "ca.key"))):  # fmt: skip
        made = ("-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.pem")
        subprocess.run(["openssl", "req", "-x509", *new, *signed, *made], cwd=tmp_path, check=True, capture_output=True)
    files = {name: str(tmp_path / file) for name, file in
             (("certificate", "node.pem"), ("key", "node.key"), ("ca", "ca.pem"))}  # fmt: skip
    paths = write(9)
    with running_node(tmp_path, orthanc, tls=files) as site:
        assert send(site.port, *paths).returncode != 0
        own = ("+tls", str(tmp_path / "scanner.key"), str(tmp_path / "scanner.pem"), "+cf", files["ca"])
        done = send(site.port, *paths, options=own)
        assert done.returncode == 0, done.stderr
        check_identities(site.kept(site.delivered(paths)), paths)
