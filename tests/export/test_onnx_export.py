"""An exported network answers as it did, at every batch size, or export says so."""

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from onfh_export.networks import checkpoint_from_folder, vit_from_shape
from onfh_export.onnx_export import check_onnx, check_same_rows, logits_of, onnx_from_network, proof_batches
from onfh_export.recipe import smoke_recipe
from onfh_runtime.errors import OnfhError

SHAPE = (1, *smoke_recipe().size)
SMALL = (2, 6, 5)


def _shape(value):
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]


@pytest.fixture(scope="module")
def exported(checkpoints, tmp_path_factory):
    """stage -> (network, file); tests must not change either."""
    root = tmp_path_factory.mktemp("exported")
    found = {}
    for stage in ("classifier", "segmenter"):
        network = checkpoint_from_folder(checkpoints / stage)
        onnx_from_network(network, SHAPE, root / f"{stage}.onnx", max_batch=4)
        found[stage] = network, root / f"{stage}.onnx"
    return found


class Mean(nn.Module):
    """The means of an image, as a tensor or wrapped as asked."""

    def __init__(self, wrapped=lambda logits: logits):
        super().__init__()
        self.mix = nn.Conv2d(SMALL[0], 2, 1)
        self.wrapped = wrapped

    def forward(self, image):
        return self.wrapped(self.mix(image).mean((2, 3)))


@pytest.mark.parametrize(("stage", "made"), [("classifier", ["batch", 2]), ("segmenter", ["batch", 2, *SHAPE[1:]])])
def test_only_the_batch_is_symbolic(exported, stage, made):
    path = exported[stage][1]
    model = onnx.load(path, load_external_data=False)
    (given,), (output,) = model.graph.input, model.graph.output
    assert (given.name, output.name) == ("pixel_values", "logits")
    assert _shape(given) == ["batch", *SHAPE]
    assert _shape(output) == made
    assert model.opset_import[0].version == 18
    assert sorted(p.name for p in path.parent.iterdir()) == ["classifier.onnx", "segmenter.onnx"]


@pytest.mark.parametrize("stage", ["classifier", "segmenter"])
def test_it_answers_as_its_checkpoint(exported, stage):
    # The smoke segmenter's windows of 5 neither divide its 12 x 30 tokens nor stay unshifted.
    network, path = exported[stage]
    assert check_onnx(path, network, SHAPE, max_batch=9) < 1e-5
    assert check_same_rows(path, path, SHAPE, max_batch=9) < 1e-5


def test_the_graph_is_returned_and_written_where_asked(exported, tmp_path):
    network, path = exported["classifier"]
    model = onnx_from_network(network, SHAPE)
    assert model == onnx.load(path)
    assert onnx_from_network(network, SHAPE, tmp_path / "a.onnx", opset=23).opset_import[0].version == 23
    assert check_same_rows(path, tmp_path / "a.onnx", SHAPE) < 1e-5


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda logits: logits,
        lambda logits: (logits, logits * 2),
        lambda logits: {"loss": logits * 2, "logits": logits},
        lambda logits: {"out": logits, "aux": logits * 2},
    ],
)
def test_any_module_with_one_answer(tmp_path, wrapped):
    torch.manual_seed(0)
    network = Mean(wrapped).eval()
    onnx_from_network(network, SMALL, tmp_path / "model.onnx")
    pixels = torch.randn(3, *SMALL)
    torch.testing.assert_close(logits_of(network(pixels)), network.mix(pixels).mean((2, 3)))


def test_other_weights_are_noticed(exported):
    torch.manual_seed(7)
    other = vit_from_shape(smoke_recipe().classifier, SHAPE[1:]).eval()
    with pytest.raises(OnfhError, match="its network give other logits at batch 1"):
        check_onnx(exported["classifier"][1], other, SHAPE)


def test_another_file_is_noticed(tmp_path):
    for seed, name in enumerate(("a.onnx", "b.onnx")):
        torch.manual_seed(seed)
        onnx_from_network(Mean().eval(), SMALL, tmp_path / name)
    with pytest.raises(OnfhError, match=r"b.onnx and a.onnx give other logits"):
        check_same_rows(tmp_path / "a.onnx", tmp_path / "b.onnx", SMALL)


def test_a_baked_batch_is_noticed(exported, tmp_path):
    network, path = exported["classifier"]
    model = onnx.load(path)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(OnfhError, match="onnx_mismatch"):
        check_onnx(tmp_path / "model.onnx", network, SHAPE)


@pytest.fixture
def onnx_file(tmp_path):
    def of(body):
        head = '<ir_version: 10, opset_import: ["" : 18]> graph (float[batch, 2, 6, 5] pixel_values)'
        model = onnx.parser.parse_model(f"{head} => (float[b, c] logits) {{ {body} }}")
        constants = {"plane": np.array([2, 3]), "zero": np.array([0])}
        model.graph.initializer.extend(onnx.numpy_helper.from_array(*item[::-1]) for item in constants.items())
        onnx.save(model, tmp_path / "made.onnx")
        return tmp_path / "made.onnx"

    return of


def test_images_that_see_their_neighbours_are_noticed(onnx_file, tmp_path):
    body = """means = ReduceMean<keepdims = 0>(pixel_values, plane) over = ReduceMean(means, zero)
    logits = Sub(means, over)"""
    path = onnx_file(body)
    with pytest.raises(OnfhError, match="other logits at batch 2"):
        check_same_rows(path, path, SMALL)


def test_what_is_no_onnx_file_is_refused(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"nothing")
    with pytest.raises(OnfhError, match="onnx_mismatch"):
        check_onnx(tmp_path / "model.onnx", Mean(), SMALL)


class Undecided(nn.Module):
    def forward(self, image):
        return image if image.sum() > 0 else -image


class Sorted(nn.Module):
    def forward(self, image):
        return torch.linalg.eigvals(image[:, 0, :5, :5]).real


@pytest.mark.parametrize("network", [Undecided(), Sorted()])
def test_what_cannot_be_exported_is_named(network):
    with pytest.raises(OnfhError, match=f"{type(network).__name__} cannot be exported") as caught:
        onnx_from_network(network, SMALL)
    assert caught.value.code == "network_not_exportable"
    assert "\n" not in caught.value.text


@pytest.mark.parametrize(
    ("max_batch", "max_rows", "batches"),
    [
        (8, 32, [1, 2, 3, 7, 8]),
        (1, 32, [1, 2, 3, 7]),
        (7, 32, [1, 2, 3, 7]),
        (64, 32, [1, 2, 3, 7, 19]),
        (4, 10, [1, 2, 3, 4]),
        (8, 9, [1, 2, 3]),
        (8, 1, [1]),
    ],
)
def test_the_proof_is_bounded(max_batch, max_rows, batches):
    assert proof_batches(max_batch, max_rows) == batches
    assert sum(batches) <= max_rows
