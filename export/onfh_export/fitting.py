"""Fitting the two stages: one loop, two losses."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from onfh_export.augment import augmented
from onfh_export.networks import parameter_count, save_checkpoint, segmenter_from_shape, vit_from_shape
from onfh_export.prepare import PreparedCase
from onfh_export.recipe import Fit, Recipe
from onfh_runtime.evaluation import area_under_curve

__all__ = ["Slices", "classifier_from_slices", "probabilities", "segmenter_from_slices", "slices_of"]

_INFERENCE_BATCH = 32
_DICE_SMOOTH = 1.0
"""Pixels added to both sides of the Dice loss: keeps empty slices finite."""


@dataclass(frozen=True)
class Slices:
    """Slices of many cases as tensors; (N, ...) in case order. ``masks`` (N, 1, H, W) uint8, ``positive`` (N,) bool."""

    pixels: Tensor
    masks: Tensor
    positive: NDArray[np.bool_]
    has_mask: NDArray[np.bool_]


def slices_of(cases: list[PreparedCase]) -> Slices:
    """Every slice of ``cases`` that has a label."""
    return Slices(
        torch.from_numpy(np.concatenate([case.pixels[case.known] for case in cases])),
        torch.from_numpy(np.concatenate([case.masks[case.known] for case in cases]))[:, None],
        np.concatenate([case.positive[case.known] for case in cases]),
        np.concatenate([np.full(int(case.known.sum()), case.has_mask) for case in cases]),
    )


@dataclass(frozen=True)
class _Task:
    """What differs between the stages: which slices make an epoch, the loss, the validation figure, where to save."""

    name: str
    metric: str
    order: Callable[[torch.Generator], Tensor]
    loss: Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor]
    score: Callable[[nn.Module], float]
    keep: Callable[[nn.Module], None]


class _WithPatchHead(nn.Module):
    """The classifier and, for training only, a linear head that says of every patch where its necrosis is."""

    network: Any

    def __init__(self, network: nn.Module, cells: int) -> None:
        super().__init__()
        self.network = network
        self.patches = nn.Linear(self.network.config.hidden_size, cells * cells)

    def forward(self, pixels: Tensor, columns: slice = slice(None)) -> tuple[Tensor, Tensor]:
        """Logits and patch logits of the patches in these columns of the patch grid, which alone are computed."""
        vit, patch = self.network.vit, self.network.config.patch_size
        height, width = (side // patch for side in self.network.config.image_size)
        first, last, _ = columns.indices(width)
        tokens = vit.embeddings.patch_embeddings.projection(pixels[..., first * patch : last * patch])
        places = vit.embeddings.position_embeddings
        grid = places[:, 1:].unflatten(1, (height, width))[:, :, columns].flatten(1, 2)
        start = (vit.embeddings.cls_token + places[:, :1]).expand(len(pixels), -1, -1)
        hidden = torch.cat([start, tokens.flatten(2).transpose(1, 2) + grid], dim=1)
        for layer in vit.layers:
            hidden = layer(hidden)
        hidden = vit.layernorm(hidden)
        return self.network.classifier(hidden[:, 0]), self.patches(hidden[:, 1:])


def classifier_from_slices(
    train: Slices, validation: Slices, recipe: Recipe, folder: Path, say: Callable[[str], None]
) -> None:
    """Fit the classifier; the weights with the best validation AUC end up in ``folder``.

    It learns on the left or right part of slices first, whose label follows from the mask: a part costs half of a slice
    and says which side a lesion is on. Then it learns on whole slices.
    """
    torch.manual_seed(recipe.seed)
    shape = recipe.classifier
    model: nn.Module = _WithPatchHead(vit_from_shape(shape, recipe.size), shape.patch_cells)
    labels = torch.from_numpy(train.positive.astype(np.int64))
    has_mask = torch.from_numpy(train.has_mask)
    width = recipe.size[1] // shape.patch_size
    enough = recipe.positive_area_mm2 / recipe.pixel_mm**2
    chance = torch.Generator().manual_seed(recipe.seed)

    def loss_of(
        network: nn.Module, target: Tensor, known: Tensor, pixels: Tensor, masks: Tensor, columns: slice
    ) -> Tensor:
        logits, patches = network(pixels, columns)
        total = functional.cross_entropy(logits.float(), target)
        if recipe.patch_loss_weight and bool(known.any()):
            cells = _cells(masks, shape.patch_size, shape.patch_cells)
            # Few cells hold necrosis: the weight keeps their share of the loss from vanishing.
            each = functional.binary_cross_entropy_with_logits(
                patches.float(), cells, reduction="none", pos_weight=torch.tensor(5.0)
            )
            total = total + recipe.patch_loss_weight * each[known].mean() * 4
        return total

    def whole(network: nn.Module, index: Tensor, pixels: Tensor, masks: Tensor) -> Tensor:
        return loss_of(network, labels[index], has_mask[index], pixels, masks, slice(None))

    def part(network: nn.Module, index: Tensor, pixels: Tensor, masks: Tensor) -> Tensor:
        share = recipe.part_columns
        columns = slice(0, share) if torch.rand(1, generator=chance) < 0.5 else slice(width - share, width)
        seen = masks[..., columns.start * shape.patch_size : columns.stop * shape.patch_size]
        target = (seen.sum(dim=(1, 2, 3)) >= enough).long()
        return loss_of(network, target, has_mask[index], pixels, seen, columns)

    def score(network: nn.Module) -> float:
        found = probabilities(network.network, validation.pixels, autocast=recipe.autocast)  # type: ignore[arg-type]
        # A network that answers NaN has no area, and must not look like a good one.
        area = area_under_curve(found, validation.positive) if np.isfinite(found).all() else None
        return area or 0.0

    everything = torch.arange(len(labels))

    def order(generator: torch.Generator, rows: Tensor = everything) -> Tensor:
        return _epoch(rows[labels[rows] > 0], rows[labels[rows] == 0], recipe.classifier_negatives, generator)

    def keep(network: nn.Module) -> None:
        save_checkpoint(network.network, folder)  # type: ignore[arg-type]

    masked = everything[has_mask]
    if len(masked) and recipe.fit_classifier_parts.epochs:
        parts = _Task("classifier on parts", "AUC", lambda generator: order(generator, masked), part, score, keep)
        model = _fit(parts, model, train, recipe.fit_classifier_parts, recipe, say)
    _fit(_Task("classifier", "AUC", order, whole, score, keep), model, train, recipe.fit_classifier, recipe, say)


def segmenter_from_slices(
    train: Slices, validation: Slices, recipe: Recipe, folder: Path, say: Callable[[str], None]
) -> None:
    """Fit the segmenter on positive slices and some negatives; the best validation Dice ends up in ``folder``."""
    torch.manual_seed(recipe.seed + 1)
    model = segmenter_from_shape(recipe.segmenter, recipe.size)
    positive = torch.from_numpy(np.flatnonzero(train.positive & train.has_mask))
    negative = torch.from_numpy(np.flatnonzero(~train.positive & train.has_mask))

    def order(generator: torch.Generator) -> Tensor:
        return _epoch(positive, negative, recipe.segmenter_negatives, generator)

    def loss(network: nn.Module, index: Tensor, pixels: Tensor, masks: Tensor) -> Tensor:
        logits = network(pixel_values=pixels).logits.float()
        logit = (logits[:, 1:] - logits[:, :1]).flatten(1)
        target = masks.flatten(1)
        found = logit.sigmoid()
        overlap = 2 * (found * target).sum(1) + _DICE_SMOOTH
        size = found.sum(1) + target.sum(1) + _DICE_SMOOTH
        cross = functional.binary_cross_entropy_with_logits(logit, target, pos_weight=torch.tensor(3.0))
        total: Tensor = (1 - overlap / size).mean() + 5 * cross
        return total

    rows = np.flatnonzero(validation.positive & validation.has_mask)
    pixels, truth = validation.pixels[rows], validation.masks[rows, 0].numpy() > 0

    def score(network: nn.Module) -> float:
        found = probabilities(network, pixels, autocast=recipe.autocast) >= 0.5
        overlap, size = (found & truth).sum(axis=(1, 2)), found.sum(axis=(1, 2)) + truth.sum(axis=(1, 2))
        return float(np.mean(2 * overlap / np.maximum(size, 1)))

    def keep(network: nn.Module) -> None:
        save_checkpoint(network, folder)

    _fit(_Task("segmenter", "Dice", order, loss, score, keep), model, train, recipe.fit_segmenter, recipe, say)


def probabilities(network: nn.Module, pixels: Tensor, *, autocast: bool = False) -> NDArray[np.float32]:
    """Probability of class 1: (N,) from a classifier, (N, H, W) from a segmenter. ``pixels`` (N, C, H, W)."""
    network.eval()
    parts = []
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        for batch in torch.split(pixels, _INFERENCE_BATCH):
            logits = network(pixel_values=batch.float()).logits
            parts.append(logits.float().softmax(1)[:, 1].numpy())
    return np.concatenate(parts)


def _fit(
    task: _Task, model: nn.Module, train: Slices, fit: Fit, recipe: Recipe, say: Callable[[str], None]
) -> nn.Module:
    """Fit a model and return its averaged weights; the best on validation were kept on the way."""
    generator = torch.Generator().manual_seed(recipe.seed)
    optimizers = _optimizers(model, fit)
    steps = fit.epochs * math.ceil(len(task.order(torch.Generator().manual_seed(0))) / fit.batch_size)
    schedules = [
        torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps, fit.warmup))
        for optimizer in optimizers
    ]
    smooth = get_ema_multi_avg_fn(fit.average_decay)  # type: ignore[no-untyped-call]
    average = AveragedModel(model, multi_avg_fn=smooth, use_buffers=True)
    say(f"{task.name}: {parameter_count(model)} weights, {len(train.pixels)} slices, {steps} steps")
    best, start = -1.0, time.monotonic()
    for epoch in range(1, fit.epochs + 1):
        model.train()
        total, seen = 0.0, 0
        for index in _batches(task.order(generator), fit.batch_size):
            pixels, masks = augmented(train.pixels[index].float(), train.masks[index].float(), generator)
            with torch.autocast("cpu", torch.bfloat16, enabled=recipe.autocast):
                value = task.loss(model, index, pixels, masks)
            model.zero_grad()
            value.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.parameters(), fit.clip_norm)
            for optimizer in optimizers:
                optimizer.step()
            for schedule in schedules:
                schedule.step()
            average.update_parameters(model)
            total, seen = total + float(value.detach()) * len(index), seen + len(index)
        figure = task.score(average.module)
        if figure >= best:
            best = figure
            task.keep(average.module)
        spent = time.monotonic() - start
        say(
            f"{task.name}: epoch {epoch}/{fit.epochs}, loss {total / seen:.4f}, validation {task.metric} {figure:.4f}, "
            f"{seen * epoch / spent:.0f} slices/s, {spent / epoch * (fit.epochs - epoch) / 60:.1f} min left"
        )
    averaged: nn.Module = average.module
    return averaged


def _epoch(positive: Tensor, negative: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Every positive slice and ``share`` times as many negatives, drawn anew, in a new order."""
    count = min(len(negative), round(len(positive) * share))
    chosen = torch.cat([positive, negative[torch.randperm(len(negative), generator=generator)[:count]]])
    return chosen[torch.randperm(len(chosen), generator=generator)]


