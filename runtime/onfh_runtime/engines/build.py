"""A plan from an ONNX file, by one code path for every TensorRT flavour."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from onfh_runtime.engines.flavours import RTX, TENSORRT, Flavour, check_target
from onfh_runtime.engines.half import HalfShare, half_share_of_engine, half_share_of_network
from onfh_runtime.engines.listening import BuildLog, EngineError, Progress, Watch, stopped_by_interrupt
from onfh_runtime.engines.machine import find_gpus
from onfh_runtime.errors import BackendError, OnfhError, UsageError
from onfh_runtime.outputs.files import write_atomically

if TYPE_CHECKING:
    import tensorrt as trt

__all__ = ["BuiltPlan", "EngineOptions", "Profile", "plan_from_onnx"]

MOSTLY_HALF = 0.5
"""Below this share of half a plan that was to be FP16 or BF16 is not what was asked for. Islands of FP32 around every
normalisation and softmax leave a ViT at 0.77 or more, a Swin at 0.90."""


@dataclass(frozen=True)
class Profile:
    """Batch sizes one set of kernels is chosen for: any from ``min`` to ``max`` runs, ``opt`` is the fastest."""

    min: int
    opt: int
    max: int

    def __post_init__(self) -> None:
        if not 1 <= self.min <= self.opt <= self.max:
            raise UsageError(
                "wrong_profile", f"The batch sizes {self.min}, {self.opt}, {self.max} do not ascend from 1."
            )


@dataclass(frozen=True)
class EngineOptions:
    """How to build a plan.

    Args:
        profiles: one or more; the plan holds kernels for each.
        workspace_bytes: scratch memory the kernels may use; None leaves it to TensorRT, which takes all there is.
        strip_weights: leave the weights out; the plan then has to be refitted from its ONNX file when it is loaded.
        version_compatible: let later versions run the plan too (TensorRT only; it costs some speed).
        timing_cache: file of measured kernel times to read and write, for the flavour that measures (TensorRT);
            TensorRT-RTX has none and passes it over.
        optimization_level: 0 to 5, TensorRT's own scale of effort; None leaves its default.
    """

    profiles: tuple[Profile, ...] = (Profile(1, 8, 8),)
    workspace_bytes: int | None = None
    strip_weights: bool = False
    version_compatible: bool = False
    timing_cache: Path | None = None
    optimization_level: int | None = None


@dataclass(frozen=True)
class BuiltPlan:
    """A plan in memory, with what is known of it.

    ``data`` are its bytes. ``half_share`` is that of the parsed network; ``engine_half_share`` that of the finished
    engine, or None where no GPU could open it. ``warnings`` are TensorRT's warnings and errors, ``seconds`` wall time.
    """

    data: memoryview = field(repr=False)
    flavour: str
    version: str
    target: str
    options: EngineOptions
    layers: int
    half_share: HalfShare
    engine_half_share: float | None
    warnings: tuple[str, ...]
    seconds: float


def plan_from_onnx(
    path: Path,
    flavour: Flavour,
    target: str,
    options: EngineOptions | None = None,
    *,
    expect_half: bool = False,
    progress: Progress | None = None,
) -> BuiltPlan:
    """Build a plan. Precision lives in the graph: the network is strongly typed and no precision flag is ever set.

    Args:
        path: an ONNX file whose inputs have only their batch free.
        flavour: from :func:`flavour`.
        target: compute capability such as ``"sm89"``; see :func:`known_targets`.
        options: None for one profile of 1 to 8.
        expect_half: refuse a plan that is not mostly FP16 or BF16.
        progress: told of every step; it may stop the build, as Ctrl-C does.

    Raises:
        UsageError: ``target_unknown``, or ``option_unsupported`` when the flavour lacks what is asked.
        BackendError: ``onnx_unsupported``, ``engine_not_half``, ``engine_build_failed`` or ``engine_build_stopped``;
            :class:`EngineError` with the last log lines where TensorRT was asked.
        OutputError: ``output_unwritable`` when the timing cache cannot be written.
    """
    options = options or EngineOptions()
    check_target(flavour, [target])
    if options.version_compatible and flavour.name == RTX:
        raise UsageError(
            "option_unsupported", f"Plans of {RTX} run on the very version that built them, never on another."
        )
    log = BuildLog(flavour.module)
    watch = Watch(flavour.module, progress)
    started = time.perf_counter()
    with log, stopped_by_interrupt(watch):
        try:
            built = _build(path, flavour, target, options, expect_half, log, watch)
        except OnfhError:
            raise
        except Exception as error:  # the bindings raise RuntimeError, TypeError and ValueError for what C++ refused
            raise _failed(path, flavour, options, log, str(error).strip()) from error
    if watch.error is not None:
        raise watch.error
    if watch.stopped:
        raise EngineError("engine_build_stopped", f"The build of a {flavour.name} plan of {path.name} was stopped.")
    if built is None:
        raise _failed(path, flavour, options, log, log.warnings[-1] if log.warnings else "it gives no reason")
    data, layers, share, engine_share = built
    if expect_half and engine_share is not None:
        _require_half(engine_share, path, "engine")
    seconds = time.perf_counter() - started
    return BuiltPlan(
        data,
        flavour.name,
        flavour.version,
        target,
        options,
        layers,
        share,
        engine_share,
        tuple(log.warnings),
        seconds,
    )


def _build(
    path: Path, flavour: Flavour, target: str, options: EngineOptions, expect_half: bool, log: BuildLog, watch: Watch
) -> tuple[memoryview, int, HalfShare, float | None] | None:
    """The plan's bytes, the layers of its network, their share of half and the engine's; None when there is no plan."""
    module = flavour.module
    builder: trt.Builder = module.Builder(log.logger)
    flags: type[trt.NetworkDefinitionCreationFlag] = module.NetworkDefinitionCreationFlag
    network: trt.INetworkDefinition = builder.create_network(1 << int(flags.STRONGLY_TYPED))
    parser: trt.OnnxParser = module.OnnxParser(network, log.logger)
    _parse(parser, path, flavour, log)
    if network.num_outputs == 0:
        raise _unsupported(path, flavour, "it holds no network", log)
    layers = int(network.num_layers)
    share = half_share_of_network(module, network)
    if expect_half:
        _require_half(share.least, path, "network")
    config: trt.IBuilderConfig = builder.create_builder_config()
    _configure(module, config, options, target)
    for profile in options.profiles:
        shapes: trt.IOptimizationProfile = builder.create_optimization_profile()
        _set_shapes(shapes, network, profile, path, flavour, log)
        config.add_optimization_profile(shapes)
    timing_cache = options.timing_cache if flavour.name == TENSORRT else None
    if timing_cache is not None:
        _read_timing_cache(config, timing_cache)
    config.progress_monitor = watch.monitor
    plan: trt.IHostMemory | None = None if watch.stopped else builder.build_serialized_network(network, config)
    if plan is None:
        return None
    if timing_cache is not None:
        _write_timing_cache(config, timing_cache)
    data = memoryview(plan).cast("B")
    engine_share = None
    if target in (gpu.target for gpu in find_gpus()):
        engine_share = half_share_of_engine(module, data, log.logger, configure=not options.strip_weights)
    return data, layers, share, engine_share


def _parse(parser: trt.OnnxParser, path: Path, flavour: Flavour, log: BuildLog) -> None:
    try:
        model = path.read_bytes()
    except OSError as error:
        raise _unsupported(path, flavour, f"it cannot be read ({error.strerror})", log) from error
    if parser.parse(model, str(path)):
        return
    reasons = []
    for index in range(parser.num_errors):
        complaint: trt.ParserError = parser.get_error(index)
        operator: str = complaint.node_operator()
        where = f"node {complaint.node_name()!r} ({operator}): " if operator else ""
        reasons.append(f"{where}{str(complaint.code()).removeprefix('ErrorCode.')}, {complaint.desc()}")
    raise _unsupported(path, flavour, "; ".join(reasons), log)


def _configure(module: ModuleType, config: trt.IBuilderConfig, options: EngineOptions, target: str) -> None:
    flags: type[trt.BuilderFlag] = module.BuilderFlag
    if options.strip_weights:
        config.set_flag(flags.STRIP_PLAN)
        # Plain REFIT may drop a bias (release notes of 11.3); the weights put back are always those taken out.
        config.set_flag(flags.REFIT_IDENTICAL)
    if options.version_compatible:
        config.set_flag(flags.VERSION_COMPATIBLE)
    if options.workspace_bytes is not None:
        pools: type[trt.MemoryPoolType] = module.MemoryPoolType
        config.set_memory_pool_limit(pools.WORKSPACE, options.workspace_bytes)
    if options.optimization_level is not None:
        config.builder_optimization_level = options.optimization_level
    verbosity: type[trt.ProfilingVerbosity] = module.ProfilingVerbosity
    config.profiling_verbosity = verbosity.DETAILED  # or the inspector knows layers by name only
    if (
        hasattr(module, "ComputeCapability")
        and hasattr(config, "num_compute_capabilities")
        and hasattr(config, "set_compute_capability")
    ):
        config.num_compute_capabilities = 1
        if not config.set_compute_capability(getattr(module.ComputeCapability, target.upper()), 0):
            raise ValueError(f"it refuses the target {target}")


def _set_shapes(
    shapes: trt.IOptimizationProfile,
    network: trt.INetworkDefinition,
    profile: Profile,
    path: Path,
    flavour: Flavour,
    log: BuildLog,
) -> None:
    dims: type[trt.Dims] = flavour.module.Dims
    batches = (profile.min, profile.opt, profile.max)
    for index in range(network.num_inputs):
        tensor: trt.ITensor = network.get_input(index)
        shape = tuple(tensor.shape[:])
        if not shape or min(shape[1:], default=1) < 0:
            reason = f"input {tensor.name} has the shape {shape}, of which only the batch may be free"
            raise _unsupported(path, flavour, reason, log)
        if shape[0] >= 0 and {shape[0]} != set(batches):
            raise _unsupported(path, flavour, f"the batch of its input {tensor.name} is fixed at {shape[0]}", log)
        least, usual, most = (dims([batch, *shape[1:]]) for batch in batches)
        shapes.set_shape(tensor.name, least, usual, most)


def _read_timing_cache(config: trt.IBuilderConfig, path: Path) -> None:
    cache: trt.ITimingCache = config.create_timing_cache(path.read_bytes() if path.is_file() else b"")
    # Without leave to ignore a mismatch, times taken on another GPU or by another version are refused, not believed.
    config.set_timing_cache(cache, False)


def _write_timing_cache(config: trt.IBuilderConfig, path: Path) -> None:
    cache: trt.ITimingCache = config.get_timing_cache()
    data: trt.IHostMemory = cache.serialize()
    write_atomically(path, bytes(memoryview(data)))


def _require_half(share: float, path: Path, what: str) -> None:
    if share < MOSTLY_HALF:
        raise BackendError(
            "engine_not_half",
            f"The {what} of {path.name} was to be half precision and is {share:.0%} half.",
            "Convert the ONNX file first: precision lives in the graph, no builder flag changes it.",
        )


def _unsupported(path: Path, flavour: Flavour, reason: str, log: BuildLog) -> EngineError:
    return log.error(
        "onnx_unsupported",
        f"{flavour.name} {flavour.version} cannot read {path.name}: {reason.rstrip('.')}.",
        "Export it again with `onfh export`, which writes only what every flavour reads.",
    )


def _failed(path: Path, flavour: Flavour, options: EngineOptions, log: BuildLog, reason: str) -> EngineError:
    fix = ""
    if options.strip_weights and flavour.name == RTX and not find_gpus():
        fix = f"Build weight-stripped plans of {RTX} on a machine with an NVIDIA GPU, or keep the weights in."
    return log.error(
        "engine_build_failed",
        f"{flavour.name} {flavour.version} built no plan of {path.name}: {reason.rstrip('.')}.",
        fix,
    )
