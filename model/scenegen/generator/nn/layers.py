"""Feed-forward, time and position embeddings, adaptive layer norm (spec/structure.md sections 1 and 2).

Knows nothing about assets or scenes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class MLP(nn.Module):
    """Linear, GELU (tanh approximation), Linear."""

    def __init__(self, channels: int, ratio: float) -> None:
        super().__init__()
        hidden = int(channels * ratio)
        self.mlp = nn.Sequential(nn.Linear(channels, hidden), nn.GELU("tanh"), nn.Linear(hidden, channels))

    def forward(self, x: Tensor) -> Tensor:
        """x: [..., C] -> [..., C]."""
        return self.mlp(x)


class TimestepEmbedder(nn.Module):
    """Sinusoids of the time (cosines first), then a two-layer network."""

    FREQUENCIES = 128

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(2 * self.FREQUENCIES, channels), nn.SiLU(), nn.Linear(channels, channels))

    def forward(self, t: Tensor) -> Tensor:
        """t: [B], 1000 x flow time -> float32 [B, C]."""
        steps = torch.arange(self.FREQUENCIES, dtype=torch.float32, device=t.device)
        angles = t.float()[:, None] * torch.exp(-math.log(10000.0) / self.FREQUENCIES * steps)
        return self.mlp(torch.cat([angles.cos(), angles.sin()], dim=-1))


def position_embedding(coords: Tensor, channels: int) -> Tensor:
    """Sinusoids of 3-D coordinates: per axis sines then cosines, padded with zeros to ``channels``.

    coords: [L, 3] -> float32 [L, channels].
    """
    count = channels // 3 // 2
    frequencies = 1.0 / 10000 ** (torch.arange(count, dtype=torch.float32, device=coords.device) / count)
    angles = coords.float()[:, :, None] * frequencies
    embedding = torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(1)
    return nn.functional.pad(embedding, (0, channels - embedding.shape[1]))


def modulation(channels: int, chunks: int) -> nn.Sequential:
    """The network of an adaptive layer norm: SiLU, Linear to ``chunks`` vectors (its parameters are named ``1.*``)."""
    return nn.Sequential(nn.SiLU(), nn.Linear(channels, chunks * channels))


def modulate(h: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Return h * (1 + scale) + shift: [B, L, C] with [B or 1, 1, C]."""
    return h * (1 + scale) + shift
