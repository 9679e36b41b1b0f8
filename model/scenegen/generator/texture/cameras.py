"""Cameras all around an asset: a spherical Hammersley set (spec/latents.md section 10).

Knows nothing about what is looked at. Camera axes are OpenCV's (x right, y down, z forward); image coordinates are
normalised (0..1 across the image).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from scenegen.generator.hammersley import hammersley_sphere

DISTANCE = 2.0
"""Of every camera from the middle of the asset's unit box."""
FIELD_OF_VIEW = math.radians(40.0)


def hammersley_cameras(count: int) -> Tensor:
    """T_camera_asset float32 [count, 4, 4] of cameras that look at the middle of the box, z up in the image.

    At the pole, where up has no direction, the first camera's roll is that of the published code: it is left to
    rounding in float32.
    """
    yaw, pitch = torch.from_numpy(hammersley_sphere(count)).float().unbind(1)
    eye = DISTANCE * torch.stack([yaw.sin() * pitch.cos(), yaw.cos() * pitch.cos(), pitch.sin()], dim=1)
    forward = torch.nn.functional.normalize(-eye, dim=1)
    down = torch.tensor([0.0, 0.0, -1.0]).expand_as(forward)
    right = torch.nn.functional.normalize(torch.linalg.cross(down, forward), dim=1)
    T = torch.eye(4).repeat(count, 1, 1)
    T[:, :3, :3] = torch.stack([right, torch.linalg.cross(forward, right), forward], dim=1)
    T[:, :3, 3] = -(T[:, :3, :3] @ eye[:, :, None])[:, :, 0]
    return T


def normalised_intrinsics() -> Tensor:
    """float32 [3, 3] of these cameras, for image coordinates 0..1."""
    focal = 0.5 / math.tan(FIELD_OF_VIEW / 2)
    return torch.tensor([[focal, 0.0, 0.5], [0.0, focal, 0.5], [0.0, 0.0, 1.0]])
