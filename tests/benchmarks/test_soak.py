"""Fault runs of a node in their short form, and that their judge sees what is wrong."""

from __future__ import annotations

import json
import shutil
import sqlite3
from pathlib import Path

import pytest
import soak
from listen_audit import SR, audit
from listen_faults import site
from listen_memory import growth
from listen_site import Archive, Node
from pydicom import dcmread
from pydicom.uid import generate_uid
from scanner import dcmtk

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("part", soak.PARTS)
def test_nothing_is_lost_and_nothing_double(part, tmp_path):
    dcmtk("storescu")
    figures = tmp_path / "figures.json"
    status = soak.main(["--short", "--only", part, "--json", str(figures)])
    results = json.loads(figures.read_text())["results"][part]
    assert (status, results["faults"]) == (0, [])
    assert results["acknowledged_objects"] > 0


@pytest.mark.parametrize("function", [lambda folder: {"faults": ["lost"]}, lambda folder: 1 / 0])
def test_a_part_that_fails_is_told(function, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(soak.PARTS, "stalled", (function, {}, {}))
    figures = tmp_path / "figures.json"
    assert soak.main(["--short", "--only", "stalled", "--json", str(figures)]) == 1
    (fault,) = json.loads(figures.read_text())["results"]["stalled"]["faults"]
    assert f"stalled: {fault}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "step", "told"),
    [
        ("rss_kb", 100, []),
        ("rss_kb", 300, []),
        ("rss_kb", 400, ["resident memory grew by 6.3 %"]),
        ("threads", 1, ["threads grew from 40.5 to 200.5"]),
        ("open_files", 0.01, []),
        ("open_files", 1, ["open_files grew from 40.5 to 200.5"]),
    ],
)
def test_what_grows_is_told(name, step, told):
    start = {"rss_kb": 1_000_000, "threads": 11, "open_files": 11}
    samples = [start | {name: start[name] + step * study} for study in range(200)]
    assert growth(samples, 5.0)[1] == told


@pytest.fixture(scope="module")
def answered(tmp_path_factory):
    """The folder of a site that answered two series, and the series."""
    dcmtk("storescu")
    root = tmp_path_factory.mktemp("audit") / "site"
    with site(root) as at:
        at.node.start()
        sent = [at.scanner.series(number) for number in range(2)]
        assert all(at.scanner.send(at.node.port, one.paths, one) for one in sent)
        assert at.audited(sent)["faults"] == []
        at.node.stop()
    return root, sent


def objects(root: Path) -> list[Path]:
    return sorted(path for path in (root / "state" / "objects").iterdir() if path.stat().st_size)


def archived(root: Path, sop_class: str) -> Path:
    return next(path for path in sorted((root / "archive").iterdir()) if dcmread(path).SOPClassUID == sop_class)


def change(path: Path, to: Path | None = None, **values: object) -> None:
    dataset = dcmread(path)
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    dataset.save_as(to or path)


def journal(root: Path, statement: str) -> None:
    database = sqlite3.connect(root / "state" / "journal.sqlite")
    with database:
        assert database.execute(statement).rowcount > 0
    database.close()


def reports_less(root: Path) -> None:
    path = next((root / "state" / "results").glob("*/*/sr.dcm"))
    dataset = dcmread(path)
    del dataset.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence[0]
    dataset.save_as(path)


def second_report(root: Path) -> None:
    uid = generate_uid(entropy_srcs=["second"])
    change(archived(root, SR), root / "archive" / "second", SOPInstanceUID=uid)


FAULTS = {
    "an object is gone": (lambda root: objects(root)[3].unlink(), "was acknowledged and is lost"),
    "an object is another": (lambda root: change(objects(root)[3], PatientName="Other"), "is not what was sent"),
    "a file is left over": (lambda root: (root / "state" / "objects" / "x").write_bytes(b"x"), "belong to nothing"),
    "a SEG did not arrive": (
        lambda root: archived(root, "1.2.840.10008.5.1.4.1.1.66.4").unlink(),
        "is not in the archive",
    ),
    "two reports of one series": (second_report, "report on the same images"),
    "one UID, two contents": (
        lambda root: change(archived(root, SR), root / "archive" / "other", ContentTime="000000"),
        "came to the archive with two contents",
    ),
    "an image was left out": (reports_less, "is of 29 images"),
    "a series is forgotten": (
        lambda root: journal(root, "DELETE FROM series WHERE series_uid LIKE '%.1.1'"),
        "is not in the journal",
    ),
    "a series is set aside": (
        lambda root: journal(root, "UPDATE series SET state = 'set_aside', code = 'x' WHERE rowid = 1"),
        "is set_aside",
    ),
    "a delivery waits": (
        lambda root: journal(root, "UPDATE deliveries SET state = 'pending' WHERE id = 1"),
        "has deliveries that are ['pending', 'sent']",
    ),
    "nothing was to be sent": (
        lambda root: journal(root, "DELETE FROM deliveries WHERE path LIKE '%/seg.dcm'"),
        "was to send",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_audit_sees_what_is_wrong(fault, answered, tmp_path):
    was, sent = answered
    damage, told = FAULTS[fault]
    archive = Archive(tmp_path / "archive")
    for name in ("archive", "state"):
        shutil.copytree(was / name, tmp_path / name, dirs_exist_ok=True)
    node = Node(tmp_path, archive)
    assert audit(node, archive, sent)["faults"] == []
    damage(tmp_path)
    faults = audit(node, archive, sent)["faults"]
    assert any(told in one for one in faults), faults
