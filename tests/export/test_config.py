"""A configuration is checked whole, before anything is exported."""

import json
import subprocess
import sys

import pytest

from onfh_export.config import SOURCE_FIELDS, _known_fields, config_example, defaults_from_folder, read_config
from onfh_runtime.bundle import Bundle, StageInput
from onfh_runtime.errors import UsageError


@pytest.fixture
def example(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(config_example())
    return path


def test_the_example_is_valid_as_it_stands_and_names_every_field(example):
    config = read_config(example)
    assert config["gate"] == {"threshold": 0.1}
    assert config["segmenter"]["input"]["size"] == [512, 512]
    lines = config_example().splitlines()
    for field in _known_fields(Bundle):
        name = field.rpartition(".")[2]
        assert any(
            line.lstrip(" #").startswith(f"{name}:") or f"{{{name}: " in line or f", {name}: " in line for line in lines
        ), field


def test_the_commented_fields_of_the_example_are_valid_too(tmp_path):
    whole = []
    for line in config_example().splitlines()[2:]:
        bare = line.replace("# ", "", 1) if line.lstrip().startswith("# ") else line
        whole.append(bare.replace("factory_arguments: {}", "factory_arguments: {window: 7}"))
    path = tmp_path / "c.yaml"
    path.write_text("\n".join(whole))
    config = read_config(path)
    assert config["parity"]["mask_dice"] == 0.995
    assert config["classifier"]["factory_arguments"] == {"window": 7}
    fields = {name: value for name, value in config["classifier"].items() if name not in SOURCE_FIELDS}
    assert set(fields) == {"activation", "positive_class", "max_batch", "input"}


def test_json_reads_as_well(example, tmp_path):
    config = read_config(example)
    (tmp_path / "c.json").write_text(json.dumps(config, indent="\t"))
    assert read_config(tmp_path / "c.json") == config


def test_flags_replace_what_the_file_says(example):
    sets = [
        "gate.threshold=1e-3",
        "classifier.input.size=[72, 216]",
        "gate.max_slices=9",
        "classifier.input.size=[8,16]",
    ]
    config = read_config(example, sets)
    assert config["gate"] == {"threshold": 0.001, "max_slices": 9}
    assert config["classifier"]["input"]["size"] == [8, 16]
    assert config["segmenter"]["input"]["size"] == [512, 512]


def test_flags_alone_are_enough(example):
    whole = read_config(example)
    assert read_config(None, [f"{field}={json.dumps(value)}" for field, value in whole.items()]) == whole


def test_an_alias_and_a_flag_do_not_meet(tmp_path):
    text = config_example().replace("classifier:", "classifier: &stage\n  max_batch: 4\n ", 1)
    path = tmp_path / "c.yaml"
    path.write_text(text[: text.index("segmenter:")] + "segmenter: *stage\n" + text[text.index("gate:") :])
    config = read_config(path, ["classifier.max_batch=2"])
    assert (config["classifier"]["max_batch"], config["segmenter"]["max_batch"]) == (2, 4)


def test_everything_that_is_missing_is_named_at_once():
    with pytest.raises(UsageError) as caught:
        read_config(None)
    assert caught.value.code == "config_incomplete"
    for field in (
        "name (such as hip-necrosis)", 'version (such as "1.0.0")', "slice_spacing_mm", "coverage.margin_mm",
        "classifier.input.size (such as [224, 224])", "segmenter.input.windows (such as [{", "classifier.input.mean",
        "gate.threshold", "slice_threshold", "patient_rule.threshold", "minimum_volume_mm3 (such as 100.0)",
    ):  # fmt: skip
        assert field in caught.value.text, field
    assert caught.value.text.count("such as") == 16


def test_every_example_in_an_error_would_do():
    from onfh_export.config import _EXAMPLES

    sets = [f"{field}={value}" for field, value in _EXAMPLES.items() if not field.startswith("input.")]
    sets += [
        f"{stage}.{f}={v}"
        for f, v in _EXAMPLES.items()
        if f.startswith("input.")
        for stage in ("classifier", "segmenter")
    ]
    read_config(None, sets)


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("gate.treshold=0.2", "gate.treshold: there is no such field (did you mean gate.threshold?)"),
        ("patient.k=2", "did you mean patient_rule"),
        ("classifier.inputs.size=[1, 1]", "did you mean classifier.input"),
        ("classifier.factory_args={}", "did you mean classifier.factory_arguments?"),
        ("segmenter.input.windows=[{center: 1, width: 2, widht: 3}]", "did you mean segmenter.input.windows.width?"),
        ("gate.threshold=2", "gate.threshold: Input should be less than or equal to 1"),
        ("version=1.0", "version: Input should be a valid string"),
        ("slice_spacing_mm=thick", "slice_spacing_mm"),
        ("classifier.input.windows=[{center: 1, width: 2}, {center: 1, width: 3}]", None),
        ("classifier.input.mean=[]", "one entry per channel"),
        ("classifier=3", "wrong at classifier: it must hold fields"),
        ("classifier.input=3", "wrong at classifier.input: it must hold fields"),
        ("gate.threshold.low=1", "gate.threshold has no fields"),
        ("classifier.factory_arguments=3", "classifier.factory_arguments must hold fields"),
        ("classifier.output=[a]", "classifier.output a name"),
        ("gate.threshold", "is not field=value"),
        ("gate..threshold=1", "is not field=value"),
        ("gate.threshold=[1", "--set gate.threshold"),
        ("schema=onfh-bundle/1", "holds schema, which export fills in"),
        ("files={}", "holds files"),
        ("classifier.models={}", "holds classifier.models"),
        ("segmenter.graphs={}", "holds segmenter.graphs"),
    ],
)  # fmt: skip
def test_a_wrong_field_is_named(example, flag, words):
    if words is None:
        read_config(example, [flag])
        return
    with pytest.raises(UsageError) as caught:
        read_config(example, [flag])
    assert caught.value.code == "config_invalid"
    assert words in caught.value.text


