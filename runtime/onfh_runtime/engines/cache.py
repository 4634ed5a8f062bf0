"""The plan a stage runs with on this GPU: the bundle's where it fits, else one built here before, else one built now.

Plans built here lie in ``<cache>/<bundle's SHA-256>/engines/...``, laid out as in a bundle. Nothing there is deleted:
removing any of it, or all, costs no more than building again.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from onfh_runtime.bundle import LoadedBundle, Precision, StageName
from onfh_runtime.engines.build import MOSTLY_HALF, BuiltPlan, EngineOptions, Profile, plan_from_onnx
from onfh_runtime.engines.flavours import Flavour
from onfh_runtime.engines.listening import Progress
from onfh_runtime.engines.machine import Gpu, Machine
from onfh_runtime.engines.plan_files import (
    PlanFacts,
    PlanFile,
    engine_folder,
    plan_facts,
    read_plans,
    unfit,
    write_plan,
)
from onfh_runtime.engines.run import plan_buckets
from onfh_runtime.errors import OutputError

__all__ = ["FoundPlan", "cache_folder", "cached_bytes", "plan_for", "runtime_cache_file"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FoundPlan:
    """A plan and what is known of it.

    ``onnx`` is the bundle's file it was built from; ``built_now`` says that no other was there; ``warnings`` are (code,
    text) for the results.
    """

    data: bytes | memoryview = field(repr=False)
    facts: PlanFacts
    onnx: Path
    built_now: bool
    warnings: tuple[tuple[str, str], ...] = ()


def cache_folder() -> Path:
    """``$ONFH_CACHE_DIR``, or ``onfh-edge`` in the user's cache folder (``$XDG_CACHE_HOME``, or ``~/.cache``)."""
    if own := os.environ.get("ONFH_CACHE_DIR"):
        return Path(own)
    if general := os.environ.get("XDG_CACHE_HOME"):
        return Path(general) / "onfh-edge"
    try:
        return Path.home() / ".cache" / "onfh-edge"
    except RuntimeError:  # a user without a home, as in some containers
        return Path(os.devnull) / "onfh-edge"  # which nobody can make


def cached_bytes() -> int:
    """Bytes that lie in the cache folder, for all bundles."""
    total = 0
    for path in cache_folder().rglob("*"):
        with suppress(OSError):  # another process may have replaced it
            total += path.stat().st_size if path.is_file() else 0
    return total


def runtime_cache_file(bundle: LoadedBundle, stage: StageName, flavour: Flavour, target: str, gpu: str) -> Path:
    """Where the kernels that TensorRT-RTX compiles on a GPU of that name are kept; the folder is made if it can be."""
    folder = cache_folder() / bundle.sha256 / "engines" / engine_folder(flavour.name, flavour.version, target)
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{stage}-{re.sub(r'[^A-Za-z0-9]+', '-', gpu).strip('-')}.kernels"


def plan_for(
    bundle: LoadedBundle,
    stage: StageName,
    flavour: Flavour,
    target: str,
    *,
    precision: Precision,
    max_rows: int,
    progress: Progress | None = None,
    unopened: str = "",
) -> FoundPlan:
    """Find or build the plan of a stage.

    Args:
        bundle: its plans come first.
        stage: ``classifier`` or ``segmenter``.
        flavour: what is to run it.
        target: compute capability of the GPU it is to run on, such as ``"sm89"``.
        precision: of the bundle's ONNX file the plan has to be built from.
        max_rows: the largest batch; a plan built here runs any from 1 to this and is fastest at it.
        progress: told of the steps of a build.
        unopened: why the plan that was found before did not open; then none that is there is taken.

    Raises:
        BundleError: ``precision_missing``.
        UsageError: ``target_unknown`` when the flavour does not build for that GPU.
        BackendError: the plan cannot be built; see :func:`plan_from_onnx`.
    """
    onnx = bundle.model_path(stage, precision)
    wanted = _Wanted(bundle, stage, flavour, target, precision, max_rows, onnx)
    reason = unopened
    if not unopened:
        found = wanted.among(bundle.root)
        if isinstance(found, FoundPlan):
            return found
        reason = found
    own = cache_folder() / bundle.sha256
    try:
        own.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = (own / f"{stage}-{flavour.name}-{target}.lock").open("ab")
    except OSError as error:
        kept = wanted.among(own) if not unopened else ""
        return kept if isinstance(kept, FoundPlan) else wanted.build(None, reason, progress, error.strerror or "")
    with lock, _alone(lock.fileno()):
        kept = wanted.among(own) if not unopened else ""
        return kept if isinstance(kept, FoundPlan) else wanted.build(own, reason, progress)


