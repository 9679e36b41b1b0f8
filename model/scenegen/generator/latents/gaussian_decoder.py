"""Structured latents to Gaussians (spec/latents.md sections 6 and 7).

Knows nothing about rendering or textures.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scenegen.generator.hammersley import hammersley_cube
from scenegen.generator.latents.fields import Gaussians
from scenegen.generator.latents.transformer import SparseTransformer
from scenegen.generator.nn.sparse import Voxels
from scenegen.scene import InvalidInput

SH_DEGREE_0 = 0.28209479177387814
"""The constant spherical harmonic."""


class GaussianParameters(NamedTuple):
    """Gaussians before activation: positions [G, 3] in the unit box from 0 to 1, the others as the network scales them.

    features_dc: [G, 1, 3]. scaling: [G, 3]. rotation: [G, 4]. opacity: [G, 1].
    """

    positions: Tensor
    features_dc: Tensor
    scaling: Tensor
    rotation: Tensor
    opacity: Tensor


class SLatGaussianDecoder(SparseTransformer):
    """Some Gaussians per voxel. Args as in the published config files; those not named are the transformer's."""

    offset_perturbation: Tensor

    def __init__(
        self,
        resolution: int,
        model_channels: int,
        latent_channels: int,
        representation_config: Mapping[str, Any],
        **transformer: Any,
    ) -> None:
        super().__init__(latent_channels, model_channels, **transformer)
        self.resolution = resolution
        self.config = dict(representation_config)
        if self.config["scaling_activation"] not in ("softplus", "exp"):
            raise InvalidInput(
                f"Gaussian decoder config: scaling_activation {self.config['scaling_activation']!r} is unknown; known "
                "are 'softplus' and 'exp'"
            )
        self.gaussians_per_voxel = int(self.config["num_gaussians"])
        self.out_layer = nn.Linear(model_channels, self.gaussians_per_voxel * 14)
        spread = torch.from_numpy(2 * hammersley_cube(self.gaussians_per_voxel) - 1)
        self.register_buffer("offset_perturbation", torch.atanh(spread / self.config["voxel_size"]).float())

    def forward(self, latents: Tensor, voxels: Voxels) -> Tensor:
        """Raw channels of the Gaussians, [N, 14 per Gaussian], of latents [N, latent]."""
        return self.out_layer(self.transform_normalised(latents, voxels))

    def decode(self, latents: Tensor, voxels: Voxels) -> list[Gaussians]:
        """The Gaussians of each asset, of latents [N, latent]."""
        raw = self(latents, voxels)
        parts = zip(voxels.split(raw), voxels.split(voxels.coords), strict=True)
        return [self.activate(self.parameters_of(part, coords)) for part, coords in parts]

    def parameters_of(self, raw: Tensor, coords: Tensor) -> GaussianParameters:
        """Raw channels [N, 14 per Gaussian] of voxels [N, 4], taken apart; a voxel's Gaussians one after another."""
        count, rates = self.gaussians_per_voxel, self.config["lr"]
        offsets, dc, scaling, rotation, opacity = raw.split([3 * count, 3 * count, 3 * count, 4 * count, count], dim=1)
        offsets = offsets.unflatten(1, (count, 3)) * rates["_xyz"]
        if self.config["perturb_offset"]:
            offsets = offsets + self.offset_perturbation
        centres = (coords[:, None, 1:].to(raw.dtype) + 0.5) / self.resolution
        reach = 0.5 * self.config["voxel_size"] / self.resolution
        return GaussianParameters(
            (centres + torch.tanh(offsets) * reach).flatten(0, 1),
            dc.reshape(-1, 1, 3) * rates["_features_dc"],
            scaling.reshape(-1, 3) * rates["_scaling"],
            rotation.reshape(-1, 4) * rates["_rotation"],
            opacity.reshape(-1, 1) * rates["_opacity"],
        )

    def activate(self, parameters: GaussianParameters) -> Gaussians:
        """The Gaussians that parameters stand for."""
        bias, opacity_bias = self.config["scaling_bias"], self.config["opacity_bias"]
        if self.config["scaling_activation"] == "softplus":
            scales = F.softplus(parameters.scaling + math.log(math.expm1(bias)))
        else:
            scales = torch.exp(parameters.scaling + math.log(bias))
        upright = parameters.rotation.new_tensor([1.0, 0.0, 0.0, 0.0])
        return Gaussians(
            positions=parameters.positions - 0.5,
            colours=(SH_DEGREE_0 * parameters.features_dc[:, 0] + 0.5).clamp(min=0),
            # No Gaussian thinner than the filter of Mip-Splatting.
            scales=torch.sqrt(scales**2 + self.config["3d_filter_kernel_size"] ** 2),
            rotations=F.normalize(parameters.rotation + upright, dim=1),
            opacities=torch.sigmoid(parameters.opacity[:, 0] + math.log(opacity_bias / (1 - opacity_bias))),
        )
