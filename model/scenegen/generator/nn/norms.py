"""Normalisations computed in float32 whatever the stream's precision (spec/structure.md section 1).

Knows nothing about where they are used. Affine weights stay float32 in half-precision models.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LayerNorm32(nn.LayerNorm):
    """Layer norm over the last dimension in float32, result in the dtype of the input."""

    def forward(self, x: Tensor) -> Tensor:
        """x: [..., C] -> [..., C]."""
        return super().forward(x.float()).to(x.dtype)


class ChannelLayerNorm32(LayerNorm32):
    """Layer norm over the channel dimension of a volume, eps 1e-5."""

    def forward(self, x: Tensor) -> Tensor:
        """x: [B, C, D, H, W] -> the same shape."""
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class GroupNorm32(nn.GroupNorm):
    """Group norm in float32, result in the dtype of the input."""

    def forward(self, x: Tensor) -> Tensor:
        """x: [B, C, ...] -> the same shape."""
        return super().forward(x.float()).to(x.dtype)


class HeadRMSNorm(nn.Module):
    """Scales each head's query or key to length sqrt(head_dim) times a learned ``gamma`` [H, head_dim]."""

    def __init__(self, heads: int, head_dim: int) -> None:
        super().__init__()
        self.scale = head_dim**0.5
        self.gamma = nn.Parameter(torch.ones(heads, head_dim))

    def forward(self, x: Tensor) -> Tensor:
        """x: [B, L, H, head_dim] -> the same shape and dtype."""
        return (F.normalize(x.float(), dim=-1) * (self.gamma * self.scale)).to(x.dtype)
