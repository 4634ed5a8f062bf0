"""A plan is written with what it is, read back, and held against the machine it is to run on."""

from __future__ import annotations

import dataclasses
import json

import pytest

from onfh_runtime.bundle import sha256_of
from onfh_runtime.engines import (
    BuiltPlan,
    EngineOptions,
    Gpu,
    HalfShare,
    Machine,
    Profile,
    engine_folder,
    plan_from_onnx,
    read_plans,
    this_machine,
    unfit,
    write_plan,
)
from onfh_runtime.errors import OutputError

ONNX = "classifier/model.fp16.onnx"
BUILT = BuiltPlan(
    data=memoryview(b"ftrt a plan"),
    flavour="tensorrt",
    version="10.13.3.9",
    target="sm89",
    options=EngineOptions(profiles=(Profile(1, 1, 1), Profile(1, 4, 8)), version_compatible=False),
    layers=7,
    half_share=HalfShare(0.987654, 1.0),
    engine_half_share=None,
    warnings=("a warning",),
    seconds=1.234,
)
FITTING = Machine((Gpu("other", "sm75"), Gpu("ours", "sm89")), {"tensorrt": "10.13.3.9", "tensorrt-rtx": "1.7.1.116"})


@pytest.fixture
def root(tmp_path):
    (tmp_path / ONNX).parent.mkdir()
    (tmp_path / ONNX).write_bytes(b"an ONNX file")
    return tmp_path


@pytest.fixture
def files(root):
    return {ONNX: sha256_of(root / ONNX)}


def written(root, **changes):
    write_plan(root, "classifier", dataclasses.replace(BUILT, **changes), onnx=ONNX, precision="fp16")
    (found,) = read_plans(root)
    return found


def test_a_plan_is_where_the_contract_says(root):
    found = written(root)
    assert found.path == root / "engines" / "tensorrt-10.13.3.9-sm89" / "classifier.plan"
    assert found.path.read_bytes() == b"ftrt a plan"
    assert sorted(path.name for path in found.path.parent.iterdir()) == ["classifier.json", "classifier.plan"]
    assert found.path.parent.name == engine_folder("tensorrt", "10.13.3.9", "sm89")


def test_its_facts_come_back(root, files):
    made = write_plan(root, "classifier", BUILT, onnx=ONNX, precision="fp16")
    (found,) = read_plans(root)
    assert found == made
    facts = found.facts
    assert facts.profiles == ((1, 1, 1), (1, 4, 8))
    assert facts.onnx_sha256 == files[ONNX]
    assert facts.plan_sha256 == sha256_of(found.path)
    assert (facts.half_share, facts.half_products, facts.engine_half_share) == (0.9877, 1.0, None)
    assert facts.seconds == 1.23
    assert facts.warnings == ("a warning",)


def test_a_bundle_without_plans_has_none(root):
    assert read_plans(root) == ()


def test_a_real_plan_fits_but_for_the_gpu(rtx, onnx_file, tmp_path):
    onnx_file("model.onnx", half=True)
    built = plan_from_onnx(tmp_path / "model.onnx", rtx, "sm86", expect_half=True)
    plan = write_plan(tmp_path, "segmenter", built, onnx="model.onnx", precision="fp16")
    hashes = {"model.onnx": sha256_of(tmp_path / "model.onnx")}
    here = this_machine()
    assert unfit(plan, dataclasses.replace(here, gpus=(Gpu("RTX A4000", "sm86"),)), hashes) is None
    if not here.gpus:
        assert unfit(plan, here, hashes).code == "no_gpu"


def test_the_plan_for_this_machine_fits(root, files):
    assert unfit(written(root), FITTING, files) is None


@pytest.mark.parametrize(
    ("machine", "code", "says"),
    [
        ({"flavours": {}}, "flavour_missing", "for tensorrt, which is not installed here"),
        ({"flavours": {"tensorrt-rtx": "10.13.3.9"}}, "flavour_missing", "for tensorrt"),
        ({"flavours": {"tensorrt": "10.3.0"}}, "version_differs", "by tensorrt 10.13.3.9, here is 10.3.0"),
        ({"gpus": ()}, "no_gpu", "for sm89, and no NVIDIA GPU"),
        ({"gpus": (Gpu("RTX A4000", "sm86"),)}, "other_gpu", "for sm89, here is RTX A4000 (sm86)"),
    ],
)
def test_another_machine_is_told_why(root, files, machine, code, says):
    reason = unfit(written(root), dataclasses.replace(FITTING, **machine), files)
    assert reason.code == code
    assert says in reason.text


@pytest.mark.parametrize(
    ("flavour", "built", "here", "fits"),
    [
        ("tensorrt", "10.3.0", "10.13.3.9", True),
        ("tensorrt", "10.13.3.9", "11.4.0.106", True),
        ("tensorrt", "11.4.0.106", "10.13.3.9", False),
        ("tensorrt-rtx", "1.6.0", "1.7.1", False),
    ],
)
def test_only_tensorrt_runs_version_compatible_plans_of_earlier_versions(root, files, flavour, built, here, fits):
    machine = dataclasses.replace(FITTING, flavours={flavour: here})
    compatible = dataclasses.replace(BUILT.options, version_compatible=True)
    plan = written(root, flavour=flavour, version=built, options=compatible)
    assert (unfit(plan, machine, files) is None) is fits


def test_another_onnx_file_is_noticed(root, files):
    plan = written(root)
    assert unfit(plan, FITTING, {ONNX: "0" * 64}).code == "onnx_differs"
    assert unfit(plan, FITTING, {}).code == "onnx_differs"


def test_a_damaged_plan_is_noticed(root, files):
    plan = written(root)
    plan.path.write_bytes(b"ftrt a plam")
    assert unfit(plan, FITTING, files).code == "plan_damaged"


def test_the_old_facts_do_not_vouch_for_a_new_plan(root, files):
    # What a writer leaves that is killed between the two files.
    old = written(root)
    old_facts = old.path.with_suffix(".json").read_bytes()
    new = written(root, data=memoryview(b"ftrt another plan"))
    new.path.with_suffix(".json").write_bytes(old_facts)
    assert unfit(read_plans(root)[0], FITTING, files).code == "plan_damaged"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda path: path.unlink(), "cannot be read"),
        (lambda path: path.write_text("{"), "does not describe a plan"),
        (
            lambda path: path.write_text(json.dumps({**json.loads(path.read_text()), "surprise": 1})),
            "does not describe",
        ),
        (
            lambda path: path.write_text(json.dumps({**json.loads(path.read_text()), "schema": "onfh-plan/9"})),
            "does not",
        ),
        (lambda path: path.write_text(path.read_text().replace("sm89", "sm86")), "another folder or stage"),
        (lambda path: path.write_text(path.read_text().replace('"classifier"', '"segmenter"')), "another folder"),
    ],
    ids=["missing", "no JSON", "unknown field", "unknown schema", "other target", "other stage"],
)
def test_a_plan_nothing_vouches_for_is_never_run(root, files, change, says):
    change(written(root).path.with_suffix(".json"))
    (plan,) = read_plans(root)
    reason = unfit(plan, FITTING, files)
    assert reason.code == "plan_unvouched"
    assert says in reason.text


def test_a_folder_that_cannot_be_made_is_an_error(root):
    (root / "engines").write_text("in the way")
    with pytest.raises(OutputError, match="output_unwritable"):
        written(root)
