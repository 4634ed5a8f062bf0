"""What is written is read back with Triton's own schema; that it is served is tested with the runtime's backend."""

import json
import shutil
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
from google.protobuf import text_format
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import convert_model_to_external_data
from tritonclient.grpc import model_config_pb2

from onfh_export.triton_repository import plans_for_triton, write_triton_repository
from onfh_runtime.bundle import load_bundle, sha256_of
from onfh_runtime.cli.infer import demo_bundle
from onfh_runtime.engines import BuiltPlan, EngineOptions, HalfShare, Profile, write_plan
from onfh_runtime.errors import BundleError, OutputError, UsageError

MODELS = ("onfh_classifier", "onfh_segmenter")
HALF, FLOAT = TensorProto.FLOAT16, TensorProto.FLOAT


@pytest.fixture
def demo():
    return load_bundle(demo_bundle())


def write_model(path, output, kind=HALF, size=(72, 216), external=False):
    """A model whose only merit is its input and output."""
    value = numpy_helper.from_array(np.zeros((1, *output), helper.tensor_dtype_to_np_dtype(kind)), "value")
    graph = helper.make_graph(
        [helper.make_node("Identity", ["value"], ["logits"])],
        "g",
        [helper.make_tensor_value_info("pixel_values", kind, ["batch", 1, *size])],
        [helper.make_tensor_value_info("logits", kind, ["batch", *output])],
        [value],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    if external:
        convert_model_to_external_data(model, location=f"{path.name}.data", size_threshold=0)
    onnx.save(model, path)


@pytest.fixture
def half(tmp_path):
    """Makes the demo bundle with other FP16 models, or BF16 ones, beside the FP32 ones."""

    def made(**changes):
        root, precision = tmp_path / "half", changes.pop("precision", "fp16")
        shutil.copytree(demo_bundle(), root)
        document = json.loads((root / "bundle.json").read_text())
        for stage, output in (("classifier", (1,)), ("segmenter", (1, 72, 216))):
            write_model(root / stage / f"model.{precision}.onnx", output, **changes)
            document[stage]["models"][precision] = f"{stage}/model.{precision}.onnx"
        made = root.rglob(f"model.{precision}.onnx*")
        document["files"] |= {file.relative_to(root).as_posix(): sha256_of(file) for file in made}
        (root / "bundle.json").write_text(json.dumps(document))
        return load_bundle(root)

    return made


def add_plans(bundle, precision="fp16", target="sm89", flavour="tensorrt", **options):
    """Plan files whose bytes are no plan, with the facts that a build of the bundle's own files would leave."""
    share = HalfShare(1.0, 1.0)
    for stage in ("classifier", "segmenter"):
        built = BuiltPlan(
            memoryview(stage.encode()), flavour, "10.9", target, EngineOptions(**options), 1, share, None, (), 1.0
        )
        onnx = bundle.model_path(stage, precision).relative_to(bundle.root).as_posix()
        write_plan(bundle.root, stage, built, onnx=onnx, precision=precision)


def config_of(out, model):
    return text_format.Parse((out / model / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())


def tree(out):
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("platform", "named", "file", "kind"),
    [
        ("onnxruntime", ("onnxruntime_onnx", ""), "model.onnx", "KIND_AUTO"),
        ("tensorrt", ("tensorrt_plan", ""), "model.plan", "KIND_GPU"),
        ("python", ("", "python"), "model.py", "KIND_CPU"),
    ],
)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_every_field_as_triton_reads_it(half, tmp_path, platform, named, file, kind, precision):
    bundle = half()
    add_plans(bundle, precision)
    out = tmp_path / "deep" / "repository"
    write_triton_repository(
        bundle, out, platform=platform, precision=precision, instances=2, max_queue_delay_us=500,
        plans=plans_for_triton(bundle) if platform == "tensorrt" else None,
    )  # fmt: skip
    enum = model_config_pb2.DataType.Value(f"TYPE_{precision.upper()}")
    for model, output in zip(MODELS, ((1,), (1, 72, 216)), strict=True):
        stage = model.removeprefix("onfh_")
        config = config_of(out, model)
        assert config.name == model
        assert (config.platform, config.backend) == named
        assert config.default_model_filename == file
        assert config.max_batch_size == 8
        assert list(config.version_policy.specific.versions) == [1]
        assert [(t.name, t.data_type, tuple(t.dims)) for t in config.input] == [("pixel_values", enum, (1, 72, 216))]
        assert [(t.name, t.data_type, tuple(t.dims)) for t in config.output] == [("logits", enum, output)]
        assert list(config.dynamic_batching.preferred_batch_size) == [8]
        assert config.dynamic_batching.max_queue_delay_microseconds == 500
        (group,) = config.instance_group
        assert (model_config_pb2.ModelInstanceGroup.Kind.Name(group.kind), group.count) == (kind, 2)
        assert not group.profile
        (warmup,) = config.model_warmup
        assert warmup.batch_size == 8
        assert tuple(warmup.inputs["pixel_values"].dims) == (1, 72, 216)
        assert warmup.inputs["pixel_values"].data_type == enum
        assert {key: value.string_value for key, value in config.parameters.items()} == {
            "onfh_bundle_sha256": bundle.sha256,
            "onfh_model_sha256": bundle.content.files[f"{stage}/model{'.fp16' if precision == 'fp16' else ''}.onnx"],
            "onfh_precision": precision,
            "onfh_stage": stage,
        }
        held = {path.name for path in (out / model / "1").iterdir()}
        assert held == {file} | ({"model.onnx"} if platform == "python" else set())
        if platform == "tensorrt":
            assert (out / model / "1" / file).read_bytes() == stage.encode()
        else:
            assert (out / model / "1" / "model.onnx").read_bytes() == bundle.model_path(stage, precision).read_bytes()
    assert sorted(path.name for path in out.iterdir()) == list(MODELS)
    assert [path.name for path in out.parent.iterdir()] == ["repository"]
    assert not any(str(tmp_path).encode() in content for content in tree(out).values())


def test_what_a_plan_is_comes_from_its_facts(half, tmp_path):
    """A BF16 plan of several profiles, with the FP32 inputs and outputs that export gives it."""
    bundle = half(precision="bf16", kind=FLOAT)
    add_plans(bundle, "bf16", profiles=(Profile(1, 1, 1), Profile(2, 4, 4), Profile(3, 16, 16)))
    write_triton_repository(bundle, tmp_path / "r", platform="tensorrt", plans=plans_for_triton(bundle))
    for model in MODELS:
        config = config_of(tmp_path / "r", model)
        assert config.max_batch_size == 16
        assert list(config.dynamic_batching.preferred_batch_size) == [16]
        assert config.model_warmup[0].batch_size == 16
        (group,) = config.instance_group
        assert list(group.profile) == ["0", "1", "2"]
        assert config.parameters["onfh_precision"].string_value == "bf16"
        stage = model.removeprefix("onfh_")
        assert config.parameters["onfh_model_sha256"].string_value == sha256_of(bundle.model_path(stage, "bf16"))
        assert {tensor.data_type for tensor in (*config.input, *config.output)} == {
            model_config_pb2.DataType.Value("TYPE_FP32")
        }


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"strip_weights": True}, "--strip-weights"),
        ({"profiles": (Profile(1, 1, 1), Profile(8, 8, 8))}, "no profile of the plans takes 2"),
        ({"flavour": "tensorrt-rtx"}, "none of the classifier"),
    ],
)
def test_plans_that_triton_cannot_serve(half, tmp_path, options, words):
    bundle = half()
    add_plans(bundle, **options)
    with pytest.raises(UsageError, match=f"{words}.*triton_options"):
        write_triton_repository(bundle, tmp_path / "r", platform="tensorrt", plans=plans_for_triton(bundle))
    assert not (tmp_path / "r").exists()