@dataclass(frozen=True)
class _Wanted:
    bundle: LoadedBundle
    stage: StageName
    flavour: Flavour
    target: str
    precision: Precision
    max_rows: int
    onnx: Path

    def among(self, root: Path) -> FoundPlan | str:
        """The fitting plan below a folder, or why there is none."""
        here = engine_folder(self.flavour.name, self.flavour.version, self.target)
        reason = f"there is none for {self.flavour.name}"
        for plan in read_plans(root):
            facts = plan.facts
            ours = plan.path.parent.name == here if facts is None else facts.flavour == self.flavour.name
            if plan.path.stem != self.stage or not ours:
                continue
            problem = self._problem(plan)
            if problem is None and facts is not None:
                _log.info("the plan %s of the %s fits", plan.path.parent.name, self.stage)
                return FoundPlan(plan.path.read_bytes(), facts, self.onnx, built_now=False)
            reason = problem or reason
        return reason

    def build(self, root: Path | None, reason: str, progress: Progress | None, unwritable: str = "") -> FoundPlan:
        """A plan built now, and kept below ``root`` unless that is None."""
        _log.info("building a plan of the %s: %s", self.stage, reason)
        start_s = time.perf_counter()
        options = EngineOptions(profiles=(Profile(1, self.max_rows, self.max_rows),))
        built = plan_from_onnx(self.onnx, self.flavour, self.target, options, progress=progress)
        seconds = time.perf_counter() - start_s
        onnx = self.onnx.relative_to(self.bundle.root).as_posix()
        sha256 = self.bundle.content.files[onnx]
        facts = plan_facts(self.stage, built, onnx=onnx, onnx_sha256=sha256, precision=self.precision)
        kept = "it is not kept"
        if root is not None:
            try:
                write_plan(root, self.stage, built, onnx=onnx, precision=self.precision, onnx_sha256=sha256)
                kept = f"it is kept for next time, with {cached_bytes() / 1e6:.0f} MB in all"
            except OutputError as error:
                unwritable = error.text
        warnings = [
            (
                "engine_rebuilt",
                f"The bundle's plan of the {self.stage} was not used ({reason}); one was built here in {seconds:.0f} s "
                f"and {kept}.",
            )
        ]
        if unwritable:
            _log.warning("the cache folder %s cannot be written: %s", cache_folder(), unwritable)
            text = f"The cache folder cannot be written, so the plan of the {self.stage} is built at every start."
            warnings.append(("cache_unwritable", text))
        warnings.extend(self._not_half(built))
        return FoundPlan(built.data, facts, self.onnx, built_now=True, warnings=tuple(warnings))

    def _problem(self, plan: PlanFile) -> str | None:
        machine = Machine((Gpu("this GPU", self.target),), {self.flavour.name: self.flavour.version})
        problem = unfit(plan, machine, self.bundle.content.files)
        if problem is not None or plan.facts is None:
            return problem.text if problem else plan.problem
        if plan.facts.precision != self.precision:
            return f"it is {plan.facts.precision}, {self.precision} is wanted"
        if not plan_buckets(plan.facts.profiles, self.max_rows):
            return f"it takes no batch of {self.max_rows} rows or less"
        return None

    def _not_half(self, built: BuiltPlan) -> Iterator[tuple[str, str]]:
        shares = [built.half_share.least]
        if built.engine_half_share is not None:
            shares.append(built.engine_half_share)
        if self.precision != "fp32" and min(shares) < MOSTLY_HALF:
            text = f"The {self.stage} was to run in {self.precision} and is only {min(shares):.0%} half precision."
            yield "engine_not_half", text


@contextmanager
def _alone(descriptor: int) -> Iterator[None]:
    """Inside, no other process builds the same plan; where the system or its disk has no such locks, one may."""
    with suppress(ImportError, OSError):
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX)  # released when the file is closed
    yield
