"""A Triton model repository from a bundle: for those who outgrow one machine."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from onfh_export.replace_folder import replace_folder
from onfh_runtime.backends.triton_backend import MODEL_NAMES, MODEL_VERSION, Parameter
from onfh_runtime.bundle import LoadedBundle, Precision, Stage, StageName, sha256_of
from onfh_runtime.engines import PlanFile, Profile, read_plans
from onfh_runtime.errors import BundleError, OutputError, UsageError

__all__ = ["Platform", "check_triton_request", "plans_for_triton", "write_triton_repository"]

Platform = Literal["onnxruntime", "tensorrt", "python"]
_STAGES: tuple[StageName, ...] = ("classifier", "segmenter")


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
_FLAVOUR = "tensorrt"
"""Triton has a backend for this one and none for TensorRT-RTX."""
_DATA_TYPES = {1: "TYPE_FP32", 10: "TYPE_FP16"}
"""By the number ONNX gives an element type."""


def check_triton_request(
    out: Path,
    *,
    platform: Platform = "onnxruntime",
    flavours: Sequence[str] = (),
    targets: Sequence[str] = (),
    profiles: Sequence[Profile] = (),
    stripped: bool = False,
    force: bool = False,
) -> None:
    """Refuse a repository that could not be written of a bundle that is still to be made.

    Args:
        out: the repository's folder.
        platform: of :func:`write_triton_repository`.
        flavours: the plans the bundle will hold.
        targets: what they will be built for; empty for the GPU of this machine.
        profiles: their batch sizes; empty for 1 to the largest batch.
        stripped: whether their weights will be left out.
        force: replace a repository that is already there.

    Raises:
        UsageError: ``triton_options``.
        OutputError: ``repository_exists`` or ``output_unwritable``.
    """
    if platform == "tensorrt":
        if _FLAVOUR not in flavours:
            raise UsageError(
                "triton_options",
                "A tensorrt repository holds plans of TensorRT, and none are asked for.",
                f"Add --engines {_FLAVOUR}, or choose the onnxruntime platform.",
            )
        _require_one_target(targets)
        if stripped:
            raise _stripped()
        if profiles:
            _most_rows([(profile.min, profile.opt, profile.max) for profile in profiles])
    out = Path(os.path.realpath(out))
    _refuse_what_is_there(out, force)
    above = next(folder for folder in out.parents if folder.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise OutputError("output_unwritable", f"{above} cannot be written.", "Choose another folder.")


def plans_for_triton(bundle: LoadedBundle) -> dict[StageName, PlanFile]:
    """The TensorRT plan of each stage that a bundle holds.

    Raises:
        UsageError: ``triton_options`` when they are for several GPUs, or by several versions.
    """
    found: dict[StageName, PlanFile] = {}
    plans = [plan for plan in read_plans(bundle.root) if plan.facts and plan.facts.flavour == _FLAVOUR]
    _require_one_target([plan.facts.target for plan in plans if plan.facts])
    for stage in _STAGES:
        ours = [plan for plan in plans if plan.path.stem == stage]
        if len(ours) > 1:
            folders = ", ".join(plan.path.parent.name for plan in ours)
            raise UsageError(
                "triton_options", f"The bundle holds several plans of the {stage}: {folders}.", "Take the server's."
            )
        if ours:
            found[stage] = ours[0]
    return found


def write_triton_repository(
    bundle: LoadedBundle,
    out: Path,
    *,
    platform: Platform = "onnxruntime",
    precision: Precision = "fp32",
    instances: int = 1,
    max_queue_delay_us: int = 1000,
    plans: Mapping[StageName, PlanFile] | None = None,
    force: bool = False,
) -> None:
    """Write ``<out>/onfh_<stage>/{config.pbtxt,1/<model>}`` for both stages, whole or not at all.

    A request may hold what ``max_batch`` of each stage says, or what its plan takes.

    Args:
        bundle: what to serve.
        out: the repository's folder.
        platform: ``onnxruntime`` or ``tensorrt`` for the Triton backend of that name, ``python`` for the ONNX file run
            by ONNX Runtime on the CPU inside Triton's Python backend.
        precision: which ONNX file of the bundle; for ``tensorrt`` the plans say it.
        instances: copies of each stage that run at once (on each GPU, where there are some).
        max_queue_delay_us: how long, in microseconds, a request may wait for others to share a batch with.
        plans: for ``tensorrt``, a plan of each stage, made from this bundle by the TensorRT of the server; see
            :func:`plans_for_triton`.
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
    if platform == "tensorrt":
        served = {stage: _with_plan(bundle, stage, (plans or {}).get(stage)) for stage in _STAGES}
    elif precision == "bf16":
        raise UsageError("triton_options", "BF16 is served as TensorRT plans only.", "Choose fp32, or fp16.")
    else:
        served = {stage: _with_onnx(bundle, stage, precision) for stage in _STAGES}
    out = Path(os.path.realpath(out))
    _refuse_what_is_there(out, force)
    serving = _SERVINGS[platform]
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
        try:
            temporary.chmod(0o755)
            for stage in _STAGES:
                config = _config(bundle, stage, served[stage], serving, instances, max_queue_delay_us)
                version = temporary / MODEL_NAMES[stage] / MODEL_VERSION
                version.mkdir(parents=True)
                (version.parent / "config.pbtxt").write_text(config, encoding="utf-8")
                shutil.copyfile(served[stage].path, version / served[stage].name)
                if platform == "python":
                    source = files("onfh_export").joinpath("triton_model.py").read_bytes()
                    (version / serving.file).write_bytes(source)
            replace_folder(temporary, out)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise OutputError(
            "output_unwritable", f"{out} cannot be written ({error.strerror}).", "Choose another folder."
        ) from error


