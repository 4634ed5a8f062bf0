"""Two stages in, a bundle out, with proof; and what is refused leaves nothing behind."""

import json
import shutil
from dataclasses import replace

import numpy as np
import onnx
import pytest

from onfh_export.config import read_config
from onfh_export.exporting import ExportOptions, StageRequest, bundle_from_stages
from onfh_export.graph.islands import Verdict
from onfh_export.phases import Phases
from onfh_runtime.backends.ort_backend import OrtBackend
from onfh_runtime.bundle import load_bundle
from onfh_runtime.cli.inspect import describe
from onfh_runtime.engines import Gpu, Machine, find_flavours, read_plans, unfit
from onfh_runtime.errors import BackendError, OnfhError, OutputError, UsageError
from onfh_runtime.pipeline import Pipeline
from onfh_runtime.stages import open_runner

STAGES = ("classifier", "segmenter")
FAST = ExportOptions(phantoms=2)


@pytest.fixture
def config(checkpoints):
    return read_config(checkpoints / "config.json")


@pytest.fixture
def onnx_config(config):
    """For the ONNX files of ``bundle``, whose two logits were merged."""
    for stage in STAGES:
        config[stage] |= {"activation": "sigmoid", "positive_class": 0}
    return config


@pytest.fixture
def onnx_requests(bundle):
    return {stage: StageRequest(str(bundle / stage / "model.onnx")) for stage in STAGES}


@pytest.fixture
def requests(checkpoints):
    return {stage: StageRequest(str(checkpoints / stage)) for stage in STAGES}


def test_the_runtime_loads_and_runs_it(bundle):
    loaded = load_bundle(bundle)
    files = {f"{stage}/model{half}.onnx" for stage in STAGES for half in ("", ".fp16")}
    assert set(loaded.content.files) == files | {"MODEL_CARD.md", "parity.json", "parity.png"}
    assert loaded.content.classifier.architecture == "ViTForImageClassification"
    assert loaded.content.segmenter.architecture == "UperNetForSemanticSegmentation"
    assert any("Research use only" in notice for notice in loaded.content.notices)
    pixels = np.zeros((3, 1, *loaded.content.classifier.input.size), np.float32)
    for stage, shape in (("classifier", (3,)), ("segmenter", (3, *loaded.content.segmenter.input.size))):
        runner = open_runner(loaded, stage, "onnxruntime", threads=1)
        assert runner.probabilities(pixels).shape == shape
        runner.close()


def test_its_graphs_are_described(bundle):
    content = load_bundle(bundle).content
    for name in STAGES:
        stage = getattr(content, name)
        assert set(stage.graphs) == set(stage.models) == {"fp32", "fp16"}
        for precision, graph in stage.graphs.items():
            model = onnx.load(bundle / stage.models[precision])
            assert graph.nodes == len(model.graph.node)
            assert not {"Shape", "Where", "IsNaN", "If"} & set(graph.operators)
            assert graph.gmac > 0
        assert stage.graphs["fp32"].half_share == 0
        assert stage.graphs["fp16"].half_share > 0.9
        assert "two logits merged" in stage.graphs["fp32"].rewrites


def test_parity_says_what_was_emulated(bundle):
    document = json.loads((bundle / "parity.json").read_text())
    assert [(column["name"], column["kind"]) for column in document["columns"]] == [
        ("torch fp32", "reference"),
        ("onnx fp32", "computed"),
        ("onnx fp16", "emulated"),
    ]
    assert document["accepted"]
    assert not document["drift_accepted"]
    assert len(document["nearest_slices"]) == 10
    card = (bundle / "MODEL_CARD.md").read_text()
    assert "## Parity" in card
    assert "(parity.png)" in card
    assert (bundle / "parity.png").read_bytes().startswith(b"\x89PNG")


def test_onnx_files_are_exported_again(onnx_requests, onnx_config, bundle, tmp_path):
    lines = []
    exported = bundle_from_stages(onnx_requests, onnx_config, tmp_path / "b", FAST, phases=Phases(lines.append))
    again, before = exported.content, load_bundle(bundle).content
    assert again.classifier.architecture == "ONNX"
    assert again.classifier.activation == "sigmoid"
    assert again.classifier.graphs["fp32"].nodes == before.classifier.graphs["fp32"].nodes
    assert json.loads((tmp_path / "b" / "parity.json").read_text())["columns"][0]["name"] == "source fp32"
    assert any(line.startswith("parity on the reference") for line in lines)
    assert [p.name for p in tmp_path.iterdir()] == ["b"]