def test_one_window_serves_every_channel(example):
    config = read_config(example, ["classifier.input.mean=[0.4, 0.5, 0.6]", "classifier.input.std=[0.2]"])
    given = StageInput.model_validate(config["classifier"]["input"])
    assert len(given.windows) == len(given.std) == 3
    assert given.windows[0] == given.windows[2]
    with pytest.raises(UsageError, match="one entry per channel"):
        read_config(example, ["classifier.input.mean=[0.4, 0.5, 0.6]", "classifier.input.std=[0.2, 0.2]"])


def test_a_folder_gives_what_the_configuration_leaves_out(example, tmp_path):
    text = (
        config_example()
        .replace("    size: [224, 224]", "    min_pixel_spacing_mm: 1.0", 1)
        .replace("    mean: [0.5] ", "#", 1)
    )
    example.write_text(text)
    with pytest.raises(UsageError, match=r"lacks classifier.input.size \(such as .*, classifier.input.mean"):
        read_config(example)
    defaults = {"classifier": {"size": [384, 384], "mean": [0.1, 0.2, 0.3], "std": [9, 9, 9]}}
    given = read_config(example, defaults=defaults)["classifier"]["input"]
    assert (given["size"], given["mean"], given["std"]) == ([384, 384], [0.1, 0.2, 0.3], [0.5, 0.5, 0.5])
    assert defaults["classifier"]["size"] is not given["size"]


SWIN = {"model_type": "upernet", "backbone_config": {"model_type": "swin", "image_size": 224, "num_channels": 3}}
VIT = {"model_type": "vit", "image_size": 224, "num_channels": 1}
PROCESSOR = {"size": {"height": 512, "width": 256}, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}


@pytest.mark.parametrize(
    ("config", "processor", "expected"),
    [
        (SWIN, None, {"size": [224, 224]}),
        (SWIN, PROCESSOR, {"size": [512, 256], "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}),
        (SWIN, {**PROCESSOR, "size": {"shortest_edge": 9}, "image_std": None},
         {"size": [224, 224], "mean": [0.1, 0.2, 0.3]}),
        (SWIN, {"do_normalize": False}, {"size": [224, 224], "mean": [0.0] * 3, "std": [1.0] * 3}),
        (SWIN, {**PROCESSOR, "rescale_factor": 1 / 127.5}, {"size": [512, 256]}),
        (SWIN, {**PROCESSOR, "do_rescale": False}, {"size": [512, 256]}),
        (VIT, PROCESSOR, {"size": [224, 224]}),
        ({**VIT, "image_size": [72, 216]}, {"size": 8, "image_mean": [0.5], "image_std": [0.25]},
         {"size": [72, 216], "mean": [0.5], "std": [0.25]}),
        ({"model_type": "vit"}, None, {}),
    ],
)  # fmt: skip
def test_what_a_folder_says_of_its_input(tmp_path, config, processor, expected):
    (tmp_path / "config.json").write_text(json.dumps(config))
    if processor:
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    assert defaults_from_folder(tmp_path) == expected


def test_other_paths_say_nothing_and_a_broken_folder_is_named(tmp_path):
    assert defaults_from_folder(tmp_path) == {}
    assert defaults_from_folder(tmp_path / "module:factory") == {}
    for content in ("{", "[]"):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(UsageError, match="checkpoint_unreadable"):
            defaults_from_folder(tmp_path)


def test_reading_a_configuration_does_not_import_torch():
    code = "import sys, onfh_export.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
