"""Peers (other people's implementations, which a test asks for by name), result folders and tables."""

from __future__ import annotations

import argparse
import csv
import json
import os
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from onfh_runtime.result import Result


@pytest.fixture(scope="session")
def peer() -> Callable[[str], ModuleType]:
    """Import a module of a library that only tests use; without it the test skips, or fails in CI."""

    def imported(name: str) -> ModuleType:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what a peer deprecates is its own affair
                return import_module(name)
        except ImportError as error:
            if os.environ.get("ONFH_REQUIRE_TOOLS"):
                pytest.fail(f"ONFH_REQUIRE_TOOLS is set: {error}")
            pytest.skip(str(error))

    return imported


@pytest.fixture
def write_result(tmp_path: Path) -> Callable[..., Path]:
    """Writes ``result.json`` as `onfh infer` does; keywords replace fields of the top level."""

    def written(
        study: str, series: str, probabilities: Sequence[float] = (), *, root: str = "results", **changes: Any
    ) -> Path:
        answered = {
            "status": "succeeded",
            "preferred": True,
            "patient": {"state": "negative", "probability": max(probabilities, default=0.0), "threshold": 0.5},
            "sides": {side: {"state": "negative"} for side in ("right", "left")},
            "geometry": {"acquired": "coronal", "spacing_mm": (3, 1, 1), "coronal_slices": len(probabilities)},
        }
        if answered["patient"]["probability"] >= 0.5:
            answered["patient"]["state"] = "positive"
        result = Result.model_validate(
            {
                "created": "2026-11-23T09:30:00Z",
                "study_instance_uid": study,
                "series_instance_uid": series,
                "slices": [
                    {
                        "index": index,
                        "position_mm": 3.0 * index,
                        "sop_instance_uid": f"{series}.{index}",
                        "probability": probability,
                        "positive": probability >= 0.5,
                    }
                    for index, probability in enumerate(probabilities)
                ],
                "bundle": {"name": "tiny", "version": "1", "sha256": "0" * 64},
                "engine": {"backend": "onnxruntime", "precision": "fp32", "device": "cpu"},
                "software": {"name": "onfh-edge", "version": "0"},
            }
            | answered
            | changes
        )
        folder = tmp_path / root / study / series / (f"part-{result.part}" if result.part is not None else "")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "result.json").write_text(json.dumps(result.model_dump(by_alias=True)))
        return tmp_path / root

    return written


@pytest.fixture
def write_table(tmp_path: Path) -> Callable[[str, str], Path]:
    """Writes a CSV file from lines whose values are parted by blanks; ``-`` stands for an empty one."""

    def written(name: str, text: str) -> Path:
        lines = [",".join("" if cell == "-" else cell for cell in line.split()) for line in text.strip().splitlines()]
        (tmp_path / name).write_text("\n".join(lines) + "\n")
        return tmp_path / name

    return written


SITES = ("site_a", "site_b", "external")
THRESHOLDS = ("--slice-threshold=0.5", "--patient-threshold=0.6", "--top-k=3")


def _lesion(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A true mask (10, 24, 24), a predicted one and a reader's: balls that are a little apart; some are missed."""
    z, y, x = np.mgrid[:10, :24, :24]
    row, column, radius = rng.uniform(9, 15), rng.uniform(9, 15), rng.uniform(4, 7)

    def ball(shift: float) -> np.ndarray:
        down, right, more = rng.normal(size=3) * shift
        return (y - row - down) ** 2 + (x - column - right) ** 2 + (3 * (z - 5)) ** 2 < (radius + more) ** 2

    truth, predicted, read = ball(0), ball(1), ball(0.6)
    return truth, predicted & (rng.random() > 0.2), read


@pytest.fixture(scope="session")
def synthetic_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a made-up run: truth.csv, this.csv, other.csv (one series short), readers.csv and masks.

    36 patients at three sites, ten slices each. Reader A calls patients and some slices and draws, B only calls.
    """
    rng = np.random.default_rng(5)
    folder = tmp_path_factory.mktemp("run")
    affine = np.array([[0, 0, 0.8, -16], [3.0, 0, 0, 0], [0, -0.8, 0, 16], [0, 0, 0, 1]])
    rows: dict[str, list[dict[str, object]]] = {"truth": [], "this": [], "other": [], "readers": []}
    for number in range(36):
        site, ill, mood = SITES[number % 3], bool(rng.random() < 0.5), rng.normal() * 0.5
        patient, study, series = f"{site}-{number:02d}", f"1.2.{number + 1}", f"1.2.{number + 1}.1"
        truth, predicted, read = _lesion(rng) if ill else (np.zeros((10, 24, 24), bool),) * 3
        other = predicted.copy()
        other[tuple(np.argwhere(predicted)[:2].T)] = False
        for name, mask in (("truth", truth), ("this", predicted), ("other", other), ("read", read)):
            np.savez_compressed(folder / f"{name}-{patient}.npz", mask=mask.astype(np.uint8), affine=affine)
        uids = {"study": study, "series": series}
        for k in range(10):
            label, place = bool(truth[k].any()), {"position_mm": 3.0 * k}
            probability = 1 / (1 + np.exp(2 - 4 * label - mood - rng.normal()))
            moved = float(np.clip(probability + rng.normal() * 10 ** rng.uniform(-6, -1.2), 0, 1))
            of_patient = {"patient": patient, "site": site, "patient_label": int(ill), "mask": f"truth-{patient}.npz"}
            rows["truth"].append(uids | place | of_patient | {"label": int(label)})
            rows["this"].append(uids | place | {"probability": probability, "mask": f"this-{patient}.npz"})
            if number:
                rows["other"].append(uids | place | {"probability": moved, "mask": f"other-{patient}.npz"})
            if number < 12:
                rows["readers"].append(uids | place | {"reader": "A", "call": int(label ^ (rng.random() < 0.1))})
        for reader, skill in (("A", 3.0), ("B", 1.5)):
            score = skill * (ill - 0.5) + rng.normal()
            said = {"reader": reader, "patient": patient, "call": int(score > 0), "score": round(score, 2)}
            drawn = {"mask": f"read-{patient}.npz"} if reader == "A" and ill else {}
            rows["readers"].append(said | {"seconds": round(float(rng.gamma(4, 12)), 1)} | drawn)
    for name, lines in rows.items():
        columns = list(dict.fromkeys(key for line in lines for key in line))
        with (folder / f"{name}.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(lines)
    return folder


@pytest.fixture(scope="session")
def document(synthetic_run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The evaluation of the made-up run, with readers and against the other run; tests must not change it."""
    from onfh_runtime.cli import evaluate

    out = tmp_path_factory.mktemp("evaluation")
    parser = argparse.ArgumentParser()
    evaluate.add_arguments(parser)
    arguments = [synthetic_run / "this.csv", synthetic_run / "truth.csv", f"--out={out}", *THRESHOLDS, "--rounds=100"]
    compared = [f"--readers={synthetic_run / 'readers.csv'}", f"--against={synthetic_run / 'other.csv'}"]
    assert evaluate.run(parser.parse_args([str(each) for each in (*arguments, *compared)])) == 0
    return dict(json.loads((out / "evaluation.json").read_text()))
