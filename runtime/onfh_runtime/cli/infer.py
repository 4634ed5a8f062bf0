"""``onfh infer``: from folders of DICOM to answers."""

from __future__ import annotations

import argparse
import json
import sys
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from onfh_runtime.cli.progress import Progress
from onfh_runtime.errors import UsageError

if TYPE_CHECKING:
    from onfh_runtime.infer import Report
    from onfh_runtime.result import Result

__all__ = ["HELP", "add_arguments", "demo_bundle", "run", "run_infer", "sentence"]

HELP = "Analyse every eligible CT series below INPUT and write its answer below OUT/<study>/<series>."


def demo_bundle() -> Path:
    """The bundle that ships with the package; it was trained on phantoms."""
    return Path(str(files("onfh_runtime"))) / "data" / "demo"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``onfh infer``."""
    parser.add_argument("inputs", metavar="INPUT", nargs="+", type=Path, help="a DICOM file, or a folder of any layout")
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="where the answers go")
    parser.add_argument(
        "--bundle", metavar="DIR", type=Path, default=demo_bundle(), help="what to run (default: the demo bundle)"
    )
    parser.add_argument(
        "--backend",
        default="auto",
        help="auto, tensorrt, tensorrt-rtx, onnxruntime-cuda, onnxruntime, or triton:URL such as "
        "triton:grpc://host:8001 (default: %(default)s)",
    )
    parser.add_argument("--gpu", type=int, default=0, metavar="N", help="which GPU, from 0 (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="threads to use (default: every core)")
    parser.add_argument(
        "--secondary-capture",
        action="store_true",
        help="also write the outline burnt into the source slices, for viewers that cannot show a SEG",
    )
    parser.add_argument(
        "--anonymous", action="store_true", help="leave the patient out of every output (UIDs stay those of the source)"
    )
    parser.add_argument("--json", action="store_true", help="print the results as JSON to stdout and nothing else")


def run(options: argparse.Namespace) -> int:
    """Run ``onfh infer``."""
    report = run_infer(
        options.inputs,
        options.out,
        bundle=options.bundle,
        backend=options.backend,
        threads=options.threads,
        gpu=options.gpu,
        as_json=options.json,
        secondary_capture=options.secondary_capture,
        anonymous=options.anonymous,
    )
    return report.exit_code


def run_infer(
    inputs: list[Path],
    out: Path,
    *,
    bundle: Path,
    backend: str,
    threads: int = 0,
    gpu: int = 0,
    as_json: bool = False,
    secondary_capture: bool = False,
    anonymous: bool = False,
) -> Report:
    """Analyse, telling the reader line by line what came of each series.

    Raises:
        OnfhError: wrong usage, an unusable bundle or an unwritable output folder.
    """
    missing = [path for path in inputs if not path.exists()]
    if missing:
        raise UsageError("input_not_found", f"There is no {missing[0]}.", "Name a DICOM file or a folder.")
    if threads < 0:
        raise UsageError("wrong_threads", f"--threads {threads} is negative.", "Use 0 for every core.")
    if gpu < 0:
        raise UsageError("wrong_gpu", f"--gpu {gpu} is negative.", "`onfh doctor` lists the GPUs, from 0.")
    from onfh_runtime.bundle import load_bundle
    from onfh_runtime.infer import infer
    from onfh_runtime.pipeline import as_onfh_error

    loaded = load_bundle(bundle)
    progress, engines = Progress("series"), Progress("building an engine")

    def engine_progress(_phase: str, done: int, total: int) -> bool:
        engines.at(done, total)
        return True

    def on_result(result: Result, folder: Path) -> None:
        if not as_json:
            progress.line(f"{_label(result)}: {sentence(result)}\n  {folder / 'report.html'}")
        progress.advance()

    try:
        report = infer(
            inputs,
            out,
            bundle=loaded,
            backend=backend,
            threads=threads,
            gpu=gpu,
            secondary_capture=secondary_capture,
            anonymous=anonymous,
            engine_progress=engine_progress,
            on_unreadable=lambda path, code, text: progress.line(f"{path}: {text} [{code}]", file=sys.stderr),
            on_start=progress.start,
            on_result=on_result,
        )
    except Exception as error:  # whatever it is, what it quotes is not printed
        raise as_onfh_error(error) from None
    finally:
        engines.close()
        progress.close()
    if as_json:
        json.dump([r.model_dump(by_alias=True) for r in report.results], sys.stdout, indent=1, allow_nan=False)
        print()
    else:
        progress.line(_closing_line(report, out))
    return report


def sentence(result: Result) -> str:
    """One line of plain words for a result."""
    if result.patient is None or result.sides is None:
        reason = f"{result.reason.text} [{result.reason.code}]" if result.reason else ""
        return f"{result.status.replace('_', ' ').upper()}: {reason}"
    sides = []
    for name, side in (("right", result.sides.right), ("left", result.sides.left)):
        volume = f" {side.volume_mm3 / 1000:.1f} mL" if side.volume_mm3 else ""
        sides.append(f"{name} {side.state.replace('_', ' ')}{volume}")
    codes = sorted({warning.code for warning in result.warnings})
    warnings = f"; warnings: {', '.join(codes)}" if codes else ""
    return (
        f"{result.patient.state} (probability {result.patient.probability:.3f}, threshold "
        f"{result.patient.threshold:.3f}); {', '.join(sides)}{warnings}"
    )


def _label(result: Result) -> str:
    part = f" part {result.part}" if result.part is not None else ""
    return f"series {result.series_instance_uid}{part}"


def _closing_line(report: Report, out: Path) -> str:
    skipped = sum(entry.outcome == "skipped" for study in report.studies for entry in study.series)
    aside = f", {skipped} skipped (see study.json)" if skipped else ""
    if not report.results:
        return f"Nothing to analyse: no CT series of the hips was found{aside}."
    done = sum(result.status == "succeeded" for result in report.results)
    return f"{done} of {len(report.results)} series analysed{aside}. Results: {out}. Research use only."
