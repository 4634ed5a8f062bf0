"""Swin-Unet, a segmenter made of Swin blocks only (Cao et al. 2021, arXiv 2105.05537), in a form that exports cleanly.

Weights have the names the authors' code gives them, so a checkpoint of theirs, saved as safetensors, loads as it is.
What only a training needs (dropout, stochastic depth) is left out; neither has weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from onfh_runtime.errors import UsageError

__all__ = ["swin_unet"]

_PATCH = 4
"""Pixels a token covers, and the factor of the last expansion."""
_MASKED = -100.0
"""Added to the score of two tokens that a shifted window brings together from different sides of the image."""
_TABLES = ("relative_position_index", "attn_mask")
"""Buffers in the authors' checkpoints that follow from the shape and are computed here."""


def swin_unet(
    *,
    image_size: Sequence[int] = (224, 224),
    channels: int = 3,
    classes: int = 2,
    embed_dim: int = 96,
    depths: Sequence[int] = (2, 2, 2, 2),
    decoder_depths: Sequence[int] | None = None,
    heads: Sequence[int] = (3, 6, 12, 24),
    window: int = 7,
    mlp_ratio: float = 4.0,
) -> nn.Module:
    """A Swin-Unet with fresh weights: (N, channels, H, W) float32 -> logits (N, classes, H, W).

    Args:
        image_size: (H, W) in pixels; fixed, because position tables and masks are.
        channels: of the input. The authors' checkpoints take 3.
        classes: channels of the output.
        embed_dim: width of a token at the finest level, doubled at each coarser one.
        depths: Swin blocks at each level of the encoder, finest first; the last is the bottleneck.
        decoder_depths: Swin blocks at each level of the decoder, coarsest first; the encoder's, mirrored, when None.
        heads: attention heads at each level, finest first, in both halves.
        window: side of an attention window in tokens; cut to the shorter side of a map that is smaller, as the authors
            do, and then windows are not shifted.
        mlp_ratio: hidden width of a block's MLP over its width.

    Raises:
        UsageError: ``size_unsupported`` for a size that patches, levels or windows do not divide, ``shape_invalid``
            for lists that do not fit one another.
    """
    decoder_depths = tuple(reversed(depths))[1:] if decoder_depths is None else tuple(decoder_depths)
    if not len(depths) == len(heads) == len(decoder_depths) + 1:
        raise UsageError(
            "shape_invalid",
            f"A Swin-Unet with {len(depths)} depths takes as many heads and one fewer decoder_depths; there are "
            f"{len(heads)} and {len(decoder_depths)}.",
        )
    if any(embed_dim * 2**level % count for level, count in enumerate(heads)):
        raise UsageError("shape_invalid", f"The heads {tuple(heads)} do not divide widths of {embed_dim}, doubled.")
    height, width = image_size
    return _SwinUnet(
        _levels(height, width, len(depths), window), channels, classes, embed_dim, depths, decoder_depths, heads,
        window, mlp_ratio,
    )  # fmt: skip


