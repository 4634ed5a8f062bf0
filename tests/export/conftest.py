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
    """The bundle `onfh export` makes of ``checkpoints``; tests must not write to it."""
    import argparse

    from onfh_export.cli import export

    out = tmp_path_factory.mktemp("out") / "bundle"
    parser = argparse.ArgumentParser()
    export.add_arguments(parser)
    arguments = [f"--{stage}={checkpoints / stage}" for stage in ("classifier", "segmenter")]
    assert export.run(parser.parse_args([*arguments, f"--config={checkpoints / 'config.json'}", f"--out={out}"])) == 0
    return out