def test_fp32_alone(onnx_requests, onnx_config, tmp_path):
    options = replace(FAST, precision="fp32")
    exported = bundle_from_stages(onnx_requests, onnx_config, tmp_path / "b", options)
    assert set(exported.content.classifier.models) == {"fp32"}
    assert not list((tmp_path / "b").rglob("*.fp16.onnx"))


def test_an_int8_classifier_is_judged_and_then_run_on_a_cpu(onnx_requests, onnx_config, tmp_path):
    # Weights that were never trained say nearly the same of every slice: rounding decides their order.
    onnx_config["parity"] = {"patient_flips": 2, "side_flips": 4, "slice_flips": 1.0, "auc_change": 1.0}
    options = replace(FAST, precision="fp32", classifier_int8=True)
    exported = bundle_from_stages(onnx_requests, onnx_config, tmp_path / "b", options)
    content = exported.content
    assert set(content.classifier.models) == set(content.classifier.graphs) == {"fp32", "int8"}
    assert set(content.segmenter.models) == {"fp32"}
    assert "classifier/model.int8.onnx" in content.files
    columns = json.loads((tmp_path / "b" / "parity.json").read_text())["columns"]
    assert [(each["name"], each["kind"], each["precision"]) for each in columns[1:]] == [
        ("onnx fp32", "computed", "fp32"),
        ("onnx int8/fp32", "computed", "int8/fp32"),
    ]
    with Pipeline(exported, backend="onnxruntime", threads=1) as pipeline:
        assert pipeline.open().precision == "int8/fp32"
    assert any("weights of eight bits" in line for line in describe(exported))
    assert "weights of matrix products in eight bits" in (tmp_path / "b" / "MODEL_CARD.md").read_text()


def test_an_int8_classifier_beyond_the_limits_is_refused(onnx_requests, onnx_config, tmp_path):
    onnx_config["parity"] = {"probability_drift": 1e-6}
    options = replace(FAST, precision="fp32", classifier_int8=True)
    with pytest.raises(OnfhError, match="onnx int8/fp32 moves a probability") as raised:
        bundle_from_stages(onnx_requests, onnx_config, tmp_path / "b", options)
    assert raised.value.code == "parity_breached"
    assert raised.value.fix.startswith("Leave out --classifier-int8. Change")
    assert not (tmp_path / "b").exists()


@pytest.mark.slow
@pytest.mark.skipif("tensorrt-rtx" not in {f.name for f in find_flavours()}, reason="TensorRT-RTX is not installed")
def test_plans_are_built_for_the_targets_named(onnx_requests, onnx_config, tmp_path):
    options = replace(FAST, flavours=("tensorrt-rtx",), targets=("sm86", "sm89"))
    exported = bundle_from_stages(onnx_requests, onnx_config, tmp_path / "b", options)
    plans = read_plans(exported.root)
    assert sorted((plan.facts.target, plan.facts.stage) for plan in plans) == [
        (target, stage) for target in ("sm86", "sm89") for stage in STAGES
    ]
    for plan in plans:
        assert plan.facts.precision == "fp16"
        assert plan.facts.half_share > 0.9
        assert plan.facts.profiles == ((1, 8, 8),)
        assert (
            unfit(plan, Machine((), {plan.facts.flavour: plan.facts.version}), exported.content.files).code == "no_gpu"
        )
    assert load_bundle(exported.root).sha256 == exported.sha256


@pytest.mark.slow
def test_a_breach_names_the_studies_and_leaves_the_old_bundle(
    onnx_requests, onnx_config, bundle, tmp_path, monkeypatch
):
    # The rows of the search see nothing, the whole studies do.
    monkeypatch.setattr("onfh_export.reduction.row_gate", lambda *_: lambda _model: Verdict(True, "", 0.0))
    onnx_config["parity"] = {"mask_dice": 1.0}
    out = tmp_path / "b"
    shutil.copytree(bundle, out)
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    with pytest.raises(OnfhError, match=r"Dice.*Look at: phantom") as raised:
        bundle_from_stages(onnx_requests, onnx_config, out, replace(FAST, force=True))
    assert raised.value.code == "parity_breached"
    assert raised.value.exit_code == 1
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before
    assert [p.name for p in tmp_path.iterdir()] == ["b"]
    accepted = bundle_from_stages(onnx_requests, onnx_config, out, replace(FAST, force=True, accept_drift=True))
    document = json.loads((out / "parity.json").read_text())
    assert document["drift_accepted"]
    assert document["breaches"][0]["limit"] == "mask_dice"
    assert any("parity limits were breached" in notice for notice in accepted.content.notices)


