"""Blocks of sparse convolutions (spec/latents.md sections 1.5, 4.1 and 6).

Parameter names are those of the published checkpoints. Knows nothing about latents or what they decode to.
"""

from __future__ import annotations

from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scenegen.generator.nn.layers import modulate
from scenegen.generator.nn.norms import LayerNorm32
from scenegen.generator.nn.sparse import Voxels
from scenegen.generator.nn.sparse_conv import SparseConv3d


class SparseGroupNorm32(nn.GroupNorm):
    """Group norm over all rows of a sample, in float32, result in the dtype of the input."""

    def forward(self, x: Tensor, voxels: Voxels) -> Tensor:  # type: ignore[override]
        """x: [N, C] -> [N, C]."""
        return torch.cat([self._normalised(rows) for rows in voxels.split(x)])

    def _normalised(self, x: Tensor) -> Tensor:
        if not len(x):
            return x
        # Channel by channel first, which is the fast way through rows; then the statistics go into the affine weights,
        # so that one multiplication and one addition per value are left.
        of_channel = x.float().mean(0)
        deviation = (x - of_channel).square().mean(0).unflatten(0, (self.num_groups, -1))
        of_channel = of_channel.unflatten(0, (self.num_groups, -1))
        mean = of_channel.mean(1)
        variance = (deviation + (of_channel - mean[:, None]).square()).mean(1)
        scale = self.weight.unflatten(0, (self.num_groups, -1)) * torch.rsqrt(variance + self.eps)[:, None]
        shift = self.bias.unflatten(0, (self.num_groups, -1)) - mean[:, None] * scale
        return torch.addcmul(shift.flatten(), x.float(), scale.flatten()).to(x.dtype)


class SparseResBlock3d(nn.Module):
    """Two convolutions modulated by an embedding, after halving or doubling the resolution if so wanted."""

    def __init__(
        self,
        channels: int,
        emb_channels: int,
        out_channels: int | None = None,
        resample: Literal["down", "up"] | None = None,
    ) -> None:
        super().__init__()
        out_channels = out_channels or channels
        self.resample = resample
        self.norm1 = LayerNorm32(channels, eps=1e-6)
        self.norm2 = LayerNorm32(out_channels, eps=1e-6, elementwise_affine=False)
        self.conv1 = SparseConv3d(channels, out_channels)
        self.conv2 = SparseConv3d(out_channels, out_channels)
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(emb_channels, 2 * out_channels))
        self.skip_connection = nn.Linear(channels, out_channels) if channels != out_channels else nn.Identity()
        _zero(self.conv2)

    def forward(self, x: Tensor, voxels: Voxels, emb: Tensor) -> Tensor:
        """x: [N, C] -> rows of the voxels, or of their parents when it goes down.

        voxels: those of x, or the ones to arrive at when it goes up. emb: [B or 1, emb].
        """
        pooling = voxels.coarser if self.resample else None
        if self.resample == "down" and pooling is not None:
            x, voxels = pooling.down(x), pooling.coarse
        upwards = pooling if self.resample == "up" else None
        h = F.silu(self.norm1(x))
        h = self.conv1(h, voxels) if upwards is None else self.conv1.on_upsampled(h, upwards)
        scale, shift = voxels.rows(self.emb_layers(emb)).chunk(2, dim=1)
        h = self.conv2(F.silu(modulate(self.norm2(h), shift, scale)), voxels)
        skip = self.skip_connection(x)
        return h + (skip if upwards is None else upwards.up(skip))


class SparseSubdivideBlock3d(nn.Module):
    """Eight children for every voxel, then two convolutions."""

    def __init__(self, channels: int, out_channels: int | None = None, num_groups: int = 32) -> None:
        super().__init__()
        out_channels = out_channels or channels
        self.act_layers = nn.Sequential(SparseGroupNorm32(num_groups, channels), nn.SiLU())
        self.out_layers = nn.Sequential(
            SparseConv3d(channels, out_channels),
            SparseGroupNorm32(num_groups, out_channels),
            nn.SiLU(),
            SparseConv3d(out_channels, out_channels),
        )
        self.skip_connection = SparseConv3d(channels, out_channels, 1) if channels != out_channels else None
        _zero(cast(SparseConv3d, self.out_layers[3]))

    def forward(self, x: Tensor, voxels: Voxels) -> Tensor:
        """x: [N, C] -> [8 N, out], rows of ``voxels.subdivided``."""
        norm, act = self.act_layers
        widen, inner_norm, inner_act, refine = self.out_layers
        children = voxels.subdivided
        h = cast(SparseConv3d, widen).on_subdivided(act(norm(x, voxels)), voxels)
        h = cast(SparseConv3d, refine).on_children(inner_act(inner_norm(h, children)), voxels)
        # Children are copies of their parent: what acts on each alone is done before there are eight of them.
        skip = x if self.skip_connection is None else self.skip_connection(x, voxels)
        return (h.unflatten(0, (-1, 8)) + skip[:, None]).flatten(0, 1)


def _zero(conv: SparseConv3d) -> None:
    """Training starts from the skip connection alone."""
    nn.init.zeros_(conv.conv.weight)
    nn.init.zeros_(conv.conv.bias)
