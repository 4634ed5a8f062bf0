"""What counts as slower: more than 5%, and the whole interval on that side."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import compare
import pytest
from compare import Ratio, differences, main, ratios_in_turns, ratios_of_records, told


def record(**medians):
    results = {
        name: {"seconds": {"min": 0.9 * t, "low": 0.98 * t, "median": t, "high": 1.02 * t, "max": 1.5 * t, "count": 9}}
        for name, t in medians.items()
    }
    machine = {"cpu": {"name": "one", "cores_usable": 2}, "gpus": [], "python": "3.11.7", "packages": {"numpy": "2"}}
    return {
        "schema": "onfh-benchmark/1",
        "name": "bench-read",
        "settings": {"smoke": False, "large": False},
        "machine": machine,
        "results": results,
    }


@pytest.mark.parametrize(
    ("value", "low", "high", "verdict"),
    [
        (1.2, 1.1, 1.3, "slower"),
        (1.2, 0.99, 1.3, ""),
        (1.04, 1.03, 1.06, ""),
        (0.8, 0.7, 0.9, "faster"),
        (0.8, 0.7, 1.1, ""),
        (0.97, 0.9, 0.98, ""),
    ],
)
def test_noise_is_no_verdict(value, low, high, verdict):
    assert Ratio("any", value, low, high).verdict == verdict


def test_two_records():
    same, slower, faster = ratios_of_records(record(a=1.0, b=1.0, c=1.0), record(a=1.01, b=1.2, c=0.5, d=1.0))
    assert [same.verdict, slower.verdict, faster.verdict] == ["", "slower", "faster"]
    assert slower.value == pytest.approx(1.2)
    assert (slower.low, slower.high) == (pytest.approx(1.2 * 0.98 / 1.02), pytest.approx(1.2 * 1.02 / 0.98))


def test_few_rounds_are_judged_by_their_extremes():
    old, new = record(a=1.0), record(a=1.2)
    new["results"]["a"]["seconds"] |= {"low": None, "high": None}
    (ratio,) = ratios_of_records(old, new)
    assert ratio.low == pytest.approx(0.9 * 1.2 / 1.02)
    assert ratio.verdict == "slower"
    new["results"]["a"]["seconds"]["min"] = 0.95
    assert ratios_of_records(old, new)[0].verdict == ""


def test_runs_in_turns_share_their_noise():
    # Every pair twice as slow as the one before it, and new always a tenth slower than old.
    old = [{"a": 2.0**k, "b": 1.0} for k in range(7)]
    new = [{"a": 1.1 * 2.0**k, "b": 1 + 0.2 * (-1) ** k, "c": 1.0} for k in range(7)]
    a, b = ratios_in_turns(old, new, prefix="read: ")
    assert (a.name, a.verdict, b.verdict) == ("read: a", "slower", "")
    assert a.value == pytest.approx(1.1)


def test_what_differs_between_machines_is_named():
    old = record(a=1.0)
    new = copy.deepcopy(old)
    assert differences(old, new) == []
    new["machine"] |= {"packages": {"numpy": "3"}, "cpu": {"name": "two", "cores_usable": 2}}
    new["results"]["b"] = new["results"]["a"]
    said = differences(old, new)
    assert said == ["cpu.name: one, now two", "numpy: 2, now 3", "b: only in NEW"]


def test_the_exit_status_tells(tmp_path, capsys):
    paths = [str(tmp_path / name) for name in ("old.json", "new.json")]
    for path, made in zip(paths, (record(a=1.0, b=1.0), record(a=1.3, b=1.0)), strict=True):
        Path(path).write_text(json.dumps(made))
    assert main(paths) == 1
    said = capsys.readouterr().out
    assert "slower" in said
    assert "2 compared: 1 slower, 0 faster, the rest within noise" in said
    assert main([paths[0], paths[0]]) == 0


def test_other_documents_are_refused(tmp_path):
    path = tmp_path / "other.json"
    path.write_text(json.dumps({"schema": "onfh-result/1"}))
    with pytest.raises(SystemExit, match="no record"):
        main([str(path), str(path)])


def test_nothing_in_common_is_no_verdict():
    assert told([]).startswith("0 compared")


def test_another_revision_is_measured_with_the_suites_of_this_one(tmp_path, monkeypatch):
    """The runtime of the revision, not this one's, meets the benchmark."""
    asked = []

    def remembered(suite, words, *, root):
        assert (root / "benchmarks" / "bench_read.py").read_text() == (compare.HERE / "bench_read.py").read_text()
        asked.append((suite, root, (root / "runtime" / "onfh_runtime").is_dir()))
        return {"a": {"seconds": {"median": 1.0 if root == compare.ROOT else 2.0}}}

    monkeypatch.setattr(compare, "run_suite", remembered)
    (ratio,) = compare.against("HEAD", ["read"], pairs=6, words=[])
    assert ratio.value == 0.5
    assert ratio.verdict == "faster"
    assert all(has_runtime for _, _, has_runtime in asked)
    roots = [root == compare.ROOT for _, root, _ in asked]
    assert roots == [True, False, False, True] * 3


def test_unknown_revisions_and_too_few_pairs_are_refused(capsys):
    with pytest.raises(SystemExit, match="no revision"):
        main(["--against", "no-such-revision", "evaluate"])
    with pytest.raises(SystemExit):
        main(["--against", "HEAD", "evaluate", "--pairs", "2"])
    assert "6 pairs" in capsys.readouterr().err
