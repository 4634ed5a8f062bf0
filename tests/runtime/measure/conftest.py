"""A series of the phantom study with a tiny bundle, and series that were timed by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from onfh_runtime.measure.runs import Sample
from onfh_runtime.measure.workload import Workload, workload_from_study
from onfh_runtime.result import BundleId, Engine, Result, SliceResult, Software
from onfh_runtime.timing import Span


@pytest.fixture(scope="session")
def workload(phantom_study, write_tiny_bundle) -> Workload:
    return workload_from_study(phantom_study, write_tiny_bundle())


@pytest.fixture(scope="session")
def timed() -> Callable[..., Sample]:
    """Makes a sample of (step, lane, start, stop) in seconds, with slices of these probabilities."""

    def made(
        *spans, answered=0.0, probabilities=(0.1, 0.9), backend="onnxruntime", precision="fp32", enqueues=()
    ) -> Sample:
        result = Result(
            created="2026-11-23T00:00:00Z",
            status="succeeded",
            study_instance_uid="1.2",
            series_instance_uid="1.2.3",
            bundle=BundleId(name="tiny", version="1", sha256="0" * 64),
            engine=Engine(backend=backend, precision=precision, device="x"),
            software=Software(name="onfh-edge", version="0"),
            slices=[
                SliceResult(
                    index=index, position_mm=0.0, sop_instance_uid=None, probability=p, positive=False, area_mm2=0.0
                )
                for index, p in enumerate(probabilities)
            ],
        )
        return Sample(result, tuple(Span(*s) for s in spans), answered, tuple(Span(*s) for s in enqueues))

    return made
