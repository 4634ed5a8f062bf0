"""The command on result folders and tables, and the way round through a calibrated bundle."""

from __future__ import annotations

import argparse
import csv
import json

import pytest

from onfh_runtime.cli import calibrate, evaluate
from onfh_runtime.cli.main import main
from onfh_runtime.errors import OnfhError, UsageError


def run(command, *arguments):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args([*map(str, arguments)]))


@pytest.fixture(scope="module")
def material(phantom_study, write_tiny_bundle, tmp_path_factory):
    """The phantom's two series through a tiny bundle, with the labels and the mask of its coronal slices."""
    folder = tmp_path_factory.mktemp("evaluate")
    bundle = write_tiny_bundle(patient_rule={"k": 3, "threshold": 0.0}, gate={"threshold": 0.0})
    assert main(["infer", str(phantom_study), "--bundle", str(bundle.root), "--out", str(folder / "results")]) == 0
    (study,) = [json.loads(path.read_text()) for path in (folder / "results").glob("*/study.json")]
    results = [json.loads(path.read_text()) for path in (folder / "results").rglob("result.json")]
    (coronal,) = [result for result in results if result["geometry"]["acquired"] == "coronal"]
    truth = json.loads((phantom_study / "truth" / "truth.json").read_text())
    common = {"patient": "P1", "study": study["study_instance_uid"], "series": coronal["series_instance_uid"]}
    rows = [common | {"position_mm": each["position_mm"], "label": int(each["label"])} for each in truth["slices"]]
    rows[0] |= {side: int(found) for side, found in truth["sides"].items()}
    rows[0]["mask"] = phantom_study / "truth" / "truth.npz"
    with (folder / "truth.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [*common, "position_mm", "label", "right", "left", "mask"])
        writer.writeheader()
        writer.writerows(rows)
    return folder, bundle, coronal


def test_results_give_a_report(material, tmp_path, capsys):
    folder, _, coronal = material
    out = tmp_path / "new" / "out"
    assert run(evaluate, folder / "results", folder / "truth.csv", "--out", out, "--rounds", 20) == 0
    said = capsys.readouterr().out
    assert "Research use only" in said
    assert "slice" in said
    assert sorted(path.name for path in out.iterdir()) == ["evaluation.html", "evaluation.json", "evaluation.md"]
    found = json.loads((out / "evaluation.json").read_text())
    assert found["joined"]["slices"] == len(coronal["slices"])
    (case,) = found["cases"]
    assert case["series"] == coronal["series_instance_uid"]
    sides = coronal["sides"]
    # the mask is compared on the truth's grid, which is that of this series
    assert case["volume_mm3"] == pytest.approx(sides["right"]["volume_mm3"] + sides["left"]["volume_mm3"], rel=1e-6)
    assert case["true_volume_mm3"] > 0
    assert 0 <= case["dice"] <= 1
    assert {"slice", "patient", "side"} == set(found["levels"])


def test_json_is_all_that_is_printed(material, tmp_path, capsys):
    folder, _, _ = material
    arguments = [folder / "results", folder / "truth.csv", "--out", tmp_path, "--rounds", 20]
    assert run(evaluate, *arguments, "--json") == 0
    assert json.loads(capsys.readouterr().out) == json.loads((tmp_path / "evaluation.json").read_text())


def test_nothing_joined_is_said_and_leaves_no_report(material, tmp_path, capsys):
    folder, _, _ = material
    (tmp_path / "truth.csv").write_text("patient,study,series,label\nP1,9,9.1,1\n")
    assert run(evaluate, folder / "results", tmp_path / "truth.csv", "--out", tmp_path / "out") == 3
    assert "not_predicted" in capsys.readouterr().err
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("flags", [["--rounds", "0"], ["--seed", "-1"], ["--slice-threshold", "2"], ["--top-k", "0"]])
def test_wrong_flags(material, tmp_path, flags):
    folder, _, _ = material
    with pytest.raises(UsageError):
        run(evaluate, folder / "results", folder / "truth.csv", "--out", tmp_path, *flags)


def test_the_same_run_against_itself_flips_nothing(material, tmp_path):
    folder, _, _ = material
    arguments = [folder / "results", folder / "truth.csv", "--out", tmp_path, "--rounds", 20]
    assert run(evaluate, *arguments, "--against", folder / "results") == 0
    against = json.loads((tmp_path / "evaluation.json").read_text())["against"]
    assert all(level["count"] == 0 for level in against["flips"].values())


def test_a_calibrated_bundle_runs_and_reaches_its_target(material, phantom_study, tmp_path, capsys):
    folder, bundle, _ = material
    sources = [folder / "results", folder / "truth.csv"]
    new = tmp_path / "new"
    arguments = [*sources, "--bundle", bundle.root, "--out", new, "--target-sensitivity", "0.8", "--rounds", "20"]
    assert run(calibrate, *arguments) == 0
    said = capsys.readouterr().out
    frozen = json.loads((new / "calibration.json").read_text())
    assert f"{frozen['threshold']:.6g}" in said
    assert main(["infer", str(phantom_study), "--bundle", str(new), "--out", str(tmp_path / "results")]) == 0
    assert run(evaluate, tmp_path / "results", folder / "truth.csv", "--out", tmp_path / "out", "--rounds", 20) == 0
    found = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    (group,) = [each for each in found["levels"]["slice"]["groups"] if each["kind"] == "all"]
    reached = frozen["achieved"]["sensitivity"]
    assert (group["sensitivity"]["hits"], group["sensitivity"]["of"]) == (reached["hits"], reached["of"])
    assert reached["value"] >= 0.8
    with pytest.raises(OnfhError, match="bundle_exists"):
        run(calibrate, *arguments)


def test_calibrating_on_a_test_set_warns(material, tmp_path, capsys):
    folder, bundle, _ = material
    lines = (folder / "truth.csv").read_text().splitlines()
    marked = [lines[0] + ",split", *(line + ",test" for line in lines[1:])]
    (tmp_path / "truth.csv").write_text("\n".join(marked) + "\n")
    sources = [folder / "results", tmp_path / "truth.csv"]
    run(calibrate, *sources, "--bundle", bundle.root, "--out", tmp_path / "new", "--target-sensitivity", "0.9")
    assert "[calibrated_on_test]" in capsys.readouterr().err
    assert json.loads((tmp_path / "new" / "calibration.json").read_text())["splits"] == ["test"]


def test_calibrating_another_bundle_than_the_results_is_refused(material, tiny_bundle, tmp_path):
    folder, _, _ = material
    sources = [folder / "results", folder / "truth.csv"]
    with pytest.raises(UsageError, match="bundle_differs"):
        run(calibrate, *sources, "--bundle", tiny_bundle.root, "--out", tmp_path / "n", "--target-sensitivity", "0.9")
