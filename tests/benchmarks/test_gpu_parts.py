"""The parts of the GPU figures on memory of the host: every figure is said, or absent by name."""

from __future__ import annotations

import gpu
import gpu_kernels
import pytest
from gpu import Setting, answers, case, kernels, peers
from gpu_cases import STAGES, torch_opener
from gpu_figures import read_figures
from gpu_studies import phantom_series
from host_device import HostDevice

from onfh_runtime.backends import DEVICE_BACKENDS
from onfh_runtime.bundle import load_bundle
from onfh_runtime.cli.infer import demo_bundle

pytest.importorskip("torch")


@pytest.fixture
def setting(tmp_path, monkeypatch):
    """The host as a GPU, and torch on it with the FP32 graphs of the demo bundle."""
    bundle = load_bundle(demo_bundle())
    graphs = {stage: bundle.model_path(stage, "fp32") for stage in STAGES}
    monkeypatch.setattr(gpu, "open_device", lambda: HostDevice(deferred=False))
    monkeypatch.setattr(gpu, "torch_opener", lambda _: torch_opener(graphs, precision="fp32", on="cpu"))
    return Setting(tmp_path / "part.jsonl", tmp_path)


def figures_of(setting, part):
    return {figure.name: figure for figure in read_figures(setting.figures, part, "it was never said")}


def test_kernels(setting, monkeypatch):
    monkeypatch.setattr(gpu, "SOURCES", {"axial small": (62, 40, 48)})
    monkeypatch.setattr(gpu, "SIZES", (32,))
    monkeypatch.setattr(gpu, "copy_gb_s", lambda device: [2.0, 1.0, 3.0])
    monkeypatch.setattr(gpu_kernels, "COPY_BYTES", 1 << 20)
    defaults = dict.fromkeys(gpu_kernels.stage_input_times.__kwdefaults__, 1 << 20)
    monkeypatch.setattr(gpu_kernels.stage_input_times, "__kwdefaults__", defaults)
    monkeypatch.setattr(gpu, "mask_times", lambda device: {step: [1.0] for step in gpu.MASK_STEPS})
    kernels(setting)
    figures = figures_of(setting, "kernels")
    share = figures["stage_input axial small to 32 float16: share of the copy bandwidth"]
    assert share.least == 0.7
    assert 0 < share.value < 1
    assert figures["copy bandwidth"].value == 2.0
    assert [figure.met for name, figure in figures.items() if "largest difference" in name] == [True] * 4
    assert all(figure.value is not None for figure in figures.values())


@pytest.mark.slow
def test_answers(setting, monkeypatch):
    monkeypatch.setattr(gpu, "PHANTOMS", 2)
    monkeypatch.setattr(gpu, "_torch_has_cuda", lambda: True)
    answers(setting)
    figures = figures_of(setting, "answers")
    assert figures["torch-cuda: flips"].value == 0
    assert figures["torch-cuda: flips"].met
    assert figures["torch-cuda: smallest Dice"].met
    for name in DEVICE_BACKENDS:
        assert "[" in figures[f"{name}: flips"].absent or figures[f"{name}: flips"].value is not None


@pytest.mark.slow
def test_a_case(setting, monkeypatch):
    import gpu_torch

    phantom_series(setting.work / "studies", 3)
    for index in range(3):
        (setting.work / "studies" / str(index)).rename(setting.work / "studies" / f"{index:03}")
    monkeypatch.setattr(gpu, "rules_of", lambda _: load_bundle(demo_bundle()).content)
    for name, value in (("WARM_UP", 1), ("RUNS", 2), ("STUDIES", 3), ("SKIPPED", 1)):
        monkeypatch.setattr(gpu, name, value)
    monkeypatch.setattr(gpu, "_torch_has_cuda", lambda: True)
    monkeypatch.setattr(gpu_torch, "matrix_tflop_s", lambda: [1.0, 2.0, 4.0])
    case(setting, "b")
    figures = figures_of(setting, "case b")
    assert figures["floor of a study"].value == pytest.approx(500.5)
    assert figures["torch-cuda: GPU compute of a study"].value > 0
    over = figures["torch-cuda: over the floor"]
    assert over.value == pytest.approx(figures["torch-cuda: GPU compute of a study"].value / 500.5, rel=0.5)
    assert over.most == 3.0
    assert figures["torch-cuda: end to end over GPU compute"].most == 1.3
    assert 0 <= figures["torch-cuda: idle share of the compute stream"].value < 1
    for name in DEVICE_BACKENDS:
        assert figures[f"{name}: GPU compute of a study"].absent


def test_without_cuda_in_torch_its_figures_are_absent_by_name(setting, monkeypatch):
    monkeypatch.setattr(gpu, "_torch_has_cuda", lambda: False)
    peers(setting, "a")
    assert {figure.absent for figure in figures_of(setting, "peers a").values()} == {gpu.TORCH_ABSENT}
