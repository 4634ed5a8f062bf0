from __future__ import annotations

import math

import pytest

from onfh_runtime.bundle import Graph, load_bundle
from onfh_runtime.cli.infer import demo_bundle
from onfh_runtime.measure.ceilings import Ceilings
from onfh_runtime.measure.roofline import StepWork, busy_lanes, roofline, work_of_analysis
from onfh_runtime.measure.runs import How
from onfh_runtime.measure.workload import workload_from_study
from onfh_runtime.result import Engine

HOST = Ceilings("host", copy_gb_s=10.0, product_gflop_s=100.0, precision="float32")
GPU = Ceilings("gpu X", copy_gb_s=1000.0, product_gflop_s=10_000.0, precision="float16")
WORK = {
    "read": StepWork(8 * 10**9, None),
    "preprocess": StepWork(10**9, 1e9),
    "classify": StepWork(10**9, 90e9),
    "segment": StepWork(10**8, 10e9),
    "postprocess": StepWork(0, None),
    "write": StepWork(10**6, None),
}
SPANS = (
    ("read", "onfh-read_0", 0.0, 1.0),
    ("preprocess", "onfh-read_0", 1.0, 2.0),
    ("segment", "MainThread", 3.0, 4.0),
)


def test_rates_shares_and_the_nearer_ceiling(timed):
    rows = {row.step: row for row in roofline([timed(*SPANS, ("classify", "m", 2.0, 3.0))], WORK, HOST, None)}
    assert list(rows) == ["read", "preprocess", "classify", "segment"]  # what did not run is not there
    assert (rows["read"].gb_s, rows["read"].of_copy, rows["read"].bound) == (8.0, 0.8, "memory")
    assert rows["read"].gflop_s is None
    assert rows["classify"].gflop_s == pytest.approx(90)
    assert rows["classify"].of_product == pytest.approx(0.9)
    assert rows["classify"].bound == "arithmetic"
    assert rows["segment"].bound == "neither"
    assert sum(row.share for row in rows.values()) == pytest.approx(1)
    assert {row.on for row in rows.values()} == {"host"}


def test_medians_are_used(timed):
    taken = [timed(("read", "r", 0.0, seconds)) for seconds in (1.0, 2.0, 50.0)]
    (row,) = roofline(taken, WORK, HOST, None)
    assert row.ms == 2000.0


def test_what_ran_on_a_gpu_is_held_against_its_ceilings(timed):
    sample = timed(*SPANS[:2], ("classify", "gpu", 2.0, 2.01), backend="tensorrt", precision="fp16")
    rows = {row.step: row for row in roofline([sample], WORK, HOST, GPU)}
    assert rows["classify"].on == "gpu X"
    assert rows["classify"].of_product == pytest.approx(0.9)
    assert rows["read"].on == "host"


def test_what_ran_elsewhere_has_no_ceilings(timed):
    sample = timed(("read", "r", 0.0, 1.0), ("classify", "m", 1.0, 2.0), backend="triton")
    row = roofline([sample], WORK, HOST, None)[1]
    assert (row.on, row.of_copy, row.of_product, row.bound) == ("another machine", None, None, "unknown")


def test_the_busiest_lane_overlaps_nothing_twice(timed):
    taken = [
        timed(("read", "onfh-read_0", 0.0, 2.0), ("classify", "MainThread", 2.0, 5.0)),
        timed(("read", "onfh-read_1", 1.0, 3.0), ("classify", "MainThread", 5.0, 10.0)),
    ]
    assert busy_lanes(taken) == {"read": pytest.approx(0.3), "compute": pytest.approx(0.8)}


def graphed(bundle, **stages):
    """The bundle's content with what export would say of its graphs."""
    content = bundle.content
    for stage, gmac in stages.items():
        graph = Graph(opset=17, nodes=1, operators={}, parameters=1000, gmac=gmac)
        spec = getattr(content, stage).model_copy(update={"graphs": {"fp32": graph}})
        content = content.model_copy(update={stage: spec})
    return content


def test_work_is_counted_from_the_series_and_the_bundle(workload):
    from dataclasses import replace

    bundle = replace(workload.bundle, content=graphed(workload.bundle, classifier=0.5, segmenter=2.0))
    with How().pipeline(bundle) as pipeline:
        analysis = pipeline.analyse(workload.candidate)
    work = work_of_analysis(analysis, bundle, gated=3, file_bytes=1000, written_bytes=77)
    slices, volume = len(analysis.result.slices), analysis.images.volume
    pixels = math.prod(bundle.content.classifier.input.size)
    assert work["read"].bytes == 1000 + volume.voxels.nbytes
    assert work["classify"].operations == pytest.approx(2e9 * 0.5 * slices)
    assert work["segment"].operations == pytest.approx(2e9 * 2.0 * 3)
    # one row at a time on a CPU: the weights are read for each
    assert work["classify"].bytes == slices * (1000 * 4 + pixels * 4 + 4)
    assert work["segment"].bytes == 3 * (1000 * 4 + pixels * 4 + pixels * 4)
    assert work["preprocess"].operations == 3 * volume.voxels.size + 8 * pixels * (slices + 3)
    assert work["postprocess"].bytes == 3 * pixels * 4 + analysis.images.mask.nbytes + volume.voxels.size
    assert work["write"].bytes == 77


@pytest.mark.parametrize(("precision", "weights"), [("fp32", (4, 4)), ("int8/fp32", (1, 4)), ("fp16", (2, 2))])
def test_each_stage_has_its_own_precision(workload, precision, weights):
    from dataclasses import replace

    bundle = replace(workload.bundle, content=graphed(workload.bundle, classifier=0.5, segmenter=2.0))
    with How().pipeline(bundle) as pipeline:
        analysis = pipeline.analyse(workload.candidate)
    engine = Engine(backend="onnxruntime", precision=precision, device="x")
    found = [
        work_of_analysis(analysis.replace(engine=said), bundle, gated=1, file_bytes=0, written_bytes=0)
        for said in (engine, engine.model_copy(update={"precision": "fp32"}))
    ]
    for step, rows, item in zip(("classify", "segment"), (len(analysis.result.slices), 1), weights, strict=True):
        assert found[1][step].bytes - found[0][step].bytes == rows * 1000 * (4 - item)


def test_the_demo_bundle_says_what_its_graphs_do(phantom_study):
    loaded = workload_from_study(phantom_study, load_bundle(demo_bundle()))
    gmac = loaded.described()["gmac_per_slice"]
    assert gmac["classifier"]["fp32"] > 0.1
    assert gmac["segmenter"]["fp32"] > 0.1
