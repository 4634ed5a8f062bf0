"""What computes in the node: both stages, and stage 1 once more for slices that are seen early."""

from __future__ import annotations

from onfh_runtime.backends.ort_backend import OrtBackend
from onfh_runtime.bundle import LoadedBundle
from onfh_runtime.listen.early import EarlyClassifier
from onfh_runtime.pipeline import Pipeline
from onfh_runtime.result import Engine
from onfh_runtime.stages import open_runner

__all__ = ["early_classifier", "opened_pipeline"]


def opened_pipeline(bundle: LoadedBundle, backend: str, *, threads: int, gpu: int = 0) -> tuple[Pipeline, Engine]:
    """A pipeline whose stages are open, and what they are: a node that cannot compute must not receive.

    Raises:
        UsageError: there is no such backend.
        BundleError: the bundle lacks what the backend needs.
        BackendError: a stage cannot be loaded.
    """
    pipeline = Pipeline(bundle, backend=backend, threads=threads, gpu=gpu)
    return pipeline, pipeline.open()


def early_classifier(bundle: LoadedBundle, engine: Engine, *, threads: int) -> EarlyClassifier | None:
    """Stage 1 for single slices, where an early answer is the late one: whole slices, rows one at a time on a CPU.

    Raises:
        BackendError: the stage cannot be loaded.
    """
    if bundle.content.coverage.in_plane_mm is not None or engine.backend != OrtBackend.name:
        return None
    runner = open_runner(bundle, "classifier", OrtBackend.name, threads=threads)
    return EarlyClassifier(runner, bundle.content)