def _levels(height: int, width: int, count: int, window: int) -> list[tuple[int, int]]:
    """(rows, columns) of tokens at each level, finest first."""
    levels = [(height // (_PATCH << level), width // (_PATCH << level)) for level in range(count)]
    coarsest = _PATCH << (count - 1)
    fits = height % coarsest == width % coarsest == 0 and min(height, width) > 0
    if not fits or any(side % min(window, *level) for level in levels for side in level):
        raise UsageError(
            "size_unsupported",
            f"A Swin-Unet of {count} levels with windows of {window} cannot take images of {height} x {width}.",
            f"Use sides that are multiples of {coarsest * window}.",
        )
    return levels


class _Attention(nn.Module):
    """Attention within windows, with a learned bias for each relative position.

    ``mask``, when given, is (windows, 1, tokens, tokens), and consecutive rows of the input are the windows of one
    image. Windows then count as heads: attention stays a product of 4-D tensors with one constant added.
    """

    relative_position_index: Tensor
    mask: Tensor | None

    def __init__(self, dim: int, heads: int, window: int, mask: Tensor | None) -> None:
        super().__init__()
        self.heads = heads
        self.windows = 1 if mask is None else len(mask)
        self.scale = (dim // heads) ** -0.5
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.qkv = nn.Linear(dim, dim * 3)
        self.proj = nn.Linear(dim, dim)
        self.register_buffer("relative_position_index", _relative_positions(window), persistent=False)
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        _, count, dim = tokens.shape
        split = self.qkv(tokens).reshape(-1, count, 3, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4)
        query, key, value = split.reshape(3, -1, self.windows * self.heads, count, dim // self.heads).unbind(0)
        scores = (query * self.scale) @ key.transpose(-2, -1) + self._bias(count)
        mixed = scores.softmax(-1) @ value
        joined = mixed.reshape(-1, self.heads, count, dim // self.heads).transpose(1, 2).reshape(-1, count, dim)
        projected: Tensor = self.proj(joined)
        return projected

    def _bias(self, count: int) -> Tensor:
        """(1, windows x heads, tokens, tokens); follows from weights alone, so export folds it into a constant."""
        bias = self.relative_position_bias_table[self.relative_position_index.flatten()]
        bias = bias.reshape(count, count, self.heads).permute(2, 0, 1)[None]
        return bias if self.mask is None else (bias + self.mask).reshape(1, -1, count, count)


class _Mlp(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        mixed: Tensor = self.fc2(self.act(self.fc1(tokens)))
        return mixed


class _Block(nn.Module):
    """One Swin block on a map (N, rows, columns, dim); ``shifted`` moves its windows by half of one."""

    def __init__(
        self, dim: int, size: tuple[int, int], heads: int, window: int, shifted: bool, mlp_ratio: float
    ) -> None:
        super().__init__()
        self.size = size
        self.window = min(window, *size)
        self.shift = self.window // 2 if shifted and min(size) > window else 0
        self.norm1 = nn.LayerNorm(dim)
        self.attn = _Attention(dim, heads, self.window, _shift_mask(size, self.window, self.shift))
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = _Mlp(dim, int(dim * mlp_ratio))

    def forward(self, tokens: Tensor) -> Tensor:
        (rows, columns), side, dim = self.size, self.window, tokens.shape[-1]
        attended = self.attn(_windows(_rolled(self.norm1(tokens), self.shift), side))
        grid = attended.reshape(-1, rows // side, columns // side, side, side, dim)
        whole = grid.permute(0, 1, 3, 2, 4, 5).reshape(-1, rows, columns, dim)
        tokens = tokens + _rolled(whole, -self.shift)
        mixed: Tensor = self.mlp(self.norm2(tokens))
        return tokens + mixed


class _Level(nn.Module):
    """Swin blocks at one level, then the way to the next: ``downsample``, ``upsample`` or neither."""

    def __init__(self, blocks: nn.ModuleList, **leave: nn.Module) -> None:
        super().__init__()
        self.blocks = blocks
        self.leave = next(iter(leave), None)
        for name, module in leave.items():
            self.add_module(name, module)

    def forward(self, tokens: Tensor) -> Tensor:
        for block in self.blocks:
            tokens = block(tokens)
        return tokens if self.leave is None else self.get_submodule(self.leave)(tokens)


class _PatchMerging(nn.Module):
    """(N, H, W, dim) -> (N, H / 2, W / 2, 2 dim)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        _, rows, columns, dim = tokens.shape
        fours = tokens.reshape(-1, rows // 2, 2, columns // 2, 2, dim).permute(0, 1, 3, 4, 2, 5)
        merged: Tensor = self.reduction(self.norm(fours.reshape(-1, rows // 2, columns // 2, 4 * dim)))
        return merged


class _PatchExpand(nn.Module):
    """(N, H, W, dim) -> (N, H factor, W factor, out): a linear layer whose channels become neighbouring tokens."""

    def __init__(self, dim: int, out: int, factor: int) -> None:
        super().__init__()
        self.factor, self.out = factor, out
        self.expand = nn.Linear(dim, factor * factor * out, bias=False)
        self.norm = nn.LayerNorm(out)

    def forward(self, tokens: Tensor) -> Tensor:
        rows, columns, factor = tokens.shape[1], tokens.shape[2], self.factor
        split = self.expand(tokens).reshape(-1, rows, columns, factor, factor, self.out)
        spread = split.permute(0, 1, 3, 2, 4, 5).reshape(-1, rows * factor, columns * factor, self.out)
        expanded: Tensor = self.norm(spread)
        return expanded


class _PatchEmbed(nn.Module):
    """(N, C, H, W) -> (N, H / 4, W / 4, dim)."""

    def __init__(self, channels: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, dim, _PATCH, _PATCH)
        self.norm = nn.LayerNorm(dim)

    def forward(self, pixels: Tensor) -> Tensor:
        tokens: Tensor = self.norm(self.proj(pixels).permute(0, 2, 3, 1))
        return tokens


class _SwinUnet(nn.Module):
    def __init__(
        self,
        levels: list[tuple[int, int]],
        channels: int,
        classes: int,
        dim: int,
        depths: Sequence[int],
        decoder_depths: Sequence[int],
        heads: Sequence[int],
        window: int,
        mlp_ratio: float,
    ) -> None:
        super().__init__()
        self.shape = (channels, levels[0][0] * _PATCH, levels[0][1] * _PATCH)
        last = len(levels) - 1
        widths = [dim * 2**level for level in range(last + 1)]

        def blocks(level: int, depth: int) -> nn.ModuleList:
            return nn.ModuleList(
                _Block(widths[level], levels[level], heads[level], window, index % 2 == 1, mlp_ratio)
                for index in range(depth)
            )

        def up(level: int) -> _PatchExpand:
            return _PatchExpand(widths[level], widths[level] // 2, 2)

        self.patch_embed = _PatchEmbed(channels, dim)
        self.layers = nn.ModuleList(
            _Level(blocks(level, depth), **({"downsample": _PatchMerging(widths[level])} if level < last else {}))
            for level, depth in enumerate(depths)
        )
        self.norm = nn.LayerNorm(widths[last])
        self.layers_up = nn.ModuleList([up(last)])
        self.concat_back_dim = nn.ModuleList([nn.Identity()])
        for level, depth in zip(range(last - 1, -1, -1), decoder_depths, strict=True):
            self.layers_up.append(_Level(blocks(level, depth), **({"upsample": up(level)} if level else {})))
            self.concat_back_dim.append(nn.Linear(2 * widths[level], widths[level]))
        self.norm_up = nn.LayerNorm(dim)
        self.up = _PatchExpand(dim, dim, _PATCH)
        self.output = nn.Conv2d(dim, classes, 1, bias=False)
        self.register_load_state_dict_pre_hook(_without_authors_extras)  # type: ignore[no-untyped-call]

    def forward(self, pixel_values: Tensor) -> Tensor:
        if tuple(pixel_values.shape[1:]) != self.shape:
            # Reshapes with a free batch would mix rows rather than fail.
            raise ValueError(f"expected rows of {self.shape}, got {tuple(pixel_values.shape[1:])}")
        tokens = self.patch_embed(pixel_values)
        skips = []
        for layer in self.layers:
            skips.append(tokens)
            tokens = layer(tokens)
        tokens = self.layers_up[0](self.norm(tokens))
        for layer, mix, skip in zip(self.layers_up[1:], self.concat_back_dim[1:], skips[-2::-1], strict=True):
            tokens = layer(mix(torch.cat([tokens, skip], -1)))
        logits: Tensor = self.output(self.up(self.norm_up(tokens)).permute(0, 3, 1, 2))
        return logits


def _without_authors_extras(_: nn.Module, state: dict[str, Any], prefix: str, *__: Any) -> None:
    """Drop the authors' computed buffers and the name of their outer module from a checkpoint that is being loaded."""
    for key in list(state):
        name = key.removeprefix(prefix)
        if key.endswith(_TABLES):
            del state[key]
        elif name.startswith("swin_unet."):
            state[prefix + name.removeprefix("swin_unet.")] = state.pop(key)


def _rolled(tokens: Tensor, shift: int) -> Tensor:
    """Rows and columns rotated towards the origin by ``shift``."""
    for axis in (1, 2) if shift else ():
        by = shift % tokens.shape[axis]
        head, tail = torch.split(tokens, [by, tokens.shape[axis] - by], axis)
        tokens = torch.cat([tail, head], axis)
    return tokens


def _windows(tokens: Tensor, side: int) -> Tensor:
    """(N, H, W, C) -> (N x windows, tokens of a window, C), windows and tokens row by row."""
    _, rows, columns, dim = tokens.shape
    grid = tokens.reshape(-1, rows // side, side, columns // side, side, dim)
    return grid.permute(0, 1, 3, 2, 4, 5).reshape(-1, side * side, dim)


def _relative_positions(side: int) -> Tensor:
    """(tokens, tokens) int64: which row of the bias table belongs to a pair of tokens of one window."""
    axis = torch.arange(side)
    row, column = axis.repeat_interleave(side), axis.repeat(side)
    down, right = row[:, None] - row, column[:, None] - column
    return (down + side - 1) * (2 * side - 1) + right + side - 1


def _shift_mask(size: tuple[int, int], window: int, shift: int) -> Tensor | None:
    """(windows, 1, tokens, tokens) of 0 and -100, or None where nothing is shifted."""
    if not shift:
        return None
    # After the rotation the last rows and columns come from the far side.
    below, right = (torch.arange(length) >= length - shift for length in size)
    parts = below[:, None] * 2 + right * 1
    labels = _windows(parts[None, :, :, None], window)[..., 0]
    apart = labels[:, :, None] != labels[:, None, :]
    return (apart * _MASKED)[:, None]
