"""The reference is read as the runtime reads it; what it refuses is counted, and nothing at all is an error."""

import mmap
import resource
import shutil
from dataclasses import replace

import numpy as np
import pytest

from onfh_export.parity_compare import Truth
from onfh_export.reference import reference_studies, sample_rows
from onfh_export.reference_phantoms import phantom_studies
from onfh_runtime.answer import prepare
from onfh_runtime.dicom import find_series, read_volume
from onfh_runtime.errors import OutputError, UsageError
from onfh_runtime.preprocess import stage_input
from onfh_runtime.timing import Stopwatch

SPACING_MM = 3.0


@pytest.fixture(scope="module")
def phantoms(rules):
    calls = []
    found = reference_studies(None, rules, count=3, seed=5, progress=lambda *step: calls.append(step))
    assert calls == [(1, 3), (2, 3), (3, 3)]
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One sick phantom as a user has it: a folder of DICOM files, with something else beside them."""
    root = tmp_path_factory.mktemp("reference")
    work = tmp_path_factory.mktemp("work")
    for study in phantom_studies(work, SPACING_MM, 1, 5):
        shutil.copytree(work, root / "one" / "series")
        np.savez(root / "one" / "truth.npz", mask=study.truth.mask, affine=study.truth.affine)
    (root / "notes.txt").write_text("no image")
    return root


def test_phantoms_have_truth_on_the_analysed_slices(phantoms):
    assert (phantoms.kind, phantoms.seed, phantoms.refused) == ("phantoms", 5, {})
    assert [study.label for study in phantoms.studies] == [
        "phantom 5000000 (lesion right)",
        "phantom 5000001 (no lesion)",
        "phantom 5000002 (lesion left)",
    ]
    for study, sick in zip(phantoms.studies, (True, False, True), strict=True):
        assert study.truth.mask.shape == study.prepared.stack.hu.shape
        assert study.truth.known.all()
        assert study.truth.positive.any() == study.truth.mask.any() == sick
        # Necrosis lies in a head, so the box that the stages see holds all of it.
        _, rows, columns = study.prepared.box
        assert study.truth.mask[:, rows, columns].sum() == study.truth.mask.sum()


def test_the_same_seed_gives_the_same_reference(phantoms, rules):
    again = reference_studies(None, rules, count=1, seed=5)
    np.testing.assert_array_equal(again.studies[0].prepared.stack.hu, phantoms.studies[0].prepared.stack.hu)
    other = reference_studies(None, rules, count=1, seed=6)
    assert other.studies[0].label != again.studies[0].label


def test_a_folder_is_prepared_as_the_runtime_does_and_lies_outside_memory(folder, rules):
    found = reference_studies(folder, rules)
    (study,) = found.studies
    assert (found.kind, found.seed, study.truth) == ("studies", None, None)
    (candidate,), _ = find_series([folder])
    expected = prepare(read_volume(candidate)[0], rules, Stopwatch())
    assert study.label == candidate.study_instance_uid
    for name in ("seen", "stack"):
        np.testing.assert_array_equal(getattr(study.prepared, name).hu, getattr(expected, name).hu)
        np.testing.assert_array_equal(getattr(study.prepared, name).affine, getattr(expected, name).affine)
        assert not getattr(study.prepared, name).hu.flags.writeable
        assert _is_mapped(getattr(study.prepared, name).hu)


def test_a_full_disk_is_an_error_with_a_name(folder, rules):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(OutputError, match="output_unwritable"):
            reference_studies(folder, rules)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_cases_bring_their_truth(folder, rules, tmp_path, phantoms):
    shutil.copytree(folder, tmp_path / "data")
    positions = phantoms.studies[0].prepared.stack.positions_mm
    (tmp_path / "data" / "labels.csv").write_text(f"position_mm,label\n{positions[3]},1\n{positions[5]},0\n")
    (tmp_path / "data" / "cases.csv").write_text(
        "patient,site,split,series,truth\np,a,train,one/series,one/truth.npz\nq,a,test,one/series,labels.csv\n"
    )
    found = reference_studies(tmp_path / "data", rules)
    masked, labelled = found.studies
    np.testing.assert_array_equal(masked.truth.mask, phantoms.studies[0].truth.mask)
    np.testing.assert_array_equal(masked.truth.positive, phantoms.studies[0].truth.positive)
    assert labelled.truth.mask is None
    assert np.flatnonzero(labelled.truth.known).tolist() == [3, 5]
    assert np.flatnonzero(labelled.truth.positive).tolist() == [3]
    assert labelled.label == f"{masked.label} (2)"  # one study, two cases


def test_what_the_runtime_refuses_is_counted(folder, rules, tmp_path):
    shutil.copytree(folder / "one", tmp_path / "data")
    files = sorted((tmp_path / "data" / "series").iterdir())
    broken = tmp_path / "data" / "broken.dcm"
    broken.write_bytes(files[0].read_bytes()[:200])
    found = reference_studies(tmp_path / "data", rules)
    assert len(found.studies) == 1
    assert list(found.refused.values()) == [1]
    files[10].unlink()
    with pytest.raises(UsageError, match=r"1 x missing_slice: .* \[reference_unusable\]"):
        reference_studies(tmp_path / "data", rules)


def test_a_folder_without_a_study_is_refused(rules, tmp_path):
    with pytest.raises(UsageError, match="there is no CT series"):
        reference_studies(tmp_path, rules)
    with pytest.raises(UsageError, match="input_not_found"):
        reference_studies(tmp_path / "absent", rules)


def test_a_case_with_two_series_is_refused(folder, rules, tmp_path):
    (tmp_path / "cases.csv").write_text("patient,site,split,series,truth\np,a,,s,t.npz\n")
    (tmp_path / "s").mkdir()
    shutil.copy(folder / "one" / "truth.npz", tmp_path / "t.npz")
    with pytest.raises(UsageError, match=r"1 x not_one_series: A case's folder holds 0 CT series"):
        reference_studies(tmp_path, rules)


def test_rows_hold_the_most_positive_slices_and_are_spread(phantoms, rules):
    studies = phantoms.studies
    spec = rules.segmenter.input
    rows = sample_rows(studies, spec, 8, 0)
    assert rows.shape == (8, 1, *spec.size)
    assert rows.dtype == np.float32
    assert len(np.unique(rows.reshape(8, -1), axis=0)) == 8
    for study in (studies[0], studies[2]):
        best = int(study.truth.mask.sum(axis=(1, 2)).argmax())
        assert _among(rows, _row(study, best, spec))
    assert any(_among(rows, _row(studies[1], index, spec)) for index in range(len(studies[1].prepared.seen.hu)))
    np.testing.assert_array_equal(rows, sample_rows(studies, spec, 8, 0))
    assert not np.array_equal(rows, sample_rows(studies, spec, 8, 1))


def test_rows_follow_scores_where_there_are_any_and_are_no_more_than_the_slices(phantoms, rules):
    study = replace(phantoms.studies[1], truth=None)
    count, spec = len(study.prepared.seen.hu), rules.classifier.input
    scores = np.zeros(count)
    scores[2] = 0.9
    assert _among(sample_rows([study], spec, 2, 0, scores=[scores]), _row(study, 2, spec))
    assert len(sample_rows([study], spec, 10 * count, 0)) == count


def test_labels_rank_rows_where_there_is_no_mask(phantoms, rules):
    study = phantoms.studies[1]
    positive = np.zeros(len(study.prepared.seen.hu), np.bool_)
    positive[4] = True
    labelled = replace(study, truth=Truth(positive, np.ones_like(positive)))
    spec = rules.classifier.input
    assert _among(sample_rows([labelled], spec, 2, 0), _row(study, 4, spec))


def _row(study, index, spec):
    seen = study.prepared.seen
    return stage_input(seen, spec)[index]


def _among(rows, row):
    return any(np.array_equal(row, other) for other in rows)


def _is_mapped(array):
    while array is not None:
        if isinstance(array, mmap.mmap):
            return True
        array = getattr(array, "base", None)
    return False
