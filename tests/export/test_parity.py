"""The gate on stages that really run: it is silent where nothing changed, and catches what was planted."""

import copy
import json

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from onfh_export.graph.precision import emulated, half_from_float, named
from onfh_export.networks import segmenter_from_shape, vit_from_shape
from onfh_export.onnx_export import onnx_from_network
from onfh_export.parity import Column, compare
from onfh_export.parity_compare import Truth
from onfh_export.parity_limits import breaches
from onfh_export.parity_report import parity_document
from onfh_export.recipe import smoke_recipe
from onfh_export.reference import Reference, ReferenceStudy
from onfh_export.torch_backend import TorchBackend
from onfh_runtime.anatomy import Anatomy, Head
from onfh_runtime.answer import Prepared
from onfh_runtime.backends.ort_backend import OrtBackend
from onfh_runtime.bundle import ParityLimits
from onfh_runtime.errors import BackendError, OnfhError
from onfh_runtime.stages import StageRunner
from onfh_runtime.volume import CoronalStack

LIMITS = ParityLimits()
SHAPE = (6, 24, 40)
SPACING_MM = 3.0
SHARP = 40.0
"""Gain of the classifier: logits a thousandth of the window apart differ by 0.04."""


def study(label, levels, *, sick=True):
    """Slices of one grey each, ``levels`` of the window; a lesion is a bright square of 8 x 8 voxels on two of them."""
    hu = np.empty(SHAPE, np.float32)
    hu[:] = (np.resize(levels, SHAPE[0]) * 2000 - 500)[:, None, None]
    mask = np.zeros(SHAPE, np.bool_)
    if sick:
        mask[2:4, 8:16, 4:12] = True
        hu[mask] += 400
    affine = np.array([[0, 0, SPACING_MM, 0], [SPACING_MM, 0, 0, 0], [0, -SPACING_MM, 0, 72.0], [0, 0, 0, 1]])
    stack = CoronalStack(hu, affine)
    right, left = (
        Head((x, 9.0, 36.0), 24.0, score=1.0, coverage=1.0, covered=True, metal_mm3=0.0) for x in (24.0, 96.0)
    )
    box = (slice(0, SHAPE[0]), slice(0, SHAPE[1]), slice(0, SHAPE[2]))
    prepared = Prepared(None, Anatomy(right, left, None, 60.0), box, stack, stack)
    return ReferenceStudy(label, prepared, Truth(mask.any(axis=(1, 2)), np.ones(SHAPE[0], np.bool_), mask))


STUDIES = (
    study("sick", (0.40, 0.45, 0.56, 0.58, 0.47, 0.41)),
    study("near", (0.40, 0.45, 0.497, 0.49, 0.47, 0.41), sick=False),
    study("healthy", (0.30, 0.32, 0.35, 0.36, 0.33, 0.31), sick=False),
)


def classifier_model(faulty=()):
    """Logit ``SHARP * (mean - 0.5)``; ``faulty`` are (operator, constant) pairs that cancel out in exact arithmetic."""
    nodes = [helper.make_node("ReduceMean", ["pixel_values", "axes"], ["mean"], keepdims=0)]
    return _model([*nodes, *_chain("mean", faulty), *_affine("column", SHARP, -0.5 * SHARP)], faulty, (1,), SHARP)


def segmenter_model(faulty=()):
    """Logit ``80 * (pixel - 0.6)``."""
    return _model([*_chain("pixel_values", faulty), *_affine("column", 80, -48)], faulty, (1, *SHAPE[1:]), 80)


def _chain(source, faulty):
    """The faulty steps, then a copy under the name ``column`` of shape (batch, 1, ...)."""
    nodes, name = [], source
    for place, (operator, _) in enumerate(faulty):
        nodes.append(helper.make_node(operator, [name, f"constant{place}"], [f"step{place}"]))
        name = f"step{place}"
    if source == "mean":
        return [*nodes, helper.make_node("Unsqueeze", [name, "axis"], ["column"])]
    return [*nodes, helper.make_node("Identity", [name], ["column"])]


def _affine(source, gain, offset):
    return [
        helper.make_node("Mul", [source, "gain"], ["scaled"]),
        helper.make_node("Add", ["scaled", "offset"], ["logits"]),
    ]


def _model(nodes, faulty, made, gain):
    offset = -0.5 * gain if made == (1,) else -0.6 * gain
    constants = {
        "axes": np.array([1, 2, 3], np.int64),
        "axis": np.array([1], np.int64),
        "gain": np.float32(gain),
        "offset": np.float32(offset),
        **{f"constant{place}": np.float32(value) for place, (_, value) in enumerate(faulty)},
    }
    used = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes,
        "planted",
        [helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, ["batch", 1, *SHAPE[1:]])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", *made])],
        [numpy_helper.from_array(value, name) for name, value in constants.items() if name in used],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return model


