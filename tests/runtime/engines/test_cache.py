"""The bundle's plan, one kept from before, or one built now; TensorRT-RTX really builds, without a GPU."""

from __future__ import annotations

import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

import onfh_runtime
from onfh_runtime.bundle import LoadedBundle, load_bundle, sha256_of
from onfh_runtime.engines import EngineOptions, Profile, plan_from_onnx, read_plans, write_plan
from onfh_runtime.engines.cache import cache_folder, cached_bytes, plan_for, runtime_cache_file
from onfh_runtime.errors import BackendError, BundleError

TARGET, MAX_ROWS = "sm89", 4


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ONFH_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def find(rtx, tiny_bundle, cache):
    def found(bundle=tiny_bundle, *, stage="segmenter", target=TARGET, precision="fp32", max_rows=MAX_ROWS, **options):
        return plan_for(bundle, stage, rtx, target, precision=precision, max_rows=max_rows, **options)

    return found


def bundled(rtx, bundle, *, target=TARGET, precision="fp32", profile=(1, 4, 4), stage="segmenter"):
    """A plan inside the bundle's folder."""
    built = plan_from_onnx(bundle.model_path(stage, "fp32"), rtx, target, EngineOptions(profiles=(Profile(*profile),)))
    return write_plan(bundle.root, stage, built, onnx=f"{stage}/model.onnx", precision=precision)


def test_a_plan_is_built_kept_and_found_again(find, tiny_bundle, rtx, cache):
    told = []
    first = find(progress=lambda *step: told.append(step))
    assert first.built_now
    assert told[0][0] == "Building engine"
    assert [code for code, _ in first.warnings] == ["engine_rebuilt"]
    assert "there is none for tensorrt-rtx" in first.warnings[0][1]
    assert "kept for next time, with 0 MB in all" in first.warnings[0][1]
    assert first.onnx == tiny_bundle.root / "segmenter" / "model.onnx"
    assert first.facts.profiles == ((1, MAX_ROWS, MAX_ROWS),)
    (kept,) = read_plans(cache / tiny_bundle.sha256)
    assert kept.path == (
        cache / tiny_bundle.sha256 / "engines" / f"tensorrt-rtx-{rtx.version}-{TARGET}" / "segmenter.plan"
    )
    assert kept.facts == first.facts
    again = find(progress=lambda *step: pytest.fail("it is built again"))
    assert (again.built_now, again.warnings, bytes(again.data)) == (False, (), bytes(first.data))
    assert cached_bytes() >= len(first.data)


def test_the_bundles_plan_comes_first(find, rtx, tiny_bundle, cache):
    plan = bundled(rtx, tiny_bundle)
    found = find()
    assert (found.built_now, found.warnings, found.data) == (False, (), plan.path.read_bytes())
    assert found.facts == plan.facts
    assert not cache.exists()


@pytest.mark.parametrize(
    ("plan", "asked", "reason"),
    [
        ({"target": "sm86"}, {}, "it is for sm86, here is this GPU (sm89)"),
        ({"precision": "fp16"}, {}, "it is fp16, fp32 is wanted"),
        ({"profile": (8, 8, 8)}, {}, "it takes no batch of 4 rows or less"),
        ({"stage": "classifier"}, {}, "there is none for tensorrt-rtx"),
    ],
    ids=["other GPU", "other precision", "larger batches", "other stage"],
)
def test_an_unfit_plan_of_the_bundle_is_rebuilt_and_says_why(find, rtx, tiny_bundle, plan, asked, reason):
    bundled(rtx, tiny_bundle, **plan)
    found = find(**asked)
    assert found.built_now
    assert f"({reason})" in found.warnings[0][1]


def test_a_damaged_plan_is_rebuilt_wherever_it_lies(find, rtx, tiny_bundle, cache):
    bundled(rtx, tiny_bundle).path.write_bytes(b"something else")
    assert "SHA-256 differs" in find().warnings[0][1]
    (kept,) = read_plans(cache / tiny_bundle.sha256)
    kept.path.write_bytes(b"something else")
    assert find().built_now
    assert not find().built_now


def test_another_bundle_version_or_gpu_has_plans_of_its_own(find, rtx, tiny_bundle, write_tiny_bundle):
    assert find().built_now
    assert find(write_tiny_bundle(version="2")).built_now
    assert find(target="sm120").built_now
    older = replace(rtx, version="1.0.0")
    found = plan_for(tiny_bundle, "segmenter", older, TARGET, precision="fp32", max_rows=MAX_ROWS)
    assert found.built_now
    assert not find().built_now


