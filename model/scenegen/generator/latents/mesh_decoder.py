"""Structured latents to the fields that a mesh is extracted from, four times as fine (spec/latents.md sections 6, 8).

Knows nothing about the extraction.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from scenegen.generator.latents.fields import GridFields
from scenegen.generator.latents.transformer import SparseTransformer
from scenegen.generator.nn.precision import halve_weights
from scenegen.generator.nn.sparse import Voxels
from scenegen.generator.nn.sparse_blocks import SparseSubdivideBlock3d


class SLatMeshDecoder(SparseTransformer):
    """Fields on 64 fine voxels per voxel. Args as in the published config files; those not named: the transformer's.

    num_groups: of the group norms; narrow models want fewer than the published 32.
    """

    FIELD_CHANNELS = 8 + 8 * 3 + 21
    COLOUR_CHANNELS = 8 * 6

    def __init__(
        self,
        resolution: int,
        model_channels: int,
        latent_channels: int,
        representation_config: Mapping[str, Any],
        num_groups: int = 32,
        **transformer: Any,
    ) -> None:
        super().__init__(latent_channels, model_channels, **transformer)
        self.resolution = resolution
        self.upsample = nn.ModuleList(
            [
                SparseSubdivideBlock3d(model_channels, model_channels // 4, num_groups),
                SparseSubdivideBlock3d(model_channels // 4, model_channels // 8, num_groups),
            ]
        )
        colour = self.COLOUR_CHANNELS if representation_config.get("use_color", False) else 0
        self.out_layer = nn.Linear(model_channels // 8, self.FIELD_CHANNELS + colour)
        if transformer.get("use_fp16", False):
            halve_weights(self.upsample)

    def forward(self, latents: Tensor, voxels: Voxels) -> tuple[Tensor, Voxels]:
        """Features [64 N, 101 or 53] and the fine voxels they are on, of latents [N, latent]."""
        h = self.transform(latents, voxels)
        for block in self.upsample:
            h, voxels = block(h, voxels), voxels.subdivided
        return self.out_layer(h.to(latents.dtype)), voxels

    def decode(self, latents: Tensor, voxels: Voxels) -> list[GridFields]:
        """The fields of each asset, one after another to bound memory, of latents [N, latent]."""
        return [self._fields(part, voxels.only(sample)) for sample, part in enumerate(voxels.split(latents))]

    def _fields(self, latents: Tensor, voxels: Voxels) -> GridFields:
        features, fine = self(latents, voxels)
        return GridFields(fine.coords[:, 1:], features, self.resolution * 2 ** len(self.upsample))
