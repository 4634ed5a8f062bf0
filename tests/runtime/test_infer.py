"""The main job end to end on a phantom, with real files and real ONNX Runtime sessions."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import generate_uid

from onfh_runtime.bundle import load_bundle
from onfh_runtime.cli.main import main
from onfh_runtime.infer import infer
from onfh_runtime.result import Result, Study

FILES = {"result.json", "report.html", "sr.dcm", "seg.dcm"}


def positive_bundle(folder, **changes):
    """The tiny bundle with the gate open and every patient positive: both stages run on every slice."""
    path = folder / "bundle.json"
    document = json.loads(path.read_text())
    document |= {"gate": {"threshold": 0.0}, "patient_rule": {"k": 3, "threshold": 0.0}} | changes
    path.write_text(json.dumps(document))
    return folder


def run(capsys, *arguments):
    code = main(["infer", *map(str, arguments)])
    return code, capsys.readouterr()


def change(folder, name, action):
    """Apply ``action`` to the dataset of one file of a series and write it back."""
    path = folder / name
    dataset = pydicom.dcmread(path)
    action(dataset)
    dataset.save_as(path)


@pytest.fixture
def study(phantom_study, tmp_path):
    shutil.copytree(phantom_study, tmp_path / "study")
    return tmp_path / "study"


@pytest.fixture
def coronal(study):
    return study / "coronal"


def names(folder):
    return sorted(path.name for path in folder.glob("*.dcm"))


def results_below(out):
    return [Result.model_validate_json(path.read_text()) for path in sorted(out.rglob("result.json"))]


def test_a_study_of_two_series(study, bundle_folder, tmp_path, capsys):
    out = tmp_path / "out"
    code, said = run(capsys, study, "--bundle", positive_bundle(bundle_folder), "--out", out)
    assert code == 0, said.err
    (listed,) = [Study.model_validate_json(path.read_text()) for path in out.glob("*/study.json")]
    assert [entry.outcome for entry in listed.series] == ["succeeded", "succeeded"]
    assert [entry.preferred for entry in listed.series] == [True, False]
    results = results_below(out)
    assert {r.geometry.acquired for r in results} == {"axial", "coronal"}
    for entry in listed.series:
        folder = out / listed.study_instance_uid / entry.folder
        assert {path.name for path in folder.iterdir()} == FILES
        assert folder.name == entry.series_instance_uid
    for result in results:
        assert result.patient.state == "positive"
        assert len(result.slices) == result.geometry.coronal_slices
        assert all((s.sop_instance_uid is None) == (result.geometry.acquired == "axial") for s in result.slices)
        assert result.timing_ms.total > 0
    assert "2 of 2 series analysed" in said.out
    assert "PHANTOM" not in said.out + said.err


def test_axial_and_its_own_coronal_give_the_same_answer(study, bundle_folder, tmp_path):
    bundle = load_bundle(positive_bundle(bundle_folder))
    report = infer([study], tmp_path / "out", bundle=bundle)
    axial, coronal = sorted(report.results, key=lambda r: r.geometry.acquired)
    by_position = {round(s.position_mm, 1): s.probability for s in coronal.slices}
    shared = [(s.probability, by_position.get(round(s.position_mm, 1))) for s in axial.slices]
    matched = np.array([pair for pair in shared if pair[1] is not None])
    assert len(matched) > 20
    assert np.abs(matched[:, 0] - matched[:, 1]).max() < 0.01


def test_the_same_input_gives_the_same_bytes(study, bundle_folder, tmp_path):
    bundle = load_bundle(positive_bundle(bundle_folder))
    seen = []
    for name in ("one", "two"):
        infer([study / "coronal"], tmp_path / name, bundle=bundle)
        (result,) = results_below(tmp_path / name)
        seg = pydicom.dcmread(next((tmp_path / name).rglob("seg.dcm")))
        sr = pydicom.dcmread(next((tmp_path / name).rglob("sr.dcm")))
        seen.append((seg.PixelData, seg.SOPInstanceUID, sr.SOPInstanceUID, result.slices, result.patient, result.sides))
    assert seen[0] == seen[1]


def test_two_studies_in_one_folder(study, bundle_folder, tmp_path, capsys):
    other = generate_uid(entropy_srcs=["another study"])
    for name in names(study / "axial"):
        change(study / "axial", name, lambda ds: setattr(ds, "StudyInstanceUID", other))
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    for index, path in enumerate(sorted(study.rglob("*.dcm"))):
        shutil.copy(path, mixed / f"{index}.bin")
    out = tmp_path / "out"
    code, _ = run(capsys, mixed, "--bundle", bundle_folder, "--out", out)
    assert code == 0
    assert len(list(out.glob("*/study.json"))) == 2
    assert all(result.preferred for result in results_below(out))


def test_json_prints_results_and_nothing_else(coronal, bundle_folder, tmp_path, capsys):
    code, said = run(capsys, coronal, "--bundle", bundle_folder, "--out", tmp_path / "out", "--json")
    assert code == 0
    (result,) = json.loads(said.out)
    assert Result.model_validate(result) == results_below(tmp_path / "out")[0]
    assert said.err == ""


def test_a_single_hip(bundle_folder, tmp_path):
    from onfh_runtime.phantom import axial_grid, random_spec, render, write_series

    spec = random_spec(3, scanner="site_a", lesions="none", field_of_view="left")
    write_series(render(spec, axial_grid(spec, slices=110, rows=128, columns=128)), tmp_path / "series")
    (result,) = infer([tmp_path / "series"], tmp_path / "out", bundle=load_bundle(bundle_folder)).results
    assert result.status == "succeeded"
    codes = {warning.code for warning in result.warnings}
    assert "single_hip" in codes
    if "side_ambiguous" in codes:
        assert {result.sides.left.state, result.sides.right.state} == {"undetermined"}
    else:
        assert result.sides.right.state == "not_analysed"
        assert result.sides.left.state != "not_analysed"
    assert result.patient.state != "negative"


# --- bad input: exit code, reason, one sentence, nothing half-written, the rest still analysed


def test_an_empty_folder(bundle_folder, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    code, said = run(capsys, tmp_path / "empty", "--bundle", bundle_folder, "--out", tmp_path / "out")
    assert code == 3
    assert "Nothing to analyse" in said.out


def test_no_such_folder(bundle_folder, tmp_path, capsys):
    code, said = run(capsys, tmp_path / "none", "--bundle", bundle_folder, "--out", tmp_path / "out")
    assert code == 2
    assert "[input_not_found]" in said.err
    assert not (tmp_path / "out").exists()


def test_a_folder_without_ct(coronal, bundle_folder, tmp_path, capsys):
    for name in names(coronal):

        def to_mr(ds):
            ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.4"
            ds.Modality = "MR"

        change(coronal, name, to_mr)
    out = tmp_path / "out"
    code, _ = run(capsys, coronal, "--bundle", bundle_folder, "--out", out)
    assert code == 3
    (listed,) = [Study.model_validate_json(path.read_text()) for path in out.glob("*/study.json")]
    assert [entry.outcome for entry in listed.series] == ["skipped"]
    assert results_below(out) == []


def test_a_text_file_named_dcm_is_told_and_the_rest_analysed(coronal, bundle_folder, tmp_path, capsys):
    (coronal / "notes.dcm").write_text("these are notes")
    code, said = run(capsys, coronal, "--bundle", bundle_folder, "--out", tmp_path / "out")
    assert code == 0
    assert "notes.dcm" in said.err
    assert "[not_dicom]" in said.err


def refused(study, bundle_folder, tmp_path, capsys):
    """Run on a study whose coronal series is bad; return its result. The axial one must be analysed all the same."""
    out = tmp_path / "out"
    code, _ = run(capsys, study, "--bundle", bundle_folder, "--out", out)
    assert code == 1
    by_plane = {r.geometry.acquired if r.geometry else "none": r for r in results_below(out)}
    assert by_plane["axial"].status == "succeeded"
    assert by_plane["axial"].preferred
    bad = by_plane["none"]
    assert (bad.status, bad.patient, bad.sides, bad.preferred) == ("not_analysed", None, None, False)
    folder = out / bad.study_instance_uid / bad.series_instance_uid
    assert {path.name for path in folder.iterdir()} == FILES - {"seg.dcm"}
    page = (folder / "report.html").read_text()
    assert bad.reason.code in page
    assert "negative" not in page.lower() or "not a negative" in page.lower()
    return bad


def test_a_truncated_file(study, bundle_folder, tmp_path, capsys):
    path = study / "coronal" / names(study / "coronal")[10]
    path.write_bytes(path.read_bytes()[:-5000])
    bad = refused(study, bundle_folder, tmp_path, capsys)
    assert bad.reason.code == "truncated"
    assert pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID in bad.reason.text
    assert path.name not in bad.reason.text


def test_a_series_with_a_hole(study, bundle_folder, tmp_path, capsys):
    (study / "coronal" / names(study / "coronal")[10]).unlink()
    assert refused(study, bundle_folder, tmp_path, capsys).reason.code == "missing_slice"


def test_not_a_hip(study, bundle_folder, tmp_path, capsys):
    for name in names(study / "coronal"):
        change(study / "coronal", name, lambda ds: setattr(ds, "PixelData", bytes(len(ds.PixelData))))
    assert refused(study, bundle_folder, tmp_path, capsys).reason.code == "anatomy_not_found"


def test_two_series_mixed_in_one_folder(study, bundle_folder, tmp_path, capsys):
    for name in names(study / "axial"):
        (study / "axial" / name).rename(study / "coronal" / f"a-{name}")
    code, _ = run(capsys, study / "coronal", "--bundle", bundle_folder, "--out", tmp_path / "out")
    assert code == 0
    assert len(results_below(tmp_path / "out")) == 2


def test_two_kernels_under_one_uid_become_parts(study, bundle_folder, tmp_path, capsys):
    folder = study / "coronal"
    for name in names(folder):
        dataset = pydicom.dcmread(folder / name)
        dataset.ConvolutionKernel = "SOFT"
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid(
            entropy_srcs=[dataset.SOPInstanceUID, "soft"]
        )
        dataset.save_as(folder / f"soft-{name}")
    out = tmp_path / "out"
    code, _ = run(capsys, folder, "--bundle", bundle_folder, "--out", out)
    assert code == 0
    results = results_below(out)
    assert [result.part for result in results] == [1, 2]
    assert {path.parent.name for path in out.rglob("result.json")} == {"part-1", "part-2"}
    assert len({pydicom.dcmread(path).SOPInstanceUID for path in out.rglob("sr.dcm")}) == 2


def test_a_bundle_with_a_wrong_hash_or_a_missing_file(coronal, bundle_folder, tmp_path, capsys):
    model = bundle_folder / "segmenter" / "model.onnx"
    model.write_bytes(model.read_bytes() + b"\0")
    code, said = run(capsys, coronal, "--bundle", bundle_folder, "--out", tmp_path / "out")
    assert (code, "[bundle_hash_mismatch]" in said.err) == (2, True)
    model.unlink()
    code, said = run(capsys, coronal, "--bundle", bundle_folder, "--out", tmp_path / "out")
    assert (code, "[bundle_file_missing]" in said.err) == (2, True)
    assert not (tmp_path / "out").exists()


def test_an_output_folder_that_cannot_be_written(coronal, bundle_folder, tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    code, said = run(capsys, coronal, "--bundle", bundle_folder, "--out", tmp_path / "file" / "out")
    assert code == 2
    assert "[output_unwritable]" in said.err
    assert (tmp_path / "file").read_text() == "in the way"


def test_a_second_run_leaves_no_stale_mask(coronal, bundle_folder, tmp_path, capsys):
    out = tmp_path / "out"
    run(capsys, coronal, "--bundle", positive_bundle(bundle_folder), "--out", out)
    assert list(out.rglob("seg.dcm"))
    positive_bundle(bundle_folder, patient_rule={"k": 1, "threshold": 1.0})
    run(capsys, coronal, "--bundle", bundle_folder, "--out", out)
    assert not list(out.rglob("seg.dcm"))
    assert results_below(out)[0].patient.state == "negative"


def test_a_header_that_cannot_be_put_into_words_fails_alone(study, bundle_folder, tmp_path, capsys, monkeypatch):
    from onfh_runtime.outputs import seg

    def fall_over(*args, **kwargs):
        raise ValueError("PHANTOM^0007 is odd")

    monkeypatch.setattr(seg, "seg_from_mask", fall_over)
    out = tmp_path / "out"
    code, said = run(capsys, study, "--bundle", positive_bundle(bundle_folder), "--out", out)
    assert code == 1
    results = results_below(out)
    assert [(r.status, r.reason.code, r.patient, r.preferred) for r in results] == [
        ("failed", "internal_error", None, False)
    ] * 2
    assert "PHANTOM" not in said.out + said.err
    assert len(list(out.rglob("study.json"))) == 1


def test_a_failure_that_cannot_be_reported_leaves_its_result(study, bundle_folder, tmp_path, capsys, monkeypatch):
    from onfh_runtime.outputs import sr

    def fall_over(*args, **kwargs):
        raise ValueError("odd")

    monkeypatch.setattr(sr, "sr_from_result", fall_over)
    out = tmp_path / "out"
    code, _ = run(capsys, study, "--bundle", bundle_folder, "--out", out)
    assert code == 1
    assert [result.status for result in results_below(out)] == ["failed", "failed"]
    assert len(list(out.rglob("study.json"))) == 1


def test_a_wrong_time_zone_does_not_stop_the_outputs(study, bundle_folder, tmp_path, capsys):
    for name in names(study / "coronal"):
        change(study / "coronal", name, lambda ds: setattr(ds, "TimezoneOffsetFromUTC", "+9900"))
    code, _ = run(capsys, study / "coronal", "--bundle", bundle_folder, "--out", tmp_path / "out")
    assert code == 0


def test_a_damaged_neighbour_is_a_warning_in_the_result(coronal, bundle_folder, tmp_path, capsys):
    path = coronal / names(coronal)[0]
    path.write_bytes(path.read_bytes()[:700])
    code, _ = run(capsys, coronal, "--bundle", bundle_folder, "--out", tmp_path / "out")
    (result,) = results_below(tmp_path / "out")
    assert code == 0
    assert "unreadable_files" in {warning.code for warning in result.warnings}


def test_two_runs_into_one_folder_keep_one_preferred_series(study, bundle_folder, tmp_path, capsys):
    out = tmp_path / "out"
    for plane in ("coronal", "axial"):
        run(capsys, study / plane, "--bundle", bundle_folder, "--out", out)
    (listed,) = [Study.model_validate_json(path.read_text()) for path in out.glob("*/study.json")]
    assert [entry.preferred for entry in listed.series] == [True, False]
    assert sorted(result.preferred for result in results_below(out)) == [False, True]


def test_an_unknown_backend_is_wrong_usage(coronal, bundle_folder, tmp_path, capsys):
    out = tmp_path / "out"
    code, said = run(capsys, coronal, "--bundle", bundle_folder, "--out", out, "--backend", "abacus")
    assert code == 2
    assert "[unknown_backend]" in said.err
    assert not list(out.rglob("*.json"))


def test_no_half_written_file_is_left(study, bundle_folder, tmp_path, capsys):
    out = tmp_path / "out"
    run(capsys, study, "--bundle", positive_bundle(bundle_folder), "--out", out)
    assert {path.name for path in out.rglob("*") if path.is_file()} == FILES | {"study.json"}


def test_uids_that_are_paths_stay_inside_out(coronal, bundle_folder, tmp_path):
    from onfh_runtime.outputs.series_folder import folder_name

    assert folder_name("1.2.3") == "1.2.3"
    for evil in ("../../etc", "/etc", "..", "", "1.2/3", "1" * 65):
        assert Path(folder_name(evil)).name == folder_name(evil)
        assert folder_name(evil).startswith("uid-")