@dataclass(frozen=True)
class _Served:
    """A stage as it is served: the file, its name in the repository, and how many rows it takes at most.

    ``profiles`` counts the sets of kernels of a plan; an ONNX file has none.
    """

    path: Path
    name: str
    precision: Precision
    most: int
    profiles: int = 0


def _with_onnx(bundle: LoadedBundle, stage: StageName, precision: Precision) -> _Served:
    spec: Stage = bundle.content.classifier if stage == "classifier" else bundle.content.segmenter
    return _Served(bundle.model_path(stage, precision), "model.onnx", precision, spec.max_batch)


def _with_plan(bundle: LoadedBundle, stage: StageName, plan: PlanFile | None) -> _Served:
    """A plan that TensorRT on a server opens as it is, and that is of this bundle."""
    facts = plan.facts if plan is not None else None
    if plan is None or facts is None or not plan.path.is_file():
        raise UsageError(
            "triton_options",
            f"A tensorrt repository needs a plan of both stages, and there is none of the {stage} that a file beside "
            "it describes.",
            "Build one with the TensorRT of the server, or choose the onnxruntime platform.",
        )
    if (facts.flavour, facts.stage) != (_FLAVOUR, stage):
        raise UsageError(
            "triton_options", f"{plan.path} is a {facts.flavour} plan of the {facts.stage}, not of TensorRT's {stage}."
        )
    if facts.stripped:
        raise _stripped()
    onnx = bundle.model_path(stage, facts.precision)
    if (facts.onnx_sha256, facts.plan_sha256) != (sha256_of(onnx), sha256_of(plan.path)):
        raise UsageError(
            "triton_options",
            f"{plan.path} is damaged, or was built from another {facts.onnx} than the bundle's.",
            "Build it again.",
        )
    return _Served(plan.path, "model.plan", facts.precision, _most_rows(facts.profiles), len(facts.profiles))


def _require_one_target(targets: Sequence[str]) -> None:
    several = list(dict.fromkeys(targets))
    if len(several) > 1:
        raise UsageError(
            "triton_options",
            f"A tensorrt repository holds the plans for one GPU, and there are some for {', '.join(several)}.",
            "Name the server's alone, such as --targets sm89.",
        )


def _stripped() -> UsageError:
    return UsageError(
        "triton_options",
        "Plans without weights have to be refitted when they are loaded, which Triton does not do.",
        "Build them without --strip-weights.",
    )


def _most_rows(profiles: Sequence[tuple[int, int, int]]) -> int:
    """The largest batch; Triton sends any from 1 to it, so that one of (least, usual, most) has to take each."""
    most = max(high for _, _, high in profiles)
    untaken = [rows for rows in range(1, most + 1) if not any(low <= rows <= high for low, _, high in profiles)]
    if untaken:
        raise UsageError(
            "triton_options",
            f"Triton makes batches of 1 to {most}, and no profile of the plans takes {untaken[0]}.",
            f"Build them with --profiles that take each, such as 1:{most}:{most}.",
        )
    return most


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
    stage: StageName,
    served: _Served,
    serving: _Serving,
    instances: int,
    max_queue_delay_us: int,
) -> str:
    spec: Stage = bundle.content.classifier if stage == "classifier" else bundle.content.segmenter
    path = bundle.model_path(stage, served.precision)
    inputs, outputs = _tensors(path, spec, stage)
    parameters: dict[Parameter, str] = {
        "onfh_bundle_sha256": bundle.sha256,
        "onfh_model_sha256": sha256_of(path),
        "onfh_precision": served.precision,
        "onfh_stage": stage,
    }
    # Triton opens the first of a plan's profiles and no other, unless they are named.
    several = json.dumps([str(index) for index in range(served.profiles)])
    profiles = f" profile: {several}" if served.profiles > 1 else ""
    lines = [
        f'name: "{MODEL_NAMES[stage]}"',
        serving.name,
        f'default_model_filename: "{serving.file}"',
        f"max_batch_size: {served.most}",
        f"version_policy {{ specific {{ versions: {MODEL_VERSION} }} }}",
        f"input {{ {_tensor_lines(inputs)} }}",
        f"output {{ {_tensor_lines(outputs)} }}",
        # A full batch leaves at once; anything less waits for company, but not for long.
        f"dynamic_batching {{ preferred_batch_size: {served.most} max_queue_delay_microseconds: "
        f"{max_queue_delay_us} }}",
        f"instance_group {{ kind: {serving.kind} count: {instances}{profiles} }}",
        # The largest batch, so that a server short of memory says so when it loads and not at the first patient.
        f'model_warmup {{ name: "largest" batch_size: {served.most} inputs {{ key: {json.dumps(inputs.name)} '
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
