"""What the Gaussian decoder's numbers mean: raw outputs to stored parameters to Gaussians (spec/latents.md section 7).

Tensors only. Knows nothing about the network in front of it, about cameras, meshes or textures.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from scenegen.generator.latents.fields import Gaussians
from scenegen.scene import InvalidInput

SH_DEGREE_0 = 0.28209479177387814
"""The constant spherical harmonic."""

_PUBLISHED_GAINS = {"_xyz": 1.0, "_features_dc": 1.0, "_scaling": 1.0, "_rotation": 0.1, "_opacity": 1.0}


@dataclass(frozen=True)
class GaussianRepresentation:
    """How a voxel's outputs describe its Gaussians; the defaults are the published ones.

    per_voxel: Gaussians of a voxel. voxel_size: width of the box they may lie in, in voxels. perturb_offset: whether
    their offsets start spread over that box. gains: what an attribute's outputs are multiplied with. smallest_scale:
    added to every scale in quadrature. scaling_bias, opacity_bias: scale and opacity that zero stands for.
    """

    per_voxel: int = 32
    voxel_size: float = 1.5
    perturb_offset: bool = True
    gains: Mapping[str, float] = field(default_factory=lambda: dict(_PUBLISHED_GAINS))
    smallest_scale: float = 9e-4
    scaling_bias: float = 4e-3
    opacity_bias: float = 0.1
    scaling_activation: Literal["softplus", "exp"] = "softplus"

    @staticmethod
    def from_config(config: Mapping[str, Any]) -> GaussianRepresentation:
        """From the published ``representation_config``. InvalidInput on a scaling activation that does not exist."""
        if config["scaling_activation"] not in ("softplus", "exp"):
            raise InvalidInput(
                f"scaling_activation is '{config['scaling_activation']}', 'softplus' or 'exp' is expected: "
                "the config does not belong to this kind of model"
            )
        return GaussianRepresentation(
            per_voxel=config["num_gaussians"],
            voxel_size=config["voxel_size"],
            perturb_offset=config["perturb_offset"],
            gains=config["lr"],
            smallest_scale=config["3d_filter_kernel_size"],
            scaling_bias=config["scaling_bias"],
            opacity_bias=config["opacity_bias"],
            scaling_activation=config["scaling_activation"],
        )

    @property
    def channels(self) -> int:
        """Outputs per voxel: of every Gaussian offset 3, colour 3, scale 3, rotation 4, opacity 1."""
        return 14 * self.per_voxel

    @property
    def scale_at_zero(self) -> float:
        """What is added to an output before the scaling activation."""
        return math.log(math.expm1(self.scaling_bias) if self.scaling_activation == "softplus" else self.scaling_bias)


@dataclass(frozen=True)
class StoredGaussians:
    """Parameters of G Gaussians before the activations. positions: [G, 3] in the box [0, 1]^3. features_dc: [G, 1, 3].

    scaling: [G, 3]. rotation: [G, 4]. opacity: [G, 1].
    """

    positions: Tensor
    features_dc: Tensor
    scaling: Tensor
    rotation: Tensor
    opacity: Tensor


def radical_inverse(numbers: Tensor, base: int) -> Tensor:
    """Digits of integers [n] mirrored at the point: float64 [n] in [0, 1)."""
    rest, result, unit = numbers.to(torch.int64), torch.zeros(numbers.shape, dtype=torch.float64), 1.0
    while bool((rest > 0).any()):
        unit /= base
        result += unit * (rest % base)
        rest = rest // base
    return result


def offset_perturbation(per_voxel: int, voxel_size: float) -> Tensor:
    """Offsets float32 [per_voxel, 3] before tanh that spread a voxel's Gaussians over it (Hammersley points)."""
    number = torch.arange(per_voxel)
    points = [number.double() / per_voxel, radical_inverse(number, 2), radical_inverse(number, 3)]
    return torch.atanh((2 * torch.stack(points, dim=1) - 1) / voxel_size).float()


def unpack_gaussians(
    raw: Tensor, coords: Tensor, resolution: int, representation: GaussianRepresentation, perturbation: Tensor
) -> StoredGaussians:
    """Parameters of the G = N * per_voxel Gaussians of one asset, voxel by voxel.

    raw: decoder outputs [N, 14 * per_voxel]. coords: int [N, 3] of the voxels, 0..resolution - 1. perturbation: the
    decoder's buffer [per_voxel, 3].
    """
    of = representation
    n, g = len(raw), of.per_voxel
    offsets, features, scaling, rotation, opacity = raw.split([3 * g, 3 * g, 3 * g, 4 * g, g], dim=1)
    offsets = offsets.reshape(n, g, 3) * of.gains["_xyz"]
    if of.perturb_offset:
        offsets = offsets + perturbation
    centres = (coords.to(raw.dtype)[:, None] + 0.5) / resolution
    positions = centres + torch.tanh(offsets) * (0.5 * of.voxel_size / resolution)
    return StoredGaussians(
        positions.reshape(-1, 3),
        (features * of.gains["_features_dc"]).reshape(-1, 1, 3),
        (scaling * of.gains["_scaling"]).reshape(-1, 3),
        (rotation * of.gains["_rotation"]).reshape(-1, 4),
        (opacity * of.gains["_opacity"]).reshape(-1, 1),
    )


def activate_gaussians(stored: StoredGaussians, representation: GaussianRepresentation) -> Gaussians:
    """Gaussians in the asset's frame from their stored parameters."""
    of = representation
    size = stored.scaling + of.scale_at_zero
    size = functional.softplus(size) if of.scaling_activation == "softplus" else torch.exp(size)
    identity = stored.rotation.new_tensor([1.0, 0.0, 0.0, 0.0])
    logit = math.log(of.opacity_bias / (1 - of.opacity_bias))
    return Gaussians(
        positions=stored.positions - 0.5,
        colours=(SH_DEGREE_0 * stored.features_dc[:, 0] + 0.5).clamp_min(0.0),
        scales=torch.sqrt(size.square() + of.smallest_scale**2),
        rotations=functional.normalize(stored.rotation + identity, dim=-1),
        opacities=torch.sigmoid(stored.opacity + logit)[:, 0],
    )


def rotation_matrices(quaternions_wxyz: Tensor) -> Tensor:
    """[..., 3, 3] of unit quaternions [..., 4]."""
    w, x, y, z = quaternions_wxyz.unbind(-1)
    rows = [
        torch.stack([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)], dim=-1),
        torch.stack([2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)], dim=-1),
        torch.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], dim=-1),
    ]
    return torch.stack(rows, dim=-2)


def covariances(gaussians: Gaussians) -> Tensor:
    """(R S)(R S)^T of every Gaussian, [G, 3, 3]."""
    axes = rotation_matrices(gaussians.rotations) * gaussians.scales[:, None, :]
    return axes @ axes.transpose(-1, -2)
