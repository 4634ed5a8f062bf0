"""What an export costs: `onfh export` as a whole process, phase by phase, with its peak memory.

Two pairs of stages with seeded weights: those of the demo bundle's shape, without engines, and ViT-B/16 at 224 with
UperNet-Swin-T at 512 and TensorRT-RTX plans for sm89, which need no GPU. Weights do not change the work.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from onfh_runtime.measure import machine_fingerprint

ROOT = Path(__file__).resolve().parents[1]
PHASE = re.compile(r"^(\S.*?) +([\d.]+) s$")
TARGET_S = {"demo": 180, "large": 480}
TARGET_MB = 8000

MAKE_DEMO = """
import json, sys, torch
from pathlib import Path
from onfh_export.networks import save_checkpoint, segmenter_from_shape, vit_from_shape
from onfh_export.recipe import Recipe
from onfh_runtime.cli.infer import demo_bundle
folder, recipe = Path(sys.argv[1]), Recipe()
torch.manual_seed(0)
save_checkpoint(vit_from_shape(recipe.classifier, recipe.size), folder / "classifier")
save_checkpoint(segmenter_from_shape(recipe.segmenter, recipe.size), folder / "segmenter")
config = json.loads((demo_bundle() / "bundle.json").read_text())
for name in ("schema", "files"):
    del config[name]
for stage in ("classifier", "segmenter"):
    kept = {"input": config[stage]["input"], "max_batch": config[stage]["max_batch"]}
    config[stage] = kept
config["gate"] = {"threshold": 0.0, "max_slices": 10}
(folder / "config.json").write_text(json.dumps(config))
"""


def export(name: str, folder: Path, *words: str) -> dict[str, Any]:
    """Run `onfh export` on the checkpoints in ``folder``, echo what it says, and read what it cost."""
    command = [sys.executable, "-m", "onfh_runtime.cli.main", "export", f"--config={folder / 'config.json'}"]
    command += [f"--{stage}={folder / stage}" for stage in ("classifier", "segmenter")]
    command += [f"--out={folder / 'bundle'}", "--force", *words]
    start, phases, notes = time.perf_counter(), {}, []
    print(f"{name}: onfh export {' '.join(words)}")
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            print(f"  {line}", end="", flush=True)
            if found := PHASE.match(line.rstrip()):
                phases[found[1].strip()] = float(found[2])
            elif line.startswith("  "):
                notes.append(line.strip())
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    wall, peak = time.perf_counter() - start, usage.ru_maxrss / 1024
    if process.returncode:
        raise SystemExit(f"onfh export ended with {process.returncode}")
    print(f"{name}: {wall:.0f} s (target {TARGET_S[name]}), peak {peak:.0f} MB (target {TARGET_MB})\n")
    return {"wall_s": wall, "peak_mb": peak, "phases_s": phases, "notes": notes}


def main() -> int:
    """Measure and print everything; write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--no-large", action="store_true", help="leave out ViT-B/16 + UperNet-Swin-T")
    parser.add_argument("--no-engines", action="store_true", help="leave out the TensorRT-RTX plans")
    options = parser.parse_args()
    figures: dict[str, Any] = {"machine": machine_fingerprint()}
    with tempfile.TemporaryDirectory() as name:
        # The checkpoints are made in processes of their own: a child's peak memory starts at what its parent held.
        demo, large = Path(name) / "demo", Path(name) / "large"
        subprocess.run([sys.executable, "-c", MAKE_DEMO, str(demo)], check=True)
        figures["demo"] = export("demo", demo)
        if not options.no_large:
            subprocess.run([sys.executable, str(ROOT / "benchmarks" / "large_stages.py"), str(large)], check=True)
            engines = [] if options.no_engines else ["--engines=tensorrt-rtx", "--targets=sm89"]
            figures["large"] = export("large", large, *engines)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
