"""Occupied voxels of a sparse structure as coordinates (spec/structure.md section 4).

Knows nothing about networks. Coordinates are array indices in the z-up asset frame.
"""

from __future__ import annotations

import torch
from torch import Tensor

from scenegen.scene import Floats


def occupied_voxels(logits: Tensor) -> Tensor:
    """Voxels whose occupancy logit is above 0, sorted by asset, then i, j, k.

    logits: [N, 1, R, R, R] -> int32 [M, 4] rows (asset, i, j, k).
    """
    return torch.argwhere(logits[:, 0] > 0).int()


def voxel_positions(coords: Tensor, resolution: int = 64) -> Tensor:
    """Corner of each voxel in its asset's unit cube, z-up, [-0.5, 0.5): int32 [M, 4] -> float32 [M, 3]."""
    return coords[:, 1:].float() / resolution - 0.5


def occupied_box(coords: Tensor, resolution: int) -> Floats:
    """Lowest and highest corner of an asset's voxels in its unit cube, z-up: int [M, 4] -> float64 [2, 3]."""
    corners = torch.stack([coords[:, 1:].amin(0), coords[:, 1:].amax(0) + 1]).double()
    box: Floats = (corners / resolution - 0.5).cpu().numpy()
    return box
