from __future__ import annotations

import argparse
import json

import pytest

from onfh_runtime.cli import bench
from onfh_runtime.errors import UsageError

QUICK = ("--backend", "onnxruntime", "--duration", "0", "--warm-up", "0", "--iterations", "3")


def run(*arguments):
    parser = argparse.ArgumentParser()
    bench.add_arguments(parser)
    return bench.run(parser.parse_args([*map(str, arguments)]))


@pytest.fixture(scope="module")
def bundle(write_tiny_bundle):
    return write_tiny_bundle().root


def test_a_study_gives_a_record(phantom_study, bundle, capsys):
    assert run(phantom_study, "--bundle", bundle, *QUICK, "--iterations", 2, "--cold-starts", 1, "--json") == 0
    said, complaint = capsys.readouterr()
    found = json.loads(said)
    assert complaint == ""
    assert found["schema"] == "onfh-benchmark/1"
    assert set(found) == {
        "schema",
        "name",
        "created",
        "command",
        "machine",
        "settings",
        "results",
        "does_not_measure",
    }
    settings, results = found["settings"], found["results"]
    assert settings["outputs_written"]
    assert settings["positive_fraction"] is None
    assert 0 < settings["gated"] <= settings["slices"]
    single, offline, cold = results["single_stream"], results["offline"], results["cold_start_s"]
    assert single["latency_ms"]["count"] == 2
    assert single["latency_ms"]["p99"] is None
    assert single["steps_ms"]["write"] > 0
    assert sum(single["step_share"].values()) == pytest.approx(1)
    assert single["gpu_ms"] is None
    assert settings["graphs_captured"] == {}
    assert offline["studies"] == 2
    assert offline["slices_per_s"] == pytest.approx(settings["slices"] * offline["studies_per_s"])
    assert cold["first_answer_s"]["median"] > cold["open_s"]["median"] + cold["answer_s"]["median"]
    assert str(phantom_study) not in said
    assert "STUDY" in found["command"]


def test_the_gate_is_overridden_out_loud(phantom_study, bundle, capsys):
    assert (
        run(phantom_study, "--bundle", bundle, *QUICK, "--cold-starts", 0, "--positive-fraction", 1, "--no-write") == 0
    )
    said = capsys.readouterr().out
    assert "GATE OVERRIDDEN" in said
    words = next(line for line in said.splitlines() if line.startswith("slices")).split()
    assert words[1] == words[3]  # all that is classified is segmented
    assert "outputs not written" in said
    assert "p99 needs 100 series" in said
    assert "cold start     " not in said


def test_no_slice_passes_a_fraction_of_0(phantom_study, bundle, capsys):
    arguments = ("--cold-starts", 0, "--positive-fraction", 0, "--no-write", "--json")
    assert run(phantom_study, "--bundle", bundle, *QUICK, *arguments) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["settings"]["gated"] == 0
    assert found["results"]["single_stream"]["steps_ms"]["segment"] == 0


def test_a_phantom_is_made_where_no_study_is_named(bundle, capsys):
    size = ("--slices", 80, "--matrix", 128)
    arguments = (*size, "--cold-starts", 0, "--in-flight", 2, "--no-write", "--json")
    assert run("--bundle", bundle, *QUICK, *arguments) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["settings"]["series"]["images"] == 80
    assert found["settings"]["series"]["rows"] == 128
    assert found["results"]["offline"]["in_flight_most"] <= 2


def test_graphs_are_left_out_when_asked():
    parser = argparse.ArgumentParser()
    bench.add_arguments(parser)
    assert not bench.how(parser.parse_args(["--no-graphs", "--gpu", "1"])).graphs
    assert bench.how(parser.parse_args([])).graphs
    assert "--no-graphs" in bench.command_line("bench", parser.parse_args(["--no-graphs"]))


def test_nothing_to_measure(tmp_path, bundle):
    with pytest.raises(UsageError) as caught:
        run(tmp_path, "--bundle", bundle, *QUICK)
    assert caught.value.code == "nothing_to_measure"


@pytest.mark.parametrize(
    "wrong",
    [
        ("--positive-fraction", "1.5"),
        ("--positive-fraction", "nan"),
        ("--duration", "inf"),
        ("--iterations", "0"),
        ("--in-flight", "0"),
        ("--gpu", "-1"),
        ("--slices", "many"),
    ],
)
def test_wrong_options_are_refused(wrong, capsys):
    with pytest.raises(SystemExit) as caught:
        run("--bundle", "x", "=".join(wrong))
    assert caught.value.code == 2
    assert wrong[0] in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--duration", "abc"), "abc is no number of seconds"),
        (("--duration", "inf"), "inf is no number of seconds"),
        (("--positive-fraction", "nan"), "nan is no number between 0 and 1"),
        (("--positive-fraction", "2"), "2 is no number between 0 and 1"),
        (("--gpu", "x"), "x is no whole number of 0 or more"),
        (("--iterations", "0"), "0 is no whole number of 1 or more"),
    ],
)
def test_an_option_that_is_wrong_is_told_in_words(words, told, capsys):
    with pytest.raises(SystemExit):
        run(*words)
    assert told in capsys.readouterr().err