def test_a_plan_that_did_not_open_is_replaced(find, rtx, tiny_bundle):
    bundled(rtx, tiny_bundle)
    assert not find().built_now
    found = find(unopened="this GPU has another name")
    assert found.built_now
    assert "(this GPU has another name)" in found.warnings[0][1]
    assert find(unopened="it still does not open").built_now


@pytest.mark.parametrize("blocked", ["cache", "plan", "home"])
def test_a_cache_that_cannot_be_written_costs_a_build_each_time(find, tiny_bundle, cache, monkeypatch, blocked):
    if blocked == "cache":
        cache.write_text("in the way")
    elif blocked == "plan":
        (cache / tiny_bundle.sha256).mkdir(parents=True)
        (cache / tiny_bundle.sha256 / "engines").write_text("in the way")
    else:
        monkeypatch.delenv("ONFH_CACHE_DIR")
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    for _ in range(2):
        found = find()
        assert found.built_now
        assert len(found.data) > 1000
        assert found.facts.plan_sha256
        assert [code for code, _ in found.warnings] == ["engine_rebuilt", "cache_unwritable"]
        assert "it is not kept" in found.warnings[0][1]


def test_a_stopped_build_leaves_no_plan(find, tiny_bundle, cache):
    with pytest.raises(BackendError, match="engine_build_stopped"):
        find(progress=lambda *step: False)
    assert read_plans(cache / tiny_bundle.sha256) == ()
    assert find().built_now


def test_half_that_is_no_half_is_told(find, tiny_bundle):
    models = {"fp32": "segmenter/model.onnx", "fp16": "segmenter/model.onnx"}
    content = tiny_bundle.content
    content = content.model_copy(update={"segmenter": content.segmenter.model_copy(update={"models": models})})
    found = find(LoadedBundle(tiny_bundle.root, content, tiny_bundle.sha256), precision="fp16")
    assert found.warnings[1] == (
        "engine_not_half",
        "The segmenter was to run in fp16 and is only 0% half precision.",
    )


def test_a_precision_the_bundle_lacks_is_an_error(find):
    with pytest.raises(BundleError, match="precision_missing"):
        find(precision="bf16")


_FIND = """
import sys
from pathlib import Path
from onfh_runtime.bundle import load_bundle
from onfh_runtime.engines import flavour
from onfh_runtime.engines.cache import plan_for
bundle, rtx = load_bundle(Path(sys.argv[1])), flavour("tensorrt-rtx")
print("ready", flush=True)
sys.stdin.readline()
print(plan_for(bundle, "segmenter", rtx, "sm89", precision="fp32", max_rows=4).built_now)
"""


def test_two_processes_build_once(rtx, bundle_folder, cache):
    environment = {"ONFH_CACHE_DIR": str(cache), "PYTHONPATH": str(Path(onfh_runtime.__path__[0]).parent)}
    command = [sys.executable, "-c", _FIND, str(bundle_folder)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": environment}
    both = [subprocess.Popen(command, **pipes) for _ in range(2)]
    for process in both:
        assert process.stdout.readline() == "ready\n"
    for process in both:
        process.stdin.write("\n")
        process.stdin.flush()
    assert sorted(process.communicate(timeout=60)[0].strip() for process in both) == ["False", "True"]


def test_two_threads_build_once(find):
    found = []
    threads = [threading.Thread(target=lambda: found.append(find())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(each.built_now for each in found) == [False, True]


def test_the_cache_is_where_it_was_asked_for(monkeypatch, tmp_path):
    monkeypatch.setenv("ONFH_CACHE_DIR", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"
    monkeypatch.delenv("ONFH_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "onfh-edge"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / ".cache" / "onfh-edge"
    assert cached_bytes() == 0


def test_compiled_kernels_lie_with_the_plans_of_their_gpu(rtx, tiny_bundle, cache):
    path = runtime_cache_file(tiny_bundle, "segmenter", rtx, TARGET, "NVIDIA RTX 4000 Ada / 20 GB")
    assert path.parent == cache / tiny_bundle.sha256 / "engines" / f"tensorrt-rtx-{rtx.version}-{TARGET}"
    assert path.parent.is_dir()
    assert path.name == "segmenter-NVIDIA-RTX-4000-Ada-20-GB.kernels"
    assert read_plans(cache / tiny_bundle.sha256) == ()


def test_the_hash_kept_is_that_of_the_bundles_file(find, tiny_bundle):
    assert find().facts.onnx_sha256 == sha256_of(tiny_bundle.root / "segmenter" / "model.onnx")
    assert load_bundle(tiny_bundle.root).content.files["segmenter/model.onnx"] == find().facts.onnx_sha256
