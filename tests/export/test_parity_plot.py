"""The plots are drawn for any number of studies, and the same ones give the same file."""

import struct
import sys

import pytest

from onfh_export.parity import Comparison, Parity, Ran
from onfh_export.parity_compare import study_difference
from onfh_export.parity_plot import parity_plot
from onfh_runtime.errors import MissingExtraError

TORCH = Ran("torch fp32", "reference", "torch", "fp32", "cpu")


@pytest.fixture
def parity(said):
    studies = tuple(
        study_difference(name, said([0.9, p], (50, 0)), said([0.95, p], (columns, 0)), (3, 1, 1))
        for name, p, columns in (("a", 0.1, 49), ("b", 0.3, 50), ("c", 0.5, 0))
    )
    half = Ran("onnx fp16", "emulated", "onnxruntime", "fp16", "cpu")
    engine = Ran("engine", "engine", "tensorrt", "fp16", "gpu")
    return Parity(TORCH, (Comparison(half, studies, ()), Comparison(engine, studies[:1], ())), (), ())


def test_a_picture_is_drawn_and_drawn_again(parity, rules, tmp_path):
    pytest.importorskip("matplotlib")
    parity_plot(parity, rules, tmp_path / "a.png")
    parity_plot(parity, rules, tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    width, height = struct.unpack(">II", (tmp_path / "a.png").read_bytes()[16:24])
    assert min(width, height) > 500
    parity_plot(parity, rules, tmp_path / "c.svg")
    assert "<svg" in (tmp_path / "c.svg").read_text()


def test_no_study_at_all_is_drawn_too(rules, tmp_path):
    pytest.importorskip("matplotlib")
    nothing = Comparison(TORCH, (), (("a", "NaN"),))
    parity_plot(Parity(TORCH, (nothing,), (), ()), rules, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 1000


def test_without_matplotlib_the_extra_is_named(parity, rules, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r"onfh-edge\[export\]"):
        parity_plot(parity, rules, tmp_path / "a.png")