def test_plans_for_two_gpus_are_both_named(half):
    bundle = half()
    add_plans(bundle, target="sm86")
    add_plans(bundle, target="sm89")
    with pytest.raises(UsageError, match=r"sm86, sm89.*triton_options"):
        plans_for_triton(bundle)


@pytest.mark.parametrize("changed", ["classifier.plan", "model.fp16.onnx"])
def test_plans_that_are_not_what_their_facts_say(half, tmp_path, changed):
    bundle = half()
    add_plans(bundle)
    next(bundle.root.rglob(changed)).write_bytes(b"another")
    with pytest.raises(UsageError, match=r"damaged.*triton_options"):
        write_triton_repository(bundle, tmp_path / "r", platform="tensorrt", plans=plans_for_triton(bundle))


@pytest.mark.parametrize("stage", ["classifier", "segmenter"])
def test_tensors_are_those_onnx_runtime_sees(demo, tmp_path, stage):
    write_triton_repository(demo, tmp_path / "r")
    config = config_of(tmp_path / "r", f"onfh_{stage}")
    session = onnxruntime.InferenceSession(demo.model_path(stage, "fp32"), providers=["CPUExecutionProvider"])
    for ours, theirs in ((config.input, session.get_inputs()), (config.output, session.get_outputs())):
        assert [(t.name, list(t.dims)) for t in ours] == [(t.name, t.shape[1:]) for t in theirs]


