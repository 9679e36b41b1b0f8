"""Stage 4: the structure decoder, taught to make the best of latents as the flow gives them.

The VAE's decoder has only seen true latents. A small flow's are blurred where it is not sure; cross entropy and dice
on those teach the decoder which shape is then nearest to the truth. Half of a batch stays true latents.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from scenegen.generator.conditioning import Conditioner
from scenegen.generator.sampling import sample_structure
from scenegen.generator.structure.flow import SparseStructureFlowModel
from scenegen.training.encoders import condition_batch
from scenegen.training.losses import occupancy_loss, voxel_iou
from scenegen.training.shards import Samples
from scenegen.training.structure_vae import DICE_WEIGHT, StructureVAE

SCENES, HELD_OUT_SCENES = 480, 64
BATCH = 12


class StructureDecoderStage:
    """Cross entropy and dice on sampled and on true latents of the same objects."""

    def __init__(
        self,
        flow: SparseStructureFlowModel,
        conditioner: Conditioner,
        vae: StructureVAE,
        train: Samples,
        held_out: Samples,
        sampler: Mapping[str, Any],
    ) -> None:
        """sampler: keyword arguments of `sample_structure`, as the weights are to be used."""
        self.model: nn.Module = vae.decoder
        self.encoder = vae.encoder.requires_grad_(False).eval()
        self.flow, self.conditioner, self.sampler = flow.eval(), conditioner.eval(), sampler
        self.sampled, self.grids = self._sample(train, SCENES)
        self.held_out, self.held_out_grids = self._sample(held_out, HELD_OUT_SCENES)

    @torch.no_grad()
    def _sample(self, samples: Samples, count: int) -> tuple[Tensor, Tensor]:
        """Latents [N, c, R, R, R] of the objects of so many scenes as the flow gives them, and their occupancy."""
        device = next(self.flow.parameters()).device
        scenes = np.random.default_rng(0).choice(len(samples.counts), min(count, len(samples.counts)), replace=False)
        shape = self.flow.input_layer.in_features // self.flow.patch_size**3, *[self.flow.resolution] * 3
        latents = []
        for scene in tqdm(scenes, desc="latents of the flow", mininterval=5):
            cond = self.conditioner(*condition_batch(samples, scene[None], None, device)).float()
            noise = torch.randn(len(cond), *shape, generator=torch.Generator().manual_seed(int(scene))).to(device)
            latents.append(sample_structure(self.flow, noise, [cond], **self.sampler)[0].float())
        grids = torch.from_numpy(samples.occupancy(samples.rows(scenes))).to(device)
        return torch.cat(latents), grids

    def loss(self, step_rng: np.random.Generator, noise: torch.Generator) -> Mapping[str, Tensor]:
        """Terms of one step."""
        rows = torch.from_numpy(step_rng.integers(len(self.grids), size=BATCH))
        grids = self.grids[rows]
        with torch.no_grad():
            true = self.encoder(grids[: BATCH // 2]).float()
        entropy, dice = occupancy_loss(self.model(torch.cat([true, self.sampled[rows[BATCH // 2 :]]])), grids)
        return {"loss": entropy + DICE_WEIGHT * dice, "entropy": entropy, "dice": dice}

    def validate(self, model: nn.Module) -> Mapping[str, float]:
        """Voxel IoU over held-out objects, of sampled latents and of true ones."""
        sampled = [
            voxel_iou(model(z), grids)
            for z, grids in zip(self.held_out.split(16), self.held_out_grids.split(16), strict=True)
        ]
        true = [voxel_iou(model(self.encoder(grids)), grids) for grids in self.held_out_grids.split(16)]
        return {"voxel_iou": float(torch.cat(sampled).mean()), "voxel_iou_true": float(torch.cat(true).mean())}
