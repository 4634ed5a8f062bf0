"""A Triton model repository from a bundle: for those who outgrow one machine."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from onfh_runtime.backends.triton_backend import MODEL_NAMES, MODEL_VERSION, Parameter
from onfh_runtime.bundle import LoadedBundle, Stage, sha256_of
from onfh_runtime.errors import BundleError, OutputError, UsageError

__all__ = ["Platform", "write_triton_repository"]

Platform = Literal["onnxruntime", "tensorrt", "python"]
_StageName = Literal["classifier", "segmenter"]
_STAGES: tuple[_StageName, ...] = ("classifier", "segmenter")


@dataclass(frozen=True)
class _Serving:
    """How Triton names a platform, the file it opens, and where instances run."""

    name: str
    file: str
    kind: str


_SERVINGS: dict[str, _Serving] = {
    "onnxruntime": _Serving('platform: "onnxruntime_onnx"', "model.onnx", "KIND_AUTO"),
    "tensorrt": _Serving('platform: "tensorrt_plan"', "model.plan", "KIND_GPU"),
    "python": _Serving('backend: "python"', "model.py", "KIND_CPU"),
}
_DATA_TYPES = {1: "TYPE_FP32", 10: "TYPE_FP16"}
"""By the number ONNX gives an element type."""


def write_triton_repository(
    bundle: LoadedBundle,
    out: Path,
    *,
    platform: Platform = "onnxruntime",
    precision: Literal["fp32", "fp16"] = "fp32",
    instances: int = 1,
    max_queue_delay_us: int = 1000,
    plans: Mapping[str, Path] | None = None,
    force: bool = False,
) -> None:
    """Write ``<out>/onfh_<stage>/{config.pbtxt,1/<model>}`` for both stages, whole or not at all.

    Args:
        bundle: what to serve; ``max_batch`` of each stage is what a request may hold.
        out: the repository's folder.
        platform: ``onnxruntime`` or ``tensorrt`` for the Triton backend of that name, ``python`` for the ONNX file run
            by ONNX Runtime on the CPU inside Triton's Python backend.
        precision: which model of the bundle.
        instances: copies of each stage that run at once (on each GPU, where there are some).
        max_queue_delay_us: how long, in microseconds, a request may wait for others to share a batch with.
        plans: stage to TensorRT plan, made from the same ONNX file by the TensorRT of the server; for ``tensorrt``.
        force: replace a repository that is already there.

    Raises:
        UsageError: ``triton_options``.
        BundleError: ``precision_missing`` or ``stage_mismatch``.
        OutputError: ``repository_exists`` or ``output_unwritable``.
    """
    if instances < 1 or max_queue_delay_us < 0:
        raise UsageError(
            "triton_options",
            f"A Triton model cannot have {instances} instances and a delay of {max_queue_delay_us} us.",
        )
    missing = [stage for stage in _STAGES if platform == "tensorrt" and not (plans or {}).get(stage, Path()).is_file()]
    if missing:
        raise UsageError(
            "triton_options",
            f"A tensorrt repository needs a plan of both stages; there is none of the {' or the '.join(missing)}.",
            "Build one with the TensorRT of the server, or choose the onnxruntime platform.",
        )
    _refuse_what_is_there(out, force)
    serving = _SERVINGS[platform]
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
        try:
            temporary.chmod(0o755)
            for stage in _STAGES:
                config = _config(bundle, stage, precision, serving, instances, max_queue_delay_us)
                version = temporary / MODEL_NAMES[stage] / MODEL_VERSION
                version.mkdir(parents=True)
                (version.parent / "config.pbtxt").write_text(config, encoding="utf-8")
                if platform == "tensorrt" and plans is not None:
                    shutil.copyfile(plans[stage], version / serving.file)
                else:
                    shutil.copyfile(bundle.model_path(stage, precision), version / "model.onnx")
                if platform == "python":
                    source = files("onfh_export").joinpath("triton_model.py").read_bytes()
                    (version / serving.file).write_bytes(source)
            _move_into_place(temporary, out)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise OutputError(
            "output_unwritable", f"{out} cannot be written ({error.strerror}).", "Choose another folder."
        ) from error


def _refuse_what_is_there(out: Path, force: bool) -> None:
    if not out.exists():
        return
    ours = out.is_dir() and {path.name for path in out.iterdir()} <= set(MODEL_NAMES.values())
    if not ours:
        raise OutputError(
            "repository_exists", f"{out} is there and holds more than our two models.", "Choose another folder."
        )
    if not force:
        raise OutputError("repository_exists", f"{out} is already there.", "Choose another folder, or add --force.")


def _config(
    bundle: LoadedBundle,
    stage: _StageName,
    precision: Literal["fp32", "fp16"],
    serving: _Serving,
    instances: int,
    max_queue_delay_us: int,
) -> str:
    spec: Stage = bundle.content.classifier if stage == "classifier" else bundle.content.segmenter
    path = bundle.model_path(stage, precision)
    inputs, outputs = _tensors(path, spec, stage)
    parameters: dict[Parameter, str] = {
        "onfh_bundle_sha256": bundle.sha256,
        "onfh_model_sha256": sha256_of(path),
        "onfh_precision": precision,
        "onfh_stage": stage,
    }
    lines = [
        f'name: "{MODEL_NAMES[stage]}"',
        serving.name,
        f'default_model_filename: "{serving.file}"',
        f"max_batch_size: {spec.max_batch}",
        f"version_policy {{ specific {{ versions: {MODEL_VERSION} }} }}",
        f"input {{ {_tensor_lines(inputs)} }}",
        f"output {{ {_tensor_lines(outputs)} }}",
        # A full batch leaves at once; anything less waits for company, but not for long.
        f"dynamic_batching {{ preferred_batch_size: {spec.max_batch} max_queue_delay_microseconds: "
        f"{max_queue_delay_us} }}",
        f"instance_group {{ kind: {serving.kind} count: {instances} }}",
        # The largest batch, so that a server short of memory says so when it loads and not at the first patient.
        f'model_warmup {{ name: "largest" batch_size: {spec.max_batch} inputs {{ key: {json.dumps(inputs.name)} '
        f"value {{ {inputs.type_and_dims()} zero_data: true }} }} }}",
        *(f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}' for key, value in parameters.items()),
    ]
    return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class _Tensor:
    name: str
    data_type: str
    dims: tuple[int, ...]

    def type_and_dims(self) -> str:
        return f"data_type: {self.data_type} dims: [ {', '.join(map(str, self.dims))} ]"


def _tensor_lines(tensor: _Tensor) -> str:
    return f"name: {json.dumps(tensor.name)} {tensor.type_and_dims()}"


def _tensors(path: Path, spec: Stage, stage: str) -> tuple[_Tensor, _Tensor]:
    """The one input and the one output that the bundle names, as the ONNX file declares them, without the batch."""
    import onnx
    from onnx.external_data_helper import uses_external_data

    model = onnx.load(str(path), load_external_data=False)
    if any(uses_external_data(tensor) for tensor in model.graph.initializer):
        raise BundleError(
            "stage_mismatch", f"The {stage}'s {path.name} keeps weights in another file.", "Export the bundle again."
        )
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [_declared(value) for value in model.graph.input if value.name not in weights]
    outputs = [_declared(value) for value in model.graph.output]
    wanted = (len(spec.input.windows), *spec.input.size)
    fits = [tensor.name for tensor in outputs] == [spec.output_name] and [
        (tensor.name, tensor.dims) for tensor in inputs
    ] == [(spec.input_name, wanted)]
    if not fits or any(min(tensor.dims) < 1 or not tensor.data_type for tensor in (*inputs, *outputs)):
        raise BundleError(
            "stage_mismatch",
            f"The {stage}'s {path.name} takes {inputs} and gives {outputs}; the bundle says {spec.input_name!r} of "
            f"{wanted} and {spec.output_name!r}, with nothing but the batch free, as float or float16.",
            "Export the bundle again.",
        )
    return inputs[0], outputs[0]


def _declared(value: Any) -> _Tensor:
    kind = value.type.tensor_type
    dims = tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in kind.shape.dim[1:])
    return _Tensor(value.name, _DATA_TYPES.get(kind.elem_type, ""), dims)


def _move_into_place(temporary: Path, out: Path) -> None:
    """Rename ``temporary`` to ``out``; what was there is put back when that fails."""
    old = None
    if out.exists():
        old = Path(tempfile.mkdtemp(prefix=f".{out.name}.old.", dir=out.parent)) / out.name
        out.rename(old)
    try:
        temporary.rename(out)
    except OSError:
        if old is not None:
            old.rename(out)
        raise
    finally:
        if old is not None:
            shutil.rmtree(old.parent, ignore_errors=True)
