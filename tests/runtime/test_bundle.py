from __future__ import annotations

import hashlib
import json

import pytest

from onfh_runtime.bundle import Bundle, load_bundle
from onfh_runtime.errors import BundleError


def edit(folder, **changes):
    path = folder / "bundle.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def code_of(folder):
    with pytest.raises(BundleError) as caught:
        load_bundle(folder)
    assert caught.value.exit_code == 2
    return caught.value.code


def test_a_whole_bundle_loads_and_is_named_by_its_hash(bundle_folder):
    bundle = load_bundle(bundle_folder)
    assert bundle.sha256 == hashlib.sha256((bundle_folder / "bundle.json").read_bytes()).hexdigest()
    assert bundle.model_path("classifier", "fp32") == bundle_folder / "classifier" / "model.onnx"


def test_a_cpu_runs_int8_where_the_bundle_has_it(bundle_folder):
    assert load_bundle(bundle_folder).cpu_precision("classifier") == "fp32"
    document = json.loads((bundle_folder / "bundle.json").read_text())
    document["classifier"]["models"]["int8"] = "classifier/model.onnx"
    edit(bundle_folder, classifier=document["classifier"])
    bundle = load_bundle(bundle_folder)
    assert (bundle.cpu_precision("classifier"), bundle.cpu_precision("segmenter")) == ("int8", "fp32")


def test_round_trip_keeps_every_field(bundle_folder):
    content = load_bundle(bundle_folder).content
    assert Bundle.model_validate(json.loads(content.model_dump_json(by_alias=True))) == content


def test_no_folder(tmp_path):
    assert code_of(tmp_path / "none") == "bundle_not_found"


@pytest.mark.parametrize(
    "changes",
    [
        {"surprise": 1},
        {"schema": "onfh-bundle/2"},
        {"slice_spacing_mm": 0},
        {"gate": {"threshold": 1.5}},
        {"files": {}},
        {"patient_rule": {"kind": "vote", "threshold": 0.5}},
    ],
)
def test_what_is_not_understood_is_refused(bundle_folder, changes):
    edit(bundle_folder, **changes)
    assert code_of(bundle_folder) == "bundle_invalid"


def test_text_that_is_no_json(bundle_folder):
    (bundle_folder / "bundle.json").write_text("{")
    assert code_of(bundle_folder) == "bundle_invalid"


def test_a_window_without_its_mean(bundle_folder):
    document = json.loads((bundle_folder / "bundle.json").read_text())
    document["classifier"]["input"]["mean"] = []
    edit(bundle_folder, classifier=document["classifier"])
    assert code_of(bundle_folder) == "bundle_invalid"


def test_changed_bytes(bundle_folder):
    with (bundle_folder / "segmenter" / "model.onnx").open("ab") as file:
        file.write(b"\0")
    assert code_of(bundle_folder) == "bundle_hash_mismatch"


def test_a_file_that_no_hash_covers(bundle_folder):
    (bundle_folder / "segmenter" / "weights.bin").write_bytes(b"weights")
    assert code_of(bundle_folder) == "bundle_file_unlisted"


def test_missing_file(bundle_folder):
    (bundle_folder / "segmenter" / "model.onnx").unlink()
    assert code_of(bundle_folder) == "bundle_file_missing"


@pytest.mark.parametrize("name", ["../outside.onnx", "/etc/hostname"])
def test_a_path_out_of_the_folder(bundle_folder, name):
    edit(bundle_folder, files={name: "0"} | json.loads((bundle_folder / "bundle.json").read_text())["files"])
    assert code_of(bundle_folder) == "bundle_path_escapes"


def test_a_link_out_of_the_folder(bundle_folder, tmp_path):
    outside = tmp_path / "outside.onnx"
    inside = bundle_folder / "segmenter" / "model.onnx"
    inside.rename(outside)
    inside.symlink_to(outside)
    assert code_of(bundle_folder) == "bundle_path_escapes"


def test_a_precision_that_is_not_there(bundle_folder):
    with pytest.raises(BundleError, match="precision_missing"):
        load_bundle(bundle_folder).model_path("classifier", "fp16")
