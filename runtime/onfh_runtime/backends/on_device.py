"""A stage of a bundle on a GPU."""

from __future__ import annotations

import logging

from onfh_runtime.backends.protocol import DeviceBackend
from onfh_runtime.bundle import LoadedBundle, Precision, StageName
from onfh_runtime.device import Device, Stream
from onfh_runtime.engines import EngineError, Progress, flavour
from onfh_runtime.engines.cache import plan_for, runtime_cache_file
from onfh_runtime.errors import UsageError

__all__ = ["open_device_stage", "precision_on_device"]

_log = logging.getLogger(__name__)

_REBUILT = ("engine_unloadable", "engine_not_refitted")
"""What a plan that seemed to fit may still say when it is opened; one that is built here says it no more."""


def precision_on_device(
    bundle: LoadedBundle, stage: StageName, *, bf16: bool
) -> tuple[Precision, tuple[tuple[str, str], ...]]:
    """The precision a GPU runs a stage in: FP16 where the bundle has it.

    Args:
        bundle: its ONNX files decide.
        stage: ``classifier`` or ``segmenter``.
        bf16: whether BF16 comes before FP32.

    Returns:
        The precision, and a warning (code, text) for the results when it is FP32.

    Raises:
        BundleError: ``precision_missing``.
    """
    models = (bundle.content.classifier if stage == "classifier" else bundle.content.segmenter).models
    if "fp16" in models:
        return "fp16", ()
    if bf16 and "bf16" in models:
        return "bf16", ()
    bundle.model_path(stage, "fp32")
    text = f"The bundle holds no fp16 {stage}, so it ran in fp32, which takes a GPU several times as long."
    return "fp32", (("precision_fallback", text),)


def open_device_stage(
    bundle: LoadedBundle,
    stage: StageName,
    backend: str,
    device: Device,
    stream: Stream,
    *,
    graphs: bool = True,
    progress: Progress | None = None,
) -> DeviceBackend:
    """Open a stage of a bundle on a GPU backend; all its runs go on ``stream``.

    Args:
        bundle: its plan is used where it fits this GPU, else one is built from its ONNX file and kept.
        stage: ``classifier`` or ``segmenter``.
        backend: one of :data:`~onfh_runtime.backends.DEVICE_BACKENDS`.
        device: the GPU.
        stream: of that GPU.
        graphs: whether TensorRT's runs are captured into CUDA graphs.
        progress: told of the steps when a plan has to be built.

    Raises:
        UsageError: ``unknown_backend``, ``target_unknown``.
        MissingExtraError: ``flavour_missing``.
        BundleError: ``precision_missing``.
        BackendError: the stage cannot be loaded, or its plan not be built; DeviceMemoryError ``gpu_out_of_memory``.
    """
    max_rows = (bundle.content.classifier if stage == "classifier" else bundle.content.segmenter).max_batch
    if backend == "onnxruntime-cuda":
        from onfh_runtime.backends.ort_cuda_backend import OrtCudaBackend

        # Its CUDA provider lacks BF16 kernels for much of what these networks do.
        precision, warnings = precision_on_device(bundle, stage, bf16=False)
        return OrtCudaBackend(
            bundle.model_path(stage, precision),
            stage=stage,
            precision=precision,
            max_rows=max_rows,
            device=device,
            stream=stream,
            warnings=warnings,
        )
    if backend not in ("tensorrt", "tensorrt-rtx"):
        raise UsageError("unknown_backend", f"There is no GPU backend {backend!r}.")
    from onfh_runtime.backends.trt_backend import TrtBackend

    chosen = flavour(backend)
    precision, warnings = precision_on_device(bundle, stage, bf16=True)
    compiled = runtime_cache_file(bundle, stage, chosen, device.target, device.name)

    def opened(unopened: str = "") -> TrtBackend:
        with device.current():  # TensorRT builds for the calling thread's GPU
            found = plan_for(
                bundle,
                stage,
                chosen,
                device.target,
                precision=precision,
                max_rows=max_rows,
                progress=progress,
                unopened=unopened,
            )
        return TrtBackend(
            found,
            chosen,
            stage=stage,
            max_rows=max_rows,
            device=device,
            stream=stream,
            graphs=graphs,
            runtime_cache=compiled,
            warnings=warnings,
        )

    try:
        return opened()
    except EngineError as error:
        if error.code not in _REBUILT:
            raise
        _log.info("the plan of the %s is built anew: %s", stage, error.text)
        return opened(unopened=error.text.rstrip("."))