def test_the_model_file_of_the_python_variant_stands_alone(demo, tmp_path):
    write_triton_repository(demo, tmp_path / "r", platform="python")
    source = (tmp_path / "r" / "onfh_classifier" / "1" / "model.py").read_text()
    compile(source, "model.py", "exec")
    assert "import onfh" not in source
    assert "from onfh" not in source


def test_a_repository_that_is_there_needs_force(demo, tmp_path):
    write_triton_repository(demo, tmp_path / "r")
    before = tree(tmp_path / "r")
    with pytest.raises(OutputError, match=r"--force.*repository_exists"):
        write_triton_repository(demo, tmp_path / "r", platform="python")
    assert tree(tmp_path / "r") == before
    write_triton_repository(demo, tmp_path / "r", platform="python", force=True)
    assert "onfh_classifier/1/model.py" in tree(tmp_path / "r")
    assert [path.name for path in tmp_path.iterdir()] == ["r"]


@pytest.mark.parametrize("name", ["another_model/config.pbtxt", "thesis.txt"])
def test_force_never_replaces_what_is_not_ours(demo, tmp_path, name):
    (tmp_path / "r" / name).parent.mkdir(parents=True)
    (tmp_path / "r" / name).write_text("x")
    with pytest.raises(OutputError, match="holds more"):
        write_triton_repository(demo, tmp_path / "r", force=True)
    assert tree(tmp_path / "r") == {name: b"x"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"size": ("height", 216)}, "nothing but the batch free"),
        ({"size": (72, 217)}, "nothing but the batch free"),
        ({"kind": TensorProto.DOUBLE}, "as float or float16"),
        ({"external": True}, "in another file"),
    ],
)
def test_a_model_that_cannot_be_served_leaves_what_was_there(half, demo, tmp_path, changes, words):
    bundle = half(**changes)
    write_triton_repository(demo, tmp_path / "r")
    before = tree(tmp_path / "r")
    with pytest.raises(BundleError, match=f"(?s){words}.*stage_mismatch"):
        write_triton_repository(bundle, tmp_path / "r", precision="fp16", force=True)
    assert tree(tmp_path / "r") == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["half", "r"]


def test_a_precision_the_bundle_lacks(demo, tmp_path):
    classifier = demo.content.classifier.model_copy(update={"models": {"fp32": "classifier/model.onnx"}})
    bundle = replace(demo, content=demo.content.model_copy(update={"classifier": classifier}))
    with pytest.raises(BundleError, match="precision_missing"):
        write_triton_repository(bundle, tmp_path / "r", precision="fp16")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "options",
    [
        {"platform": "tensorrt"},
        {"precision": "bf16"},
        {"instances": 0},
        {"max_queue_delay_us": -1},
    ],
)
def test_wrong_options(demo, tmp_path, options):
    with pytest.raises(UsageError, match="triton_options"):
        write_triton_repository(demo, tmp_path / "r", **options)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made(demo, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="output_unwritable"):
        write_triton_repository(demo, tmp_path / "file" / "r")
