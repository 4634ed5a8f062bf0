"""Checkpoints and configuration as a training leaves them, with weights that were never trained."""

import json

import pytest

from onfh_export.recipe import smoke_recipe


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory):
    """Folder with classifier/, segmenter/ (both the smoke shape) and config.json."""
    import torch

    from onfh_export.assess import Thresholds
    from onfh_export.networks import save_checkpoint, segmenter_from_shape, vit_from_shape
    from onfh_export.training import bundle_config

    torch.manual_seed(0)
    recipe = smoke_recipe()
    root = tmp_path_factory.mktemp("checkpoints")
    save_checkpoint(vit_from_shape(recipe.classifier, recipe.size), root / "classifier")
    save_checkpoint(segmenter_from_shape(recipe.segmenter, recipe.size), root / "segmenter")
    (root / "cases.csv").write_text("")
    thresholds = Thresholds(0.2, 0.4, 3, 0.5, 0.5, 50.0)
    config = bundle_config(recipe, thresholds, name="test", phantoms=True, data=root)
    (root / "config.json").write_text(json.dumps(config))
    return root


@pytest.fixture(scope="session")
def bundle(checkpoints, tmp_path_factory):
    """The bundle `onfh export` makes of ``checkpoints`` on two phantoms; tests must not write to it."""
    import argparse

    from onfh_export.cli import export

    out = tmp_path_factory.mktemp("out") / "bundle"
    parser = argparse.ArgumentParser()
    export.add_arguments(parser)
    arguments = [f"--{stage}={checkpoints / stage}" for stage in ("classifier", "segmenter")]
    arguments += [f"--config={checkpoints / 'config.json'}", f"--out={out}", "--phantoms=2"]
    assert export.run(parser.parse_args(arguments)) == 0
    return out


@pytest.fixture(scope="session")
def rules():
    """A bundle's content for inputs of 24 x 40 pixels of 3 mm; the models it names are nowhere."""
    from onfh_runtime.bundle import Bundle

    stage = {
        "architecture": "none",
        "models": {"fp32": "model.onnx"},
        "input_name": "pixel_values",
        "output_name": "logits",
        "activation": "sigmoid",
        "positive_class": 0,
        "input": {
            "size": [24, 40],
            "windows": [{"center": 500, "width": 2000}],
            "mean": [0.0],
            "std": [1.0],
            "min_pixel_spacing_mm": 3.0,
        },
    }
    return Bundle.model_validate(
        {
            "name": "tiny",
            "version": "1",
            "slice_spacing_mm": 3.0,
            "coverage": {"margin_mm": 12.0},
            "classifier": stage,
            "segmenter": stage,
            "gate": {"threshold": 0.3},
            "slice_threshold": 0.5,
            "patient_rule": {"k": 2, "threshold": 0.5},
            "minimum_volume_mm3": 0.0,
            "files": {},
        }
    )


@pytest.fixture(scope="session")
def said(rules):
    """Makes an answer of slice probabilities and, for each slice, the columns outlined in a row of 100 voxels."""
    import numpy as np

    from onfh_export.parity_compare import Said
    from onfh_runtime.findings import patient_probability

    def made(probabilities, outlined=()):
        slices = np.array(probabilities, np.float32)
        mask = np.zeros((len(slices), 1, 100), np.bool_)
        for index, columns in enumerate(outlined):
            mask[index, 0, :columns] = True
        patient = patient_probability(slices, rules.patient_rule)
        positive = patient >= rules.patient_rule.threshold
        reported = mask if positive else np.zeros_like(mask)
        state = "positive" if positive else "negative"
        sides = ("positive" if reported.any() else "negative", "negative")
        called, gated = slices >= rules.slice_threshold, slices >= rules.gate.threshold
        return Said(slices, called, patient, state, sides, reported, gated, mask)

    return made