def test_limits_that_leave_little_half_are_refused(onnx_requests, onnx_config, tmp_path):
    onnx_config["parity"] = {"probability_drift": 1e-6}
    with pytest.raises(OnfhError, match="not_mostly_half"):
        bundle_from_stages(onnx_requests, onnx_config, tmp_path / "b", FAST)
    assert not list(tmp_path.iterdir())


def test_an_unusable_reference_is_refused(onnx_requests, onnx_config, tmp_path):
    (tmp_path / "studies").mkdir()
    with pytest.raises(UsageError, match="reference_unusable"):
        bundle_from_stages(onnx_requests, onnx_config, tmp_path / "b", replace(FAST, reference=tmp_path / "studies"))
    assert [p.name for p in tmp_path.iterdir()] == ["studies"]


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (ExportOptions(flavours=("tensorrt-9000",)), "flavour_unknown"),
        (ExportOptions(flavours=("tensorrt-rtx",), targets=("sm1",)), "target_unknown"),
    ],
)
@pytest.mark.skipif("tensorrt-rtx" not in {f.name for f in find_flavours()}, reason="TensorRT-RTX is not installed")
def test_wrong_engines_are_refused_before_any_work(onnx_requests, onnx_config, tmp_path, options, code):
    lines = []
    with pytest.raises(UsageError, match=code):
        bundle_from_stages(onnx_requests, onnx_config, tmp_path / "b", options, phases=Phases(lines.append))
    assert not lines


def test_a_bundle_that_is_there_needs_force(requests, config, bundle):
    with pytest.raises(OutputError, match="bundle_exists"):
        bundle_from_stages(requests, config, bundle, FAST)


def test_swapped_stages_are_refused(requests, config, tmp_path):
    swapped = {"classifier": requests["segmenter"], "segmenter": requests["classifier"]}
    with pytest.raises(UsageError, match="stage_mismatch"):
        bundle_from_stages(swapped, config, tmp_path / "b", FAST)
    assert not list(tmp_path.iterdir())


def test_a_size_the_checkpoint_does_not_take_is_refused(requests, config, tmp_path):
    config["classifier"]["input"]["size"] = [32, 32]
    with pytest.raises(UsageError, match="stage_mismatch"):
        bundle_from_stages(requests, config, tmp_path / "b", FAST)


@pytest.mark.slow
@pytest.mark.skipif("tensorrt-rtx" not in {f.name for f in find_flavours()}, reason="TensorRT-RTX is not installed")
@pytest.mark.parametrize("opens", [True, False])
def test_engines_that_fit_this_machine_are_asked(onnx_requests, onnx_config, tmp_path, monkeypatch, opens):
    """With a GPU made up and ONNX Runtime in place of the engine: this shows the wiring, never an engine."""

    def opened(path, flavour, *, precision, batch_limit):
        assert batch_limit == 8
        if not opens:
            raise BackendError("engine_unloadable", "No.")
        return OrtBackend(tmp_path / "fp32" / path.stem / "model.onnx", precision=precision)

    rtx = {f.name: f.version for f in find_flavours()}
    monkeypatch.setattr("onfh_export.plans.this_machine", lambda: Machine((Gpu("made up", "sm89"),), rtx))
    monkeypatch.setattr("onfh_export.plans.EngineBackend", opened)
    bundle_from_stages(onnx_requests, onnx_config, tmp_path / "fp32", replace(FAST, precision="fp32"))
    lines = []
    options = replace(FAST, flavours=("tensorrt-rtx",), targets=("sm89",))
    bundle_from_stages(onnx_requests, onnx_config, tmp_path / "b", options, phases=Phases(lines.append))
    kinds = [column["kind"] for column in json.loads((tmp_path / "b" / "parity.json").read_text())["columns"]]
    assert kinds == ["reference", "computed", "emulated", *(["engine"] if opens else [])]
    assert any("The engines were not asked" in line for line in lines) != opens
