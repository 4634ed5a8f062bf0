"""The whole recipe, one call: prepare, fit, freeze, measure, export."""

from __future__ import annotations

import hashlib
import json
import platform
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import transformers

from onfh_export.assess import Thresholds, answers, frozen_thresholds, split_metrics
from onfh_export.card import metrics_table, model_card
from onfh_export.dataset import SPLITS, read_cases
from onfh_export.exporting import ExportOptions, StageRequest, bundle_from_stages
from onfh_export.fitting import classifier_from_slices, segmenter_from_slices, slices_of
from onfh_export.networks import checkpoint_from_folder, parameter_count
from onfh_export.phases import Phases
from onfh_export.prepare import PreparedCase, prepare
from onfh_export.recipe import Recipe
from onfh_runtime import __version__
from onfh_runtime.bundle import StageName
from onfh_runtime.errors import UsageError
from onfh_runtime.phantom.cohort import MARKER

__all__ = ["bundle_config", "train"]

_NOTICE = "Research use only. Not for diagnosis."
_PHANTOM_NOTICE = "Trained on computer-made phantoms: it demonstrates the runtime and knows nothing of patients."


def train(
    data: Path,
    run: Path,
    recipe: Recipe,
    *,
    workers: int,
    threads: int,
    say: Callable[[str], None],
    name: str = "onfh-demo",
    parity_phantoms: int | None = None,
    force: bool = False,
) -> dict[str, Any] | None:
    """Train both stages on DATA, write everything to RUN and return the metrics.

    RUN gets ``recipe.json``, ``classifier/``, ``segmenter/``, ``metrics.json``, ``bundle-config.json`` and ``bundle/``.
    The same data, recipe, thread count and library versions give the same weights. Without masks only the classifier
    is trained, and None is returned.

    Args:
        data: see :mod:`onfh_export.dataset`.
        run: output folder; what an earlier run left there is overwritten file by file, its bundle with ``force`` only.
        recipe: every choice.
        workers: processes that prepare cases.
        threads: threads that train.
        say: takes one line of progress.
        name: of the bundle.
        parity_phantoms: on which the bundle's FP16 graphs are held against the networks; None for 12.
        force: replace RUN/bundle.

    Raises:
        UsageError: the data are unusable.
        OnfhError: export failed.
    """
    start = time.monotonic()
    phantoms = (data / MARKER).exists()
    torch.set_num_threads(threads)
    run.mkdir(parents=True, exist_ok=True)
    _write_json(run / "recipe.json", recipe.as_dict())
    prepared = prepare(data, read_cases(data, recipe.seed), recipe, workers=workers, say=say)
    splits = {split: [case for case in prepared if case.case.split == split] for split in SPLITS}
    _check(data, splits)
    fit, validation = slices_of(splits["train"]), slices_of(splits["validation"])
    say(
        "slices (positive): "
        + ", ".join(
            f"{name} {sum(int(case.known.sum()) for case in cases)} ({sum(int(case.positive.sum()) for case in cases)})"
            for name, cases in splits.items()
        )
    )
    classifier_from_slices(fit, validation, recipe, run / "classifier", say)
    if not (fit.positive & fit.has_mask).any():
        say("There are no masks: only the classifier was trained, and no bundle is written.")
        return None
    segmenter_from_slices(fit, validation, recipe, run / "segmenter", say)
    classifier, segmenter = (checkpoint_from_folder(run / stage) for stage in ("classifier", "segmenter"))
    thresholds = frozen_thresholds(answers(classifier, segmenter, splits["validation"]), recipe)
    metrics: dict[str, Any] = {
        "cases": len(prepared),
        "parameters": {"classifier": parameter_count(classifier), "segmenter": parameter_count(segmenter)},
        "thresholds": asdict(thresholds),
        "splits": {
            split: split_metrics(answers(classifier, segmenter, splits[split]), thresholds)
            for split in SPLITS[1:]
            if splits[split]
        },
        "machine": f"{threads} threads of a CPU ({platform.machine()})",
        "minutes": (time.monotonic() - start) / 60,
    }
    _write_json(run / "metrics.json", metrics)
    say(metrics_table(metrics))
    config = bundle_config(recipe, thresholds, name=name, phantoms=phantoms, data=data)
    _write_json(run / "bundle-config.json", config)
    card = model_card(name, metrics, recipe.as_dict(), phantoms=phantoms)
    requests: dict[StageName, StageRequest] = {
        "classifier": StageRequest(str(run / "classifier")),
        "segmenter": StageRequest(str(run / "segmenter")),
    }
    options = ExportOptions(phantoms=parity_phantoms, force=force)
    bundle_from_stages(requests, config, run / "bundle", options, card=card, phases=Phases(say))
    return metrics


def bundle_config(recipe: Recipe, thresholds: Thresholds, *, name: str, phantoms: bool, data: Path) -> dict[str, Any]:
    """The configuration :func:`~onfh_export.exporting.bundle_from_stages` takes."""
    stage = {
        "activation": "softmax",
        "positive_class": 1,
        "max_batch": 8,
        "input": recipe.stage_input.model_dump(mode="json"),
    }
    return {
        "name": name,
        "version": __version__,
        "description": "Two demo stages trained by `onfh train`" + (" on phantoms." if phantoms else "."),
        "notices": [_NOTICE, *([_PHANTOM_NOTICE] if phantoms else [])],
        "slice_spacing_mm": recipe.slice_spacing_mm,
        "coverage": recipe.coverage.model_dump(mode="json"),
        "classifier": stage,
        "segmenter": stage,
        "gate": {"threshold": thresholds.gate, "max_slices": None},
        "slice_threshold": thresholds.slice_threshold,
        "patient_rule": {"kind": "top_k_mean", "k": thresholds.patient_k, "threshold": thresholds.patient},
        "mask_threshold": thresholds.mask_threshold,
        "minimum_volume_mm3": thresholds.minimum_volume_mm3,
        "provenance": {
            "command": "onfh train",
            "recipe_sha256": hashlib.sha256(json.dumps(recipe.as_dict()).encode()).hexdigest(),
            "cases_sha256": hashlib.sha256((data / "cases.csv").read_bytes()).hexdigest(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
    }


def _check(data: Path, splits: dict[str, list[PreparedCase]]) -> None:
    for split in ("train", "validation"):
        labels = {bool(label) for case in splits[split] for label in case.positive[case.known]}
        if labels != {False, True}:
            raise UsageError(
                "cases_invalid",
                f"The {split} cases of {data} hold no slices of both classes.",
                "Add cases, or fill in the split column of cases.csv.",
            )
    masked = {split: any((case.positive & case.has_mask).any() for case in splits[split]) for split in splits}
    if masked["train"] and not masked["validation"]:
        raise UsageError(
            "cases_invalid",
            f"The train cases of {data} have masks of necrosis, the validation cases have none.",
            "Give some positive validation cases a mask; thresholds are frozen on them.",
        )


def _write_json(path: Path, content: Any) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)
