"""``onfh export``: two trained stages and a configuration become a bundle, with proof that no answer changed."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onfh_export.extras import require_export_extra
from onfh_runtime.cli.progress import Progress
from onfh_runtime.errors import UsageError

if TYPE_CHECKING:
    from onfh_export.triton_repository import Platform
    from onfh_runtime.bundle import LoadedBundle, Precision
    from onfh_runtime.engines import EngineOptions, Profile

__all__ = ["HELP", "add_arguments", "run"]

HELP = (
    "Turn two trained stages into a bundle: clean ONNX graphs, FP16 with the FP32 islands it needs, TensorRT plans, "
    "and a gate that refuses the export when an answer on the reference studies changed."
)
_NETWORK_OPSET = 18
"""The least that a network is exported to; only an ONNX file may be older."""
_SOURCE = "a Transformers folder, an .onnx file, or module:factory with its weights"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add = parser.add_argument
    add("--classifier", required=True, metavar="SRC", help=f"stage 1: {_SOURCE}")
    add("--segmenter", required=True, metavar="SRC", help=f"stage 2: {_SOURCE}")
    add("--out", type=Path, required=True, metavar="BUNDLE", help="folder of the bundle")
    add("--config", type=Path, metavar="FILE", help="YAML or JSON: preprocessing, rules and thresholds")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="one field of it, such as gate.threshold=0.1")
    add("--example-config", action=_Example, help="print an example of FILE and stop")
    add("--classifier-weights", type=Path, metavar="FILE", help="safetensors, for module:factory")
    add("--segmenter-weights", type=Path, metavar="FILE", help="safetensors, for module:factory")
    add("--card", type=Path, metavar="FILE", help="model card to begin MODEL_CARD.md with")
    add("--force", action="store_true", help="replace a bundle that is already there")
    graph = parser.add_argument_group("graphs")
    add = graph.add_argument
    add("--precision", choices=("fp16", "bf16", "fp32"), default="fp16", help="(default: %(default)s)")
    add("--io", choices=("fp32", "fp16"), default="fp32", help="inputs and outputs of the FP16 graph (default: fp32)")
    add(
        "--opset",
        type=int,
        choices=(17, 18, 19, 20, 23),
        default=18,
        help="17 is for .onnx files only, 23 writes Attention operators (default: 18)",
    )
    add(
        "--classifier-int8",
        action="store_true",
        help="also the classifier with INT8 weights, which CPUs then run instead of FP32",
    )
    add("--no-rewrites", action="store_true", help="leave out the exact rewrites that make stages cheaper")
    parity = parser.add_argument_group("parity gate")
    add = parity.add_argument
    add("--reference", type=Path, metavar="DIR", help="studies to compare on (default: phantoms)")
    add("--phantoms", type=_positive, metavar="N", help="how many phantoms (default: 12, fewer for large stages)")
    add("--accept-drift", action="store_true", help="write the bundle even if a limit is breached; it is recorded")
    engines = parser.add_argument_group("engines")
    add = engines.add_argument
    add("--engines", nargs="+", default=[], metavar="FLAVOUR", help="tensorrt, tensorrt-rtx: build plans")
    add("--targets", type=_words, default=[], metavar="SM,...", help="such as sm86,sm89 (default: this machine's GPU)")
    add("--profiles", type=_profiles, metavar="MIN:OPT:MAX,...", help="batch sizes (default: 1 to the largest batch)")
    add("--workspace-mib", type=_positive, metavar="MIB", help="scratch memory kernels may use (default: no limit)")
    add("--strip-weights", action="store_true", help="plans without weights, refitted from the ONNX file when loaded")
    add("--version-compatible", action="store_true", help="plans that later TensorRT versions run too")
    add("--timing-cache", type=Path, metavar="FILE", help="kernel times to read and write (tensorrt)")
    triton = parser.add_argument_group("Triton")
    add = triton.add_argument
    add("--triton", type=Path, metavar="DIR", help="write a Triton model repository as well")
    add(
        "--triton-platform",
        choices=("onnxruntime", "tensorrt", "python"),
        help="(default: onnxruntime)",
    )


def run(args: argparse.Namespace) -> int:
    """Run the command.

    Raises:
        MissingExtraError: the export extra, or a TensorRT flavour, is not installed.
        UsageError: an input is unusable.
        OutputError: the bundle cannot be written, or is already there.
        BackendError: a plan cannot be built.
        OnfhError: an exported stage does not answer as its source does, or a parity limit is breached.
    """
    require_export_extra()
    from onfh_export.config import defaults_from_folder, read_config
    from onfh_export.exporting import ExportOptions, StageRequest, bundle_from_stages
    from onfh_export.phases import Phases

    _check_options(args)
    # Absolute from here on: --out . replaces the folder that relative paths begin in.
    out = Path(os.path.realpath(args.out))
    triton = _checked_triton(args, out) if args.triton is not None else None
    if args.config is None and not args.set:
        raise UsageError(
            "config_incomplete",
            "There is no configuration: nothing says what the stages take and what their answers mean.",
            "Start from `onfh export --example-config > config.yaml` and add --config config.yaml.",
        )
    defaults = {
        stage: defaults_from_folder(Path(source))
        for stage, source in (("classifier", args.classifier), ("segmenter", args.segmenter))
    }
    config = read_config(args.config, args.set, defaults)
    card = _text(args.card) if args.card else None
    progress = Progress("export")
    phases = Phases(lambda text: progress.line(text, file=sys.stderr), begin=progress.begin, step=progress.at)
    try:
        bundle = bundle_from_stages(
            {
                "classifier": StageRequest(args.classifier, args.classifier_weights),
                "segmenter": StageRequest(args.segmenter, args.segmenter_weights),
            },
            config,
            out,
            ExportOptions(
                precision=args.precision,
                io=args.io,
                opset=args.opset,
                rewrites=not args.no_rewrites,
                classifier_int8=args.classifier_int8,
                reference=args.reference,
                phantoms=args.phantoms,
                accept_drift=args.accept_drift,
                flavours=args.engines,
                targets=args.targets,
                engine=_engine_options(args),
                force=args.force,
            ),
            card=card,
            phases=phases,
        )
    finally:
        progress.close()
    if triton is not None:
        _write_triton(bundle, triton, args)
    spent = sum(phases.seconds.values())
    print(
        f"{args.out}: {bundle.content.name} {bundle.content.version}, bundle {bundle.sha256[:12]}, {spent:.0f} s",
        file=sys.stderr,
    )
    return 0


class _Example(argparse.Action):
    """Prints the example configuration, as --version prints the version."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str | None = None) -> None:
        super().__init__(option_strings, dest, nargs=0, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        require_export_extra()
        from onfh_export.config import config_example

        print(config_example(), end="")
        parser.exit()


def _engine_options(args: argparse.Namespace) -> EngineOptions | None:
    from onfh_runtime.engines import EngineOptions

    asked = (args.profiles, args.workspace_mib, args.timing_cache)
    if not any(asked) and not args.strip_weights and not args.version_compatible:
        return None
    return EngineOptions(
        profiles=args.profiles or (),
        workspace_bytes=args.workspace_mib * 2**20 if args.workspace_mib else None,
        strip_weights=args.strip_weights,
        version_compatible=args.version_compatible,
        timing_cache=args.timing_cache,
    )


def _check_options(args: argparse.Namespace) -> None:
    """Refuse what would fail after an hour's work, and options that another one makes mean nothing.

    Raises:
        UsageError: ``option_unsupported``, ``opset_unsupported`` or ``input_not_found``.
    """
    for needless, option, other in (
        (args.targets and not args.engines, "--targets", "without --engines"),
        (args.profiles and not args.engines, "--profiles", "without --engines"),
        (args.workspace_mib and not args.engines, "--workspace-mib", "without --engines"),
        (args.strip_weights and not args.engines, "--strip-weights", "without --engines"),
        (args.version_compatible and not args.engines, "--version-compatible", "without --engines"),
        (args.timing_cache and not args.engines, "--timing-cache", "without --engines"),
        (args.timing_cache and "tensorrt" not in args.engines, "--timing-cache", "without --engines tensorrt"),
        (args.triton_platform and not args.triton, "--triton-platform", "without --triton"),
        (args.phantoms and args.reference, "--phantoms", "with --reference, whose studies are taken instead"),
        (args.io == "fp16" and args.precision == "fp32", "--io fp16", "with --precision fp32"),
    ):
        if needless:
            raise UsageError(
                "option_unsupported", f"{option} does nothing {other}.", "Leave out one, or add the other."
            )
    if args.io == "fp16" and args.precision == "bf16":
        raise UsageError(
            "option_unsupported",
            "--io fp16 with --precision bf16 would make inputs and outputs BF16, which nothing feeds.",
            "Leave out --io.",
        )
    if args.version_compatible and "tensorrt-rtx" in args.engines:
        raise UsageError(
            "option_unsupported",
            "--version-compatible is nothing that --engines tensorrt-rtx has: its plans run on the version that built "
            "them.",
            "Leave it out, or build plans of tensorrt alone.",
        )
    for stage, source in (("classifier", args.classifier), ("segmenter", args.segmenter)):
        if args.opset < _NETWORK_OPSET and not source.lower().endswith(".onnx"):
            raise UsageError(
                "opset_unsupported",
                f"The {stage} {source} is a network, and those are exported to opset {_NETWORK_OPSET} or later.",
                f"Leave out --opset {args.opset}, which is for .onnx files.",
            )
    if args.reference is not None and not args.reference.exists():
        raise UsageError("input_not_found", f"There is no {args.reference}.", "Name a folder of studies.")


def _checked_triton(args: argparse.Namespace, out: Path) -> Path:
    """The folder of the Triton repository, absolute, if one can be written there of the bundle that is asked for."""
    from onfh_export.triton_repository import check_triton_request

    triton = Path(os.path.realpath(args.triton))
    if triton == out or triton in out.parents or out in triton.parents:
        raise UsageError(
            "triton_options",
            f"--triton {args.triton} and --out {args.out} lie in one another.",
            "Name two folders side by side.",
        )
    check_triton_request(
        triton,
        platform=args.triton_platform or "onnxruntime",
        flavours=args.engines,
        targets=args.targets,
        profiles=args.profiles or (),
        stripped=args.strip_weights,
        force=args.force,
    )
    return triton


def _write_triton(bundle: LoadedBundle, triton: Path, args: argparse.Namespace) -> None:
    from onfh_export.triton_repository import plans_for_triton, write_triton_repository

    platform: Platform = args.triton_platform or "onnxruntime"
    plans = plans_for_triton(bundle) if platform == "tensorrt" else None
    # In the Python backend a CPU computes FP16 in FP32 anyway, and ONNX Runtime has few kernels for BF16.
    half = platform == "onnxruntime" and args.precision == "fp16"
    precision: Precision = args.precision if plans is not None else "fp16" if half else "fp32"
    write_triton_repository(bundle, triton, platform=platform, precision=precision, plans=plans, force=args.force)
    print(f"{args.triton}: Triton model repository, {platform}, {precision}", file=sys.stderr)


def _profiles(text: str) -> tuple[Profile, ...]:
    from onfh_runtime.engines import Profile

    try:
        rows = [tuple(int(number) for number in part.split(":")) for part in text.split(",")]
        return tuple(Profile(*row) for row in rows)
    except (TypeError, ValueError):
        raise argparse.ArgumentTypeError(f"{text!r} is not like 1:1:1,1:8:8") from None
    except UsageError as error:
        raise argparse.ArgumentTypeError(error.text) from None


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1")
    return int(text)


def _words(text: str) -> list[str]:
    return [word for word in text.split(",") if word]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UsageError("card_unreadable", f"{path} cannot be read as text.") from error
