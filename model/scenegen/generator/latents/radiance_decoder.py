"""Structured latents to radiance fields (spec/latents.md section 6).

Knows nothing about rendering them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from scenegen.generator.latents.fields import RadianceField
from scenegen.generator.latents.transformer import SparseTransformer
from scenegen.generator.nn.sparse import Voxels


class SLatRadianceFieldDecoder(SparseTransformer):
    """A factorised field per voxel. Args as in the published config files; those not named are the transformer's."""

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
        self.rank, self.dim = int(representation_config["rank"]), int(representation_config["dim"])
        self.out_layer = nn.Linear(model_channels, self.rank * (3 * self.dim + 1 + 3))

    def forward(self, latents: Tensor, voxels: Voxels) -> Tensor:
        """Raw channels of the fields, [N, rank (3 dim + 4)], of latents [N, latent]."""
        return self.out_layer(self.transform_normalised(latents, voxels))

    def decode(self, latents: Tensor, voxels: Voxels) -> list[RadianceField]:
        """The radiance field of each asset, of latents [N, latent]."""
        parts = zip(voxels.split(self(latents, voxels)), voxels.split(voxels.coords), strict=True)
        return [self._field(raw, coords) for raw, coords in parts]

    def _field(self, raw: Tensor, coords: Tensor) -> RadianceField:
        trivec, density, dc = raw.split([self.rank * 3 * self.dim, self.rank, self.rank * 3], dim=1)
        depth = torch.full((len(raw), 1), int(math.log2(self.resolution)), dtype=torch.uint8, device=raw.device)
        return RadianceField(
            trivec=trivec.unflatten(1, (self.rank, 3, self.dim)) + 1,
            density=density,
            features_dc=dc.unflatten(1, (self.rank, 1, 3)),
            positions=(coords[:, 1:].to(raw.dtype) + 0.5) / self.resolution,
            depth=depth,
        )
