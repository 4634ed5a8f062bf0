import csv
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest

from onfh_runtime.errors import UsageError
from onfh_runtime.phantom.cohort import COLUMNS, cohort, write_cohort
from onfh_runtime.phantom.spec import SCANNERS


def test_three_sites_are_split_by_patient_and_the_fourth_is_external() -> None:
    cases = cohort(3, 20, 7)
    assert len(cases) == 67
    assert len({case.patient for case in cases}) == len({case.spec.seed for case in cases}) == 67
    for site in ("site_a", "site_b", "site_c"):
        splits = Counter(case.split for case in cases if case.site == site)
        assert splits == {"train": 14, "validation": 2, "test": 4}
    assert {case.split for case in cases if case.site == "external"} == {"external"}
    assert all(case.spec.scanner == SCANNERS[case.site] for case in cases)
    assert cases == cohort(3, 20, 7)
    assert not {case.spec.seed for case in cases} & {case.spec.seed for case in cohort(4, 20, 7)}


def test_a_cohort_on_disk_is_whole(tmp_path: Path) -> None:
    pixel = replace(SCANNERS["site_a"], coronal_spacing_mm=2.0)
    cases = [replace(case, spec=replace(case.spec, scanner=pixel)) for case in cohort(3, 1, 1)[::3]]
    table = write_cohort(cases, tmp_path / "cohort")
    with table.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    assert [row["patient"] for row in rows] == [case.patient for case in cases]
    for row in rows:
        files = sorted((table.parent / row["series"]).glob("*.dcm"))
        with np.load(table.parent / row["truth"]) as truth:
            assert len(files) == len(truth["mask"]) == 30
            assert pydicom.dcmread(files[0]).pixel_array.shape == truth["mask"].shape[1:]
        slices = json.loads((table.parent / row["patient"] / "truth.json").read_text())["slices"]
        assert float(pydicom.dcmread(files[4]).ImagePositionPatient[1]) == pytest.approx(
            slices[4]["position_mm"], abs=1e-3
        )
    assert not list(table.parent.glob(".*"))
    with pytest.raises(UsageError):
        write_cohort(cases, tmp_path / "cohort")
