from __future__ import annotations

import importlib.util
from dataclasses import replace

import pytest

from onfh_runtime.measure import advice as module
from onfh_runtime.measure.advice import Facts, advice
from onfh_runtime.measure.roofline import Row
from onfh_runtime.result import Engine

CPU = Engine(backend="onnxruntime", precision="fp32", device="x")
FACTS = Facts(slices=25, gated=10, transfer_syntax="1.2.840.10008.1.2.1")
BUSY = {"read": 0.4, "compute": 0.9}


def row(step, ms, *, of_product=None, bound="neither", of_copy=0.1):
    return Row(step, "host", ms, 0.5, 1.0, None, 1.0, None, of_copy, of_product, bound)


def said(*rows, engine=CPU, facts=FACTS, busy=BUSY):
    return advice(rows, busy, engine, facts)


def test_the_longest_step_bounds_one_study_and_the_busiest_lane_many():
    found = said(row("read", 10), row("segment", 200, of_product=0.5), row("write", 30))
    assert (found["step"], found["lane"]) == ("segment", "compute")
    text = " ".join(found["help"])
    assert "10 of 25 slices reach stage 2; each one fewer saves 20.0 ms" in text
    assert "evaluate again" in text
    assert "50%" in text
    assert "2.0 times as fast at most" in text
    assert "A GPU" in text
    assert "compute lane" in text


def test_fewer_threads_than_the_ceilings_had_are_told():
    text = " ".join(said(row("segment", 30, of_product=0.1), facts=replace(FACTS, threads=1, cores=8))["help"])
    assert "It ran on 1 of the 8 cores" in text
    assert "of the 8 cores" not in " ".join(said(row("segment", 30, of_product=0.1))["help"])


def test_a_lane_that_often_waits_bounds_nothing():
    text = " ".join(said(row("write", 30), busy={"read": 0.4, "compute": 0.6})["help"])
    assert "no lane bounds the rate: the busiest, compute, works 60%" in text


def test_a_study_alone_in_one_lane_says_nothing_of_rates():
    assert "lane" not in " ".join(said(row("write", 30), busy={"write": 1.0})["help"])


def test_a_bundle_without_figures_of_its_graphs_is_told_so():
    assert "export it again" in " ".join(said(row("classify", 30))["help"])


@pytest.mark.parametrize(
    ("backend", "words"),
    [("onnxruntime-cuda", "TensorRT is the faster"), ("tensorrt", ""), ("triton", "another machine")],
)
def test_what_helps_depends_on_the_backend(backend, words):
    engine = Engine(backend=backend, precision="fp16", device="x")
    bound = "unknown" if backend == "triton" else "arithmetic"
    text = " ".join(
        said(row("classify", 30, of_product=None if backend == "triton" else 0.9, bound=bound), engine=engine)["help"]
    )
    assert words in text
    assert "A GPU would" not in text


def test_a_stage_near_its_ceiling_needs_less_work():
    text = " ".join(said(row("segment", 30, of_product=1.2))["help"])
    assert "120% of what a matrix product reaches here: only fewer operations" in text
    assert "times as fast" not in text


@pytest.mark.parametrize(("enqueue_ms", "waits"), [(5.0, False), (39.0, True)])
def test_a_gpu_that_waits_for_its_orders_is_noticed(enqueue_ms, waits):
    engine = Engine(backend="tensorrt", precision="fp16", device="x")
    rows = (row("classify", 10, of_product=0.3), row("segment", 30, of_product=0.3))
    text = " ".join(said(*rows, engine=engine, facts=replace(FACTS, enqueue_ms=enqueue_ms))["help"])
    assert ("takes 39.0 ms of the host, the stages 40.0 ms" in text) is waits
    assert ("CUDA graphs" in text) is waits


def test_reading_plain_and_encoded_pixels(monkeypatch):
    assert "1.00 GB/s, both counted, 10% of a memory copy" in " ".join(said(row("read", 30))["help"])
    encoded = replace(FACTS, transfer_syntax="1.2.840.10008.1.2.4.70")
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    assert "onfh-edge[codecs]" in " ".join(said(row("read", 30), facts=encoded)["help"])
    monkeypatch.setattr(module, "find_spec", lambda name: importlib.util.find_spec("json"))
    assert "onfh-edge[codecs]" not in " ".join(said(row("read", 30), facts=encoded)["help"])


@pytest.mark.parametrize("step", ["preprocess", "postprocess", "write"])
def test_every_other_step_has_something_that_helps(step):
    found = said(row(step, 30))
    assert found["step"] == step
    assert all(sentence.endswith(".") for sentence in found["help"])
