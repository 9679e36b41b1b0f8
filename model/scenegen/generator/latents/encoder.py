"""Features on an asset's voxels, averaged over views, to its structured latents (spec/latents.md section 6).

Knows nothing about images or losses.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from scenegen.generator.latents.transformer import SparseTransformer
from scenegen.generator.nn.sparse import Voxels


class SLatEncoder(SparseTransformer):
    """Args as in the published config files; those not named here are the transformer's."""

    def __init__(
        self, resolution: int, in_channels: int, model_channels: int, latent_channels: int, **transformer: Any
    ) -> None:
        super().__init__(in_channels, model_channels, **transformer)
        self.resolution = resolution
        self.out_layer = nn.Linear(model_channels, 2 * latent_channels)

    def forward(self, x: Tensor, voxels: Voxels) -> tuple[Tensor, Tensor]:
        """Mean and log variance of the latents, [N, latent] each, of features [N, in]."""
        mean, logvar = self.out_layer(self.transform_normalised(x, voxels)).chunk(2, dim=1)
        return mean, logvar


def draw_latents(mean: Tensor, logvar: Tensor, noise: Tensor) -> Tensor:
    """Latents around their mean, with standard normal noise: [N, latent] each."""
    return mean + torch.exp(0.5 * logvar) * noise