def _batches(order: Tensor, size: int) -> Iterator[Tensor]:
    # A last batch of one slice would have no variance for batch normalisation.
    for batch in torch.split(order, size):
        if len(batch) > 1:
            yield batch


def _optimizers(model: nn.Module, fit: Fit) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the blocks, AdamW for all else; only matrices and kernels decay.

    Muon (Jordan 2024, with the scaling of Liu et al. 2025, arXiv 2502.16982) needs about half the steps of AdamW.
    """
    parameters = [(name, value) for name, value in model.named_parameters() if value.requires_grad]
    inner = [v for n, v in parameters if v.ndim == 2 and ".layer" in n and "relative_position" not in n]
    taken = {id(value) for value in inner}
    plain = [v for n, v in parameters if v.ndim < 2 or "position" in n or "cls_token" in n]
    kept = taken | {id(value) for value in plain}
    groups = [
        {"params": [value for _, value in parameters if id(value) not in kept], "weight_decay": fit.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    return [
        torch.optim.Muon(inner, lr=fit.learning_rate, weight_decay=fit.weight_decay, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(groups, lr=fit.learning_rate),
    ]


def _rate(step: int, steps: int, warmup: float) -> float:
    ramp = max(1, round(steps * warmup))
    if step < ramp:
        return (step + 1) / ramp
    return 0.5 * (1 + math.cos(math.pi * (step - ramp) / max(1, steps - ramp)))


def _cells(masks: Tensor, patch: int, cells: int) -> Tensor:
    """(N, 1, H, W) masks -> (N, patches, cells * cells) float32, 1 where a cell of a patch holds necrosis."""
    held = functional.max_pool2d(masks, patch // cells)
    parts = functional.unfold(held, cells, stride=cells)
    return (parts > 0.5).float().transpose(1, 2)
