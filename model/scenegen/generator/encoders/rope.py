"""Rotary position embedding in two dimensions, for VGGT's alternating attention (spec/vggt.md item 4)."""

from __future__ import annotations

import torch
from torch import Tensor


def rotary_tables(positions: Tensor, head_dim: int, base: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines, each [L, head_dim], for integer positions [L, 2] (row, column).

    The first half of the channels turns with the row, the second with the column.
    """
    half = head_dim // 2
    exponents = torch.arange(0, half, 2, dtype=torch.float32, device=positions.device) / half
    angles = positions.float()[:, :, None] / base**exponents
    angles = torch.cat([angles, angles], dim=-1).flatten(1)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, tables: tuple[Tensor, Tensor]) -> Tensor:
    """Turn queries or keys [B, heads, L, head_dim] by their tokens' positions; channels i and i + quarter pair up."""
    cosines, sines = (table.to(x.dtype) for table in tables)
    quarters = x.unflatten(-1, (2, 2, -1))
    turned = torch.stack([-quarters[..., 1, :], quarters[..., 0, :]], dim=-2).flatten(-3)
    return x * cosines + turned * sines
