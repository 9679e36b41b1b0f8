"""The sparse-structure VAE: 64^3 occupancy <-> 8 x 16^3 latents (spec/structure.md section 4).

Parameter names are those of the published checkpoints. Knows nothing about scenes, views or placements.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, overload

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scenegen.generator.nn.norms import ChannelLayerNorm32, GroupNorm32
from scenegen.generator.nn.precision import halve_weights


def pixel_shuffle_3d(x: Tensor, factor: int = 2) -> Tensor:
    """[B, c*f^3, D, H, W] -> [B, c, D*f, H*f, W*f]; channel c*f^3 + (a*f + b)*f + d goes to offset (a, b, d)."""
    batch, channels, *size = x.shape
    x = x.reshape(batch, channels // factor**3, factor, factor, factor, *size)
    return x.permute(0, 1, 5, 2, 6, 3, 7, 4).reshape(batch, channels // factor**3, *(s * factor for s in size))


class ResBlock(nn.Module):
    """x + conv2(silu(norm2(conv1(silu(norm1(x)))))), conv2 zero at the start of training."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1 = ChannelLayerNorm32(channels)
        self.norm2 = ChannelLayerNorm32(channels)
        self.conv1 = nn.Conv3d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv3d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)
        assert self.conv2.bias is not None
        nn.init.zeros_(self.conv2.bias)

    def forward(self, x: Tensor) -> Tensor:
        """x: [B, C, D, H, W] -> the same shape."""
        h = self.conv1(F.silu(self.norm1(x)))
        return x + self.conv2(F.silu(self.norm2(h)))


class Downsample(nn.Module):
    """Halves each axis with a stride-2 convolution."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(in_channels, out_channels, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """x: [B, in, D, H, W] -> [B, out, D/2, H/2, W/2]."""
        return self.conv(x)


class Upsample(nn.Module):
    """Doubles each axis with a convolution and a 3-D pixel shuffle."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(in_channels, out_channels * 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """x: [B, in, D, H, W] -> [B, out, 2D, 2H, 2W]."""
        return pixel_shuffle_3d(self.conv(x))


def _out_layer(norm_type: str, channels: int, out_channels: int) -> nn.Sequential:
    norm = ChannelLayerNorm32(channels) if norm_type == "layer" else GroupNorm32(32, channels)
    return nn.Sequential(norm, nn.SiLU(), nn.Conv3d(channels, out_channels, 3, padding=1))


def _levels(channels: Sequence[int], num_res_blocks: int, resample: type[Downsample] | type[Upsample]) -> nn.ModuleList:
    blocks = nn.ModuleList()
    for level, width in enumerate(channels):
        blocks.extend(ResBlock(width) for _ in range(num_res_blocks))
        if level + 1 < len(channels):
            blocks.append(resample(width, channels[level + 1]))
    return blocks


def _precision(blocks: nn.ModuleList) -> torch.dtype:
    """That of the convolutions; norms are float32 always."""
    return next(parameter.dtype for parameter in blocks.parameters() if parameter.ndim > 1)


class SparseStructureEncoder(nn.Module):
    """Occupancy grid to the mean (and log variance) of its latent."""

    def __init__(
        self,
        in_channels: int,
        latent_channels: int,
        num_res_blocks: int,
        channels: Sequence[int],
        num_res_blocks_middle: int = 2,
        norm_type: Literal["layer", "group"] = "layer",
        use_fp16: bool = False,
    ) -> None:
        super().__init__()
        self.input_layer = nn.Conv3d(in_channels, channels[0], 3, padding=1)
        self.blocks = _levels(channels, num_res_blocks, Downsample)
        self.middle_block = nn.Sequential(*(ResBlock(channels[-1]) for _ in range(num_res_blocks_middle)))
        self.out_layer = _out_layer(norm_type, channels[-1], latent_channels * 2)
        if use_fp16:
            halve_weights(self.blocks, self.middle_block)

    @overload
    def forward(self, x: Tensor, sample_posterior: bool = ..., return_raw: Literal[False] = ...) -> Tensor: ...

    @overload
    def forward(
        self, x: Tensor, sample_posterior: bool = ..., *, return_raw: Literal[True]
    ) -> tuple[Tensor, Tensor, Tensor]: ...

    def forward(
        self, x: Tensor, sample_posterior: bool = False, return_raw: bool = False
    ) -> Tensor | tuple[Tensor, Tensor, Tensor]:
        """Latent of each grid: the mean, or a draw around it with ``sample_posterior``.

        x: float [B, in, R, R, R] in {0, 1} -> z [B, latent, R', R', R'], or (z, mean, logvar) with ``return_raw``.
        """
        h = self.input_layer(x).to(_precision(self.blocks))
        for block in self.blocks:
            h = block(h)
        mean, logvar = self.out_layer(self.middle_block(h).to(x.dtype)).chunk(2, dim=1)
        z = mean + torch.exp(0.5 * logvar) * torch.randn_like(mean) if sample_posterior else mean
        return (z, mean, logvar) if return_raw else z


class SparseStructureDecoder(nn.Module):
    """Latent to occupancy logits."""

    def __init__(
        self,
        out_channels: int,
        latent_channels: int,
        num_res_blocks: int,
        channels: Sequence[int],
        num_res_blocks_middle: int = 2,
        norm_type: Literal["layer", "group"] = "layer",
        use_fp16: bool = False,
    ) -> None:
        super().__init__()
        self.input_layer = nn.Conv3d(latent_channels, channels[0], 3, padding=1)
        self.middle_block = nn.Sequential(*(ResBlock(channels[0]) for _ in range(num_res_blocks_middle)))
        self.blocks = _levels(channels, num_res_blocks, Upsample)
        self.out_layer = _out_layer(norm_type, channels[-1], out_channels)
        if use_fp16:
            halve_weights(self.blocks, self.middle_block)

    def forward(self, z: Tensor) -> Tensor:
        """z: [B, latent, r, r, r] -> logits [B, out, R, R, R]; a voxel is occupied where its logit is above 0."""
        h = self.input_layer(z).to(_precision(self.blocks))
        h = self.middle_block(h)
        for block in self.blocks:
            h = block(h)
        return self.out_layer(h.to(z.dtype))
