"""The tables of ``onfh evaluate`` for the demo bundle, over phantoms that no training and no threshold has seen.

Patients of a cohort of its own are drawn at three internal sites and an external one, rendered as native coronal
series, analysed by ``infer`` and held against their truth: labels of slices, hips and patients, and masks. Series are
deleted once they are analysed (10 MB a patient); results, truth and report stay.

Phantoms prove the plumbing and numerical drift, never clinical performance, and the report says so. Not measured: speed
(the time printed is that of rendering and everything else together), real anatomy, any scanner.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

SEED = 101
"""Of the cohort; 11 trained the demo stages and froze their thresholds, 31 is the exporter's parity."""
BATCH = 5
"""Patients whose series are on the disk at a time, in each process."""
COLUMNS = (
    "patient",
    "study",
    "series",
    "position_mm",
    "label",
    "site",
    "split",
    "patient_label",
    "right",
    "left",
    "mask",
)
NOTE = (
    "These are phantoms: synthetic patients from the generator that also made the training data. The figures prove the "
    "plumbing and say nothing of clinical performance."
)


def answered(numbers: Sequence[int], *, per_site: int, external: int, bundle: Path, out: Path) -> list[dict[str, Any]]:
    """Render and analyse some patients of the cohort; the work of one process.

    Returns:
        Lines of the truth table, one for each slice.
    """
    import pydicom

    from onfh_runtime.bundle import load_bundle
    from onfh_runtime.infer import infer
    from onfh_runtime.phantom.cohort import cohort, write_case

    cases = cohort(SEED, per_site, external)
    folder = out / f".series-{numbers[0]}"
    folder.mkdir(parents=True)
    lines: list[dict[str, Any]] = []
    for case in (cases[number] for number in numbers):
        row = write_case(case, folder)
        header = pydicom.dcmread(next((folder / row["series"]).iterdir()), stop_before_pixels=True)
        truth = json.loads((folder / case.patient / "truth.json").read_text(encoding="utf-8"))
        shutil.move(folder / row["truth"], out / "truth" / f"{case.patient}.npz")
        of_patient = {
            "patient": case.patient,
            "study": header.StudyInstanceUID,
            "series": header.SeriesInstanceUID,
            "site": case.site,
            "split": "external" if case.split == "external" else "test",
            "patient_label": int(truth["patient_positive"]),
            **{side: int(positive) for side, positive in truth["sides"].items()},
            "mask": f"truth/{case.patient}.npz",
        }
        lines += [
            of_patient | {"position_mm": each["position_mm"], "label": int(each["label"])} for each in truth["slices"]
        ]
    infer([folder], out / "results", bundle=load_bundle(bundle), threads=1)
    shutil.rmtree(folder)
    return lines


def all_lines(patients: int, workers: int, bundle: Path, out: Path) -> Iterator[list[dict[str, Any]]]:
    """Truth of every batch of patients, in the order of the cohort, once it is analysed."""
    per_site = patients // 4
    external = patients - 3 * per_site
    batches = [list(range(start, min(start + BATCH, patients))) for start in range(0, patients, BATCH)]
    work = partial(answered, per_site=per_site, external=external, bundle=bundle, out=out)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from pool.map(work, batches)


def evaluated(out: Path, rounds: int) -> dict[str, Any]:
    """Run ``onfh evaluate`` on the results, say on the report that these are phantoms, and return its document."""
    from onfh_runtime.cli import evaluate
    from onfh_runtime.evaluation.report_html import page
    from onfh_runtime.evaluation.report_md import markdown

    parser = argparse.ArgumentParser()
    evaluate.add_arguments(parser)
    report = out / "evaluation"
    arguments = [str(out / "results"), str(out / "truth.csv"), f"--out={report}", f"--rounds={rounds}"]
    if evaluate.run(parser.parse_args(arguments)):
        raise SystemExit("nothing was joined")
    document = json.loads((report / "evaluation.json").read_text(encoding="utf-8")) | {"notes": [NOTE]}
    (report / "evaluation.md").write_text(markdown(document), encoding="utf-8")
    (report / "evaluation.html").write_text(page(document), encoding="utf-8")
    (report / "evaluation.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return document


def main() -> int:
    """Render, analyse, evaluate, print."""
    from onfh_runtime.cli.infer import demo_bundle
    from onfh_runtime.evaluation.report_md import markdown

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True, help="a folder that does not exist yet")
    parser.add_argument("--patients", type=int, default=200, help="at four sites (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="processes (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=2000, help="of the bootstrap (default: %(default)s)")
    parser.add_argument("--bundle", type=Path, default=demo_bundle(), help="what to run (default: the demo bundle)")
    options = parser.parse_args()
    options.out.mkdir(parents=True)
    (options.out / "truth").mkdir()
    start = time.perf_counter()
    with (options.out / "truth.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for done, lines in enumerate(all_lines(options.patients, options.workers, options.bundle, options.out), 1):
            writer.writerows(lines)
            passed = time.perf_counter() - start
            print(f"{min(done * BATCH, options.patients)} of {options.patients} patients, {passed:.0f} s", flush=True)
    document = evaluated(options.out, options.rounds)
    print(markdown(document))
    return 0


if __name__ == "__main__":
    sys.exit(main())
