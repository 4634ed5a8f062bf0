"""cases.csv: who is in which split, and what is refused."""

import numpy as np
import pytest

from onfh_export.dataset import SliceLabels, TruthMask, read_cases, read_truth
from onfh_runtime.errors import UsageError

HEAD = "patient,site,split,series,truth\n"


def _folder(tmp_path, lines):
    (tmp_path / "s").mkdir(exist_ok=True)
    np.savez(tmp_path / "t.npz", mask=np.zeros((1, 2, 2), np.uint8), affine=np.eye(4))
    (tmp_path / "cases.csv").write_text(HEAD + "".join(line + "\n" for line in lines))
    return tmp_path


def test_empty_splits_are_dealt_by_patient_and_stay_the_same(tmp_path):
    lines = [f"p{i // 2},{'external' if i >= 80 else 'a'},,s,t.npz" for i in range(100)]
    cases = read_cases(_folder(tmp_path, lines), 1)
    counts = {split: sum(c.split == split for c in cases) for split in ("train", "validation", "test", "external")}
    assert counts == {"train": 56, "validation": 8, "test": 16, "external": 20}
    assert len({(c.patient, c.split) for c in cases}) == 50
    assert read_cases(tmp_path, 1) == cases
    assert [c.split for c in read_cases(tmp_path, 2)] != [c.split for c in cases]


def test_a_patient_with_one_given_split_keeps_all_series_there(tmp_path):
    cases = read_cases(_folder(tmp_path, ["p,a,test,s,t.npz", "p,a,,s,t.npz"]), 0)
    assert [c.split for c in cases] == ["test", "test"]


@pytest.mark.parametrize(
    ("lines", "word"),
    [
        (["p,a,train,s,t.npz", "p,a,test,s,t.npz"], "two splits"),
        (["p,a,training,s,t.npz"], "training"),
        (["p,a,train,s,"], "truth is empty"),
        (["p,a,train,missing,t.npz"], "missing"),
        (["p,a,train,s,../t.npz"], "not below"),
    ],
)
def test_a_bad_line_is_refused(tmp_path, lines, word):
    with pytest.raises(UsageError, match=word):
        read_cases(_folder(tmp_path, lines), 0)


def test_a_folder_without_cases_or_columns_is_refused(tmp_path):
    with pytest.raises(UsageError, match="cases_missing"):
        read_cases(tmp_path, 0)
    (tmp_path / "cases.csv").write_text("patient,series\n")
    with pytest.raises(UsageError, match="columns"):
        read_cases(tmp_path, 0)


def test_truth_is_a_mask_or_slice_labels(tmp_path):
    np.savez(tmp_path / "m.npz", mask=np.array([[[0, 2]]], np.uint8), affine=np.eye(4))
    mask = read_truth(tmp_path / "m.npz")
    assert isinstance(mask, TruthMask)
    assert mask.mask.tolist() == [[[False, True]]]
    (tmp_path / "slices.csv").write_text("position_mm,label\n-3.5,1\n0,0\n")
    labels = read_truth(tmp_path / "slices.csv")
    assert isinstance(labels, SliceLabels)
    assert labels.positions_mm.tolist() == [-3.5, 0]
    assert labels.positive.tolist() == [True, False]


def test_truth_that_needs_pickle_or_lacks_a_field_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", mask=np.array([{}], object), affine=np.eye(4))
    np.savez(tmp_path / "b.npz", mask=np.zeros((1, 1, 1)))
    (tmp_path / "c.csv").write_text("position_mm\n1\n")
    for name in ("a.npz", "b.npz", "c.csv"):
        with pytest.raises(UsageError, match="truth_invalid"):
            read_truth(tmp_path / name)
