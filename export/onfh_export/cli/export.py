"""``onfh export``: two trained stages and a configuration become a bundle, with proof that no answer changed."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from onfh_export.extras import require_export_extra
from onfh_runtime.cli.progress import Progress
from onfh_runtime.errors import UsageError

if TYPE_CHECKING:
    from onfh_runtime.bundle import LoadedBundle
    from onfh_runtime.engines import EngineOptions, Profile

__all__ = ["HELP", "add_arguments", "run"]

HELP = (
    "Turn two trained stages into a bundle: clean ONNX graphs, FP16 with the FP32 islands it needs, TensorRT plans, "
    "and a gate that refuses the export when an answer on the reference studies changed."
)
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
        help="23 writes Attention operators (default: 18)",
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
        default="onnxruntime",
        help="(default: %(default)s)",
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
            args.out,
            ExportOptions(
                precision=args.precision,
                io=args.io,
                opset=args.opset,
                rewrites=not args.no_rewrites,
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
    if args.triton is not None:
        _write_triton(bundle, args)
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


def _write_triton(bundle: LoadedBundle, args: argparse.Namespace) -> None:
    from onfh_export.triton_repository import write_triton_repository
    from onfh_runtime.engines import read_plans

    plans = None
    if args.triton_platform == "tensorrt":
        found = [plan for plan in read_plans(bundle.root) if plan.facts and plan.facts.flavour == "tensorrt"]
        plans = {plan.path.stem: plan.path for plan in found}
    half = args.triton_platform != "python" and args.precision == "fp16"  # a CPU computes FP16 in FP32 anyway
    precision: Literal["fp32", "fp16"] = "fp16" if half else "fp32"
    write_triton_repository(
        bundle, args.triton, platform=args.triton_platform, precision=precision, plans=plans, force=args.force
    )
    print(f"{args.triton}: Triton model repository, {args.triton_platform}, {precision}", file=sys.stderr)


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
