"""A study's worth of phantom patients: three internal sites split 7:1:2 by patient, and an external one."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Literal

import numpy as np

from onfh_runtime.errors import UsageError
from onfh_runtime.phantom.anatomy import render
from onfh_runtime.phantom.series import write_series, write_truth
from onfh_runtime.phantom.spec import SCANNERS, PhantomSpec, random_spec
from onfh_runtime.phantom.stack import coronal_from, coronal_grid

__all__ = ["MARKER", "CohortCase", "cohort", "write_case", "write_cohort"]

Split = Literal["train", "validation", "test", "external"]
MARKER = "phantoms.json"
"""Beside cases.csv: says that the patients are phantoms, so that whatever is trained on them says so too."""
COLUMNS = ("patient", "site", "split", "series", "truth")
SITES = ("site_a", "site_b", "site_c")
SHARES = (0.7, 0.1)
"""Training and validation; the rest is the test set."""
SLAB_MM = 3.0


@dataclass(frozen=True)
class CohortCase:
    """One patient of a cohort."""

    patient: str
    site: str
    split: Split
    spec: PhantomSpec


def cohort(seed: int, patients_per_site: int, external: int) -> list[CohortCase]:
    """Draw a cohort; the same arguments give the same patients, and a larger one is not an extension of a smaller.

    Args:
        seed: names the cohort; cohorts of different seeds share no patient.
        patients_per_site: for each of the three internal sites.
        external: for the fourth site.
    """
    cases: list[CohortCase] = []
    serial = seed * 1_000_000
    for site in (*SITES, "external"):
        count = external if site == "external" else patients_per_site
        order = np.random.default_rng([seed, 7, len(cases)]).permutation(count)
        train, validation = round(SHARES[0] * count), round(SHARES[1] * count)
        for k in range(count):
            rank = int(order[k])
            split: Split = "train" if rank < train else "validation" if rank < train + validation else "test"
            if site == "external":
                split = "external"
            serial += 1
            spec = random_spec(serial, scanner=SCANNERS[site])
            cases.append(CohortCase(f"{site}-{k + 1:04d}", site, split, spec))
    return cases


def write_case(case: CohortCase, folder: Path) -> dict[str, str]:
    """Render one patient as native 3 mm coronal slices into ``folder/<patient>``, whole or not at all.

    Returns:
        The row of cases.csv: paths relative to ``folder``.
    """
    final, partial_folder = folder / case.patient, folder / f".{case.patient}.partial"
    for left_over in (final, partial_folder):
        shutil.rmtree(left_over, ignore_errors=True)
    phantom = coronal_from(render(case.spec, coronal_grid(case.spec)), SLAB_MM)
    write_series(phantom, partial_folder / "series", plane="coronal", description="Hip coronal 3 mm")
    write_truth(phantom, partial_folder)
    partial_folder.rename(final)
    series, truth = f"{case.patient}/series", f"{case.patient}/truth.npz"
    return {"patient": case.patient, "site": case.site, "split": case.split, "series": series, "truth": truth}


def _rows(cases: Sequence[CohortCase], folder: Path, workers: int) -> Iterator[dict[str, str]]:
    work = partial(write_case, folder=folder)
    if workers <= 1:
        yield from map(work, cases)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from pool.map(work, cases)


def write_cohort(cases: Sequence[CohortCase], folder: Path, workers: int = 1) -> Path:
    """Write every case, and last of all ``phantoms.json`` (what they are) and ``cases.csv``.

    Args:
        cases: from :func:`cohort`.
        folder: must hold no cohort yet.
        workers: processes.

    Returns:
        Path of cases.csv.

    Raises:
        UsageError: the folder already holds a cohort.
    """
    table = folder / "cases.csv"
    if table.exists():
        raise UsageError("cohort_exists", "The folder already holds a cohort.", "Name an empty folder.")
    folder.mkdir(parents=True, exist_ok=True)
    partial_table = folder / ".cases.csv.partial"
    with partial_table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(_rows(cases, folder, workers))
    (folder / MARKER).write_text(json.dumps({"phantoms": len(cases)}) + "\n", encoding="utf-8")
    partial_table.rename(table)
    return table
