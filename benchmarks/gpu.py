"""The figures on a GPU, one part in one process: ``gpu.py PART --figures FILE --work DIR``; see gpu_check.py.

Every figure is written as soon as it is known. Milliseconds are the GPU's, by CUDA events; "end to end" is wall time.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from gpu_cases import (
    CASES,
    STAGES,
    Opener,
    bundle_of,
    bundle_opener,
    flop,
    open_case,
    rules_of,
    torch_opener,
    usable_backends,
    write_graph,
)
from gpu_figures import Recorder
from gpu_kernels import (
    DTYPES,
    MASK_STEPS,
    SIZES,
    SOURCES,
    copy_gb_s,
    mask_times,
    random_volume,
    stage_input_error,
    stage_input_times,
    whole_source,
)
from gpu_studies import agreements, copied_studies, many_studies, phantom_series, prepared_series, study_times

from onfh_runtime.bundle import Bundle, LoadedBundle, Stage, StageName, load_bundle
from onfh_runtime.cli.infer import demo_bundle
from onfh_runtime.compute import open_compute
from onfh_runtime.device import open_device

BANDWIDTH_SHARE = 0.70
FLOORS = {"a": 2.0, "b": 3.0}
"""GPU compute over the floor, at most."""
END_TO_END, IDLE = 1.3, 0.05
DICE, PHANTOMS = 0.995, 6
WARM_UP, RUNS = 3, 9
"""Runs of one study alone: first those that do not count."""
STUDIES, SKIPPED = 24, 6
"""Series of the long run, and those at its beginning that do not count."""
TORCH_ABSENT = "torch, or a CUDA build of it, is not installed"


@dataclass(frozen=True)
class Setting:
    """Where a part writes."""

    figures: Path
    work: Path


def kernels(setting: Setting) -> None:
    """Bandwidth of ``stage_input``, times of what follows the segmenter, and both against the reference."""
    out = Recorder(setting.figures, "kernels")
    device = open_device()
    copy = [0.0]
    with out.or_absent("copy bandwidth"):
        copy = copy_gb_s(device)
        out.say("copy bandwidth", copy, "GB/s", note="1 GiB on the device, bytes read and written")
    for shape, side in (((121, 96, 128), 96), ((40, 128, 128), 96)):
        names = [f"stage_input of {'x'.join(map(str, shape))}: largest difference, {kind}" for kind in ("FP32", "FP16")]
        with out.or_absent(*names):
            differences = stage_input_error(device, random_volume(shape), side)
            out.say(names[0], differences[0], "", most=1e-5)
            out.say(names[1], differences[1], "units in the last place", most=1.0)
    for name, shape in SOURCES.items():
        source = None
        for size in SIZES:
            for dtype in DTYPES:
                figure = f"stage_input {name} to {size} {dtype.__name__}: share of the copy bandwidth"
                with out.or_absent(figure):
                    source = source or whole_source(random_volume(shape))[0]
                    found = stage_input_times(device, source, size, dtype)
                    middle = sorted(copy)[len(copy) // 2]
                    note = f"{found.moved / 1e6:.0f} MB in {sorted(found.ms)[len(found.ms) // 2] * 1e3:.1f} us"
                    shares = [rate / middle for rate in found.gb_s]
                    out.say(figure, shares, "", least=BANDWIDTH_SHARE, note=note)
    with out.or_absent(*(f"ten slices of 512 x 512: {step}" for step in MASK_STEPS)):
        for step, times in mask_times(device).items():
            out.say(f"ten slices of 512 x 512: {step}", times, "us")
    device.close()


def answers(setting: Setting) -> None:
    """The demo bundle on phantoms: GPU against CPU."""
    out = Recorder(setting.figures, "answers")
    bundle = load_bundle(demo_bundle())
    studies = prepared_series(phantom_series(setting.work / "phantoms", PHANTOMS), bundle.content)
    host = open_compute(bundle, "onnxruntime")
    files = {stage: bundle.model_path(stage, "fp16") for stage in STAGES}
    for name, opener in _openers(out, bundle, files, "flips", "smallest Dice").items():
        names = [f"{name}: {what}" for what in ("flips", "smallest Dice", "largest drift of a probability")]
        with out.or_absent(*names):
            compute = open_case(open_device(), bundle.content, opener)
            try:
                found = agreements(host, compute, studies, bundle.content)
            finally:
                compute.close()
            out.say(names[0], sum(each.flips for each in found), "decisions", most=0, note=f"{len(found)} phantoms")
            out.say(names[1], min(each.mask_dice for each in found), "", least=DICE)
            out.say(names[2], max(each.probability_drift for each in found), "")


def graphs(setting: Setting) -> None:
    """The FP16 graphs of both cases, which the cases after this one run."""
    out = Recorder(setting.figures, "graphs")
    if find_spec("torch") is None:
        out.absent(TORCH_ABSENT, "exported")
        return
    for name in ("vit", "swin_unet", "upernet"):
        with out.or_absent(f"{name} exported"):
            path = write_graph(name, setting.work)
            out.say(f"{name} exported", path.stat().st_size / 1e6, "MB")


def case(setting: Setting, which: str) -> None:
    """GPU compute of one study on every backend, and the long run on the first of them."""
    part, rules = f"case {which}", rules_of(which)
    out = Recorder(setting.figures, part)
    names = {stage: setting.work / spec.models["fp16"] for stage, spec in _stages(rules).items()}
    exported = all(path.is_file() for path in names.values())
    bundle = bundle_of(which, setting.work) if exported else LoadedBundle(setting.work, rules, "0" * 64)
    floor = None
    with out.or_absent("matrix product"):
        from gpu_torch import matrix_tflop_s

        rates = matrix_tflop_s()
        floor = flop(which) / sorted(rates)[len(rates) // 2] / 1e9
        out.say("matrix product", rates, "TFLOP/s", note="8192 squared, FP16, random values")
        out.say("floor of a study", floor, "ms", note=f"{flop(which) / 1e12:.2f} TFLOP")
    folder = setting.work / "studies"
    if not folder.exists():
        copied_studies(folder, STUDIES, slices=25, side=512)
    study = prepared_series(folder / "000", rules)[0]
    under_test = True
    for name, opener in _openers(
        out, bundle if exported else None, names if exported else {}, "GPU compute of a study"
    ).items():
        figure = f"{name}: GPU compute of a study"
        with out.or_absent(figure):
            compute = open_case(open_device(), rules, opener)
            try:
                times = study_times(compute, study, warm_up=WARM_UP, runs=RUNS)
            finally:
                compute.close()
            steps = {step: sorted(each[step] for each in times)[len(times) // 2] for step in times[0]}
            note = ", ".join(f"{step} {ms:.2f}" for step, ms in steps.items() if step != "total")
            note += "; exported FP16 graphs" if exported else "; the networks themselves in FP16"
            out.say(figure, [each["total"] for each in times], "ms", note=note)
            if floor is not None:
                out.say(f"{name}: over the floor", steps["total"] / floor, "", most=FLOORS[which])
            if under_test:
                under_test = False
                _long_run(setting, out, name, opener, bundle, folder)


def _long_run(setting: Setting, out: Recorder, name: str, opener: Opener, bundle: LoadedBundle, folder: Path) -> None:
    figures = [f"{name}: {what}" for what in ("end to end over GPU compute", "idle share of the compute stream")]
    with out.or_absent(*figures):
        compute = open_case(open_device(), bundle.content, opener)
        run = many_studies(compute, bundle, folder, setting.work / "answers")
        end_to_end, busy, idle = run.steady(SKIPPED)
        note = f"{end_to_end:.1f} ms a study end to end, {busy:.1f} ms on the GPU, {STUDIES - SKIPPED} studies"
        out.say(figures[0], end_to_end / busy, "", most=END_TO_END, note=note)
        out.say(figures[1], idle, "", most=IDLE)


def peers(setting: Setting, which: str) -> None:
    """The same networks in torch alone, eager first."""
    out = Recorder(setting.figures, f"peers {which}")
    names = ["torch eager FP16: a study", "torch.compile FP16: a study"]
    if not _torch_has_cuda():
        out.absent(TORCH_ABSENT, *names)
        return
    from gpu_torch import Peer

    out.plan(*names)
    peer = Peer(which)
    for name, measure in zip(names, (peer.eager, peer.compiled), strict=True):
        with out.or_absent(name):
            out.say(name, measure(), "ms", note="both networks alone, batches of 25 and 10, nothing around them")


def _openers(
    out: Recorder, bundle: LoadedBundle | None, files: Mapping[StageName, Path], *figures: str
) -> dict[str, Opener]:
    """Every way there is to run the stages here, fastest first; those there are not are recorded as absent."""
    found: dict[str, Opener] = {}
    for name, refusal in usable_backends():
        why = refusal or ("" if bundle is not None else "the stages were not exported")
        if why:
            out.absent(why, *(f"{name}: {figure}" for figure in figures))
        elif bundle is not None:
            found[name] = bundle_opener(bundle, name)
    if _torch_has_cuda():
        found["torch-cuda"] = torch_opener(files)
    else:
        out.absent(TORCH_ABSENT, *(f"torch-cuda: {figure}" for figure in figures))
    return found


def _stages(rules: Bundle) -> dict[StageName, Stage]:
    return {"classifier": rules.classifier, "segmenter": rules.segmenter}


def _torch_has_cuda() -> bool:
    if find_spec("torch") is None:
        return False
    import torch

    return torch.cuda.is_available()


PARTS: dict[str, Callable[[Setting], None]] = {
    "kernels": kernels,
    "answers": answers,
    "graphs": graphs,
    **{f"case_{which}": lambda setting, which=which: case(setting, which) for which in CASES},
    **{f"peers_{which}": lambda setting, which=which: peers(setting, which) for which in CASES},
}


def main() -> int:
    """Run one part."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--figures", type=Path, required=True, help="file that gets the figures, a line each")
    parser.add_argument("--work", type=Path, required=True, help="folder for studies and graphs")
    options = parser.parse_args()
    PARTS[options.part](Setting(options.figures, options.work))
    return 0


if __name__ == "__main__":
    sys.exit(main())