@pytest.fixture
def column(rules, tmp_path):
    """Makes a column of two models."""

    def made(name, kind, classifier, segmenter):
        stages = []
        for stage, model in (("classifier", classifier), ("segmenter", segmenter)):
            path = tmp_path / f"{name}-{stage}.onnx"
            onnx.save(model, path)
            backend = OrtBackend(path, precision="fp32", threads=1)
            stages.append(StageRunner(stage, getattr(rules, stage), backend))
        return Column(name, kind, *stages)

    return made


@pytest.fixture
def judged(rules, column):
    """The parity of models against plain ones, and the breaches by limit."""

    def judge(*columns):
        plain = column("onnx fp32", "reference", classifier_model(), segmenter_model())
        parity = compare(STUDIES, rules, [plain, *columns])
        return parity, {breach.limit: breach for breach in breaches(parity, LIMITS)}

    return judge


def half(model):
    """Everything half but Where, whose masks may hold numbers beyond it."""
    return emulated(
        model, dtype="fp16", keep=[node.name for node in named(model).graph.node if node.op_type == "Where"]
    )


def test_a_harmless_half_graph_passes(judged, column):
    parity, found = judged(column("onnx fp16", "emulated", half(classifier_model()), half(segmenter_model())))
    assert found == {}
    (comparison,) = parity.comparisons
    assert comparison.pooled.slices == 18
    assert 0 < comparison.pooled.largest_drift < 0.02
    assert [s.states[0] for s in comparison.studies] == ["positive", "negative", "negative"]
    assert comparison.studies[0].outlined.reference == 2 * 8 * 8
    assert comparison.studies[0].against_truth.dice == (1, 1)


PRECISION_LOSS = (("Add", 2048.0), ("Sub", 2048.0))
"""FP16 keeps even integers only above 2048: the slice's mean is gone."""


def test_a_planted_precision_loss_is_caught_and_its_flips_are_named(judged, column):
    planted = classifier_model(PRECISION_LOSS)
    parity, found = judged(
        column("faulty fp32", "computed", planted, segmenter_model()),
        column("faulty fp16", "emulated", half(planted), segmenter_model()),
    )
    exact, lossy = parity.comparisons
    assert exact.pooled.patient_flips == exact.pooled.slice_flips == 0  # FP32 carries it
    assert {breach.column for breach in found.values()} == {"faulty fp16"}
    assert set(found) >= {"patient_flips", "slice_flips", "probability_drift", "mask_dice"}
    assert found["patient_flips"].studies == ("sick",)
    flipped = {s.study: s.slice_flips for s in lossy.studies}
    assert flipped["sick"] == (2, 3)
    assert flipped["healthy"] == ()


OVERFLOW = (("Mul", 1000.0), ("Mul", 1000.0), ("Mul", 0.001), ("Mul", 0.001))
"""Beyond 65504 half way, and infinity times anything stays there."""


def test_a_planted_overflow_is_caught_in_either_stage(judged, column):
    _, found = judged(column("onnx fp16", "emulated", half(classifier_model(OVERFLOW)), segmenter_model()))
    assert found["patient_flips"].studies == ("near", "healthy")  # infinity is a certain answer
    parity, found = judged(column("onnx fp16", "emulated", classifier_model(), half(segmenter_model(OVERFLOW))))
    assert found["mask_dice"].studies == ("near", "sick")  # no slice of the healthy one gets to stage 2
    assert parity.comparisons[0].pooled.patient_flips == 0


def test_an_overflow_that_ends_in_nan_names_the_studies_and_spares_the_others(judged, column):
    # mean * 1e6 - mean * 1e6 is NaN once both are infinite, and that only where the mean is above 0.5.
    nodes = [
        helper.make_node("ReduceMean", ["pixel_values", "axes"], ["mean"], keepdims=0),
        helper.make_node("Unsqueeze", ["mean", "axis"], ["column"]),
        helper.make_node("Mul", ["column", "constant0"], ["large"]),
        helper.make_node("Sub", ["large", "large"], ["nothing"]),
        helper.make_node("Mul", ["column", "gain"], ["scaled"]),
        helper.make_node("Add", ["scaled", "offset"], ["sum"]),
        helper.make_node("Add", ["sum", "nothing"], ["logits"]),
    ]
    # 65504 / 0.57 lies above the largest half, so the constant is made of the largest one: 0.57 * 65504 stays finite.
    nodes.insert(3, helper.make_node("Mul", ["large", "constant1"], ["larger"]))
    nodes[4] = helper.make_node("Sub", ["larger", "larger"], ["nothing"])
    planted = _model(nodes, (("Mul", 60000.0), ("Mul", 2.0)), (1,), SHARP)
    parity, found = judged(column("onnx fp16", "emulated", half(planted), segmenter_model()))
    assert found["not_a_probability"].studies == ("sick",)  # 0.58 * 120000 > 65504, 0.50 * 120000 is not
    assert [s.study for s in parity.comparisons[0].studies] == ["near", "healthy"]
    missing = [case for case in parity.slices if case.study == "sick"]
    assert missing
    assert all(case.probabilities["onnx fp16"] is None for case in missing)


