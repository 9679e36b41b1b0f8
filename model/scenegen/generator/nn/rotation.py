"""Rotations as tensors. Quaternions are wxyz."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def rotation_matrices(quaternions: Tensor) -> Tensor:
    """Matrices [N, 3, 3] of quaternions wxyz [N, 4], which are normalised first."""
    w, x, y, z = functional.normalize(quaternions, dim=-1).unbind(-1)
    rows = [
        torch.stack([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)], dim=-1),
        torch.stack([2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)], dim=-1),
        torch.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], dim=-1),
    ]
    return torch.stack(rows, dim=-2)