def test_the_cpu_runs_a_real_half_graph_without_the_loss(judged, column):
    # Why the gate emulates: ONNX Runtime's CPU provider computes FP16 in FP32 and sees nothing of the planted loss.
    planted = half_from_float(classifier_model(PRECISION_LOSS), dtype="fp16")
    _, found = judged(column("real fp16", "computed", planted, segmenter_model()))
    assert "patient_flips" not in found


def test_a_reference_that_is_no_probability_is_an_error_not_a_breach(rules, column):
    broken = classifier_model()
    broken.graph.initializer[2].CopyFrom(numpy_helper.from_array(np.float32(np.nan), broken.graph.initializer[2].name))
    with pytest.raises(OnfhError, match=r"sick.*reference_not_finite"):
        compare(STUDIES, rules, [column("onnx fp32", "reference", broken, segmenter_model())])


def test_a_stage_that_cannot_run_stops_the_comparison(rules, column):
    closed = column("onnx fp32", "reference", classifier_model(), segmenter_model())
    closed.classifier.close()
    with pytest.raises(BackendError, match="stage_failed"):
        compare(STUDIES, rules, [closed])


def test_the_ten_nearest_cases_hold_every_column(rules, column):
    plain = column("onnx fp32", "reference", classifier_model(), segmenter_model())
    other = column("onnx fp16", "emulated", half(classifier_model()), half(segmenter_model()))
    steps = []
    parity = compare(STUDIES, rules, [plain, other], progress=lambda *step: steps.append(step))
    assert steps == [(done, 6) for done in range(1, 7)]
    assert len(parity.slices) == 10
    distances = [case.distance for case in parity.slices]
    assert distances == sorted(distances)
    first = parity.slices[0]
    assert (first.study, first.index) == ("near", 2)
    assert first.distance == pytest.approx(abs(first.probabilities["onnx fp32"] - rules.slice_threshold))
    assert set(first.probabilities) == {"onnx fp32", "onnx fp16"}
    assert [case.index for case in parity.patients] == [None] * 3
    assert parity.patients[0].study == "near"


@pytest.fixture(scope="module")
def real(rules, tmp_path_factory):
    """Rules for the networks of the smoke recipe, that classifier untrained, and a maker of columns."""
    recipe = smoke_recipe()
    shape = (1, *recipe.size)
    root = tmp_path_factory.mktemp("real")
    torch.manual_seed(0)
    networks = {"segmenter": segmenter_from_shape(recipe.segmenter, recipe.size)}
    onnx_from_network(networks["segmenter"], shape, root / "segmenter.onnx")
    spec = rules.classifier.model_copy(
        update={"activation": "softmax", "positive_class": 1, "input": recipe.stage_input}
    )

    def runner(stage, backend):
        return StageRunner(stage, spec, backend)

    def columns(classifier):
        """Network, ONNX file, and emulated half."""
        networks["classifier"] = classifier
        onnx_from_network(classifier, shape, root / "classifier.onnx")
        yield Column(
            "torch fp32", "reference",
            *(runner(stage, TorchBackend(networks[stage], shape, input_name="pixel_values", output_name="logits"))
              for stage in ("classifier", "segmenter")),
        )  # fmt: skip
        for name, kind, change in (("onnx fp32", "computed", None), ("onnx fp16", "emulated", half)):
            stages = []
            for stage in ("classifier", "segmenter"):
                path = root / f"{stage}.onnx"
                if change is not None:
                    onnx.save(change(onnx.load(path)), path := root / f"{stage}-changed.onnx")
                stages.append(runner(stage, OrtBackend(path, precision="fp32", threads=1)))
            yield Column(name, kind, *stages)

    return (
        rules.model_copy(update={"classifier": spec, "segmenter": spec}),
        vit_from_shape(recipe.classifier, recipe.size),
        columns,
    )


@pytest.mark.slow
def test_network_file_and_emulated_half_agree(real):
    rules, classifier, columns = real
    parity = compare(STUDIES, rules, list(columns(classifier)))
    exact, rounded = (comparison.pooled for comparison in parity.comparisons)
    assert exact.largest_drift < 1e-5 < rounded.largest_drift < 0.02
    assert exact.slice_flips == exact.patient_flips == 0
    document = parity_document(parity, Reference("studies", None, STUDIES, {}), rules, breaches(parity, LIMITS))
    assert json.loads(json.dumps(document, allow_nan=False)) == document


@pytest.mark.slow
def test_a_transformer_whose_activations_pass_65504_is_caught(real):
    rules, classifier, columns = real
    network = copy.deepcopy(classifier)
    with torch.no_grad():
        grown = [v for name, v in network.named_parameters() if name.endswith(("layernorm_after.weight", "fc1.weight"))]
        assert len(grown) == 2  # of the one layer: the normalisation before the MLP, and its first matrix
        for value in grown:
            value.mul_(3000)
    parity = compare(STUDIES, rules, list(columns(network)))
    found = breaches(parity, LIMITS)
    assert {breach.column for breach in found} == {"onnx fp16"}
    assert found[0].limit == "not_a_probability"
    assert set(found[0].studies) == {"sick", "near", "healthy"}
