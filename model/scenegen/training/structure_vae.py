"""Stage 1: the structure VAE, occupancy to latents and back (spec/structure.md section 4)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from scenegen.generator.structure.vae import SparseStructureDecoder, SparseStructureEncoder
from scenegen.synthetic.objects import make_object
from scenegen.training.losses import occupancy_loss, voxel_iou

BATCH = 16
DICE_WEIGHT = 0.5
KL_WEIGHT = 2e-3


class StructureVAE(nn.Module):
    """Encoder and decoder of one structure VAE."""

    def __init__(self, encoder_args: Mapping[str, Any], decoder_args: Mapping[str, Any]) -> None:
        super().__init__()
        self.encoder = SparseStructureEncoder(**encoder_args)
        self.decoder = SparseStructureDecoder(**decoder_args)

    @torch.no_grad()
    def standardise(self, occupancy: Tensor) -> None:
        """Scale the latent channels to unit deviation over ``occupancy`` [B, 1, R, R, R], outputs unchanged.

        The flow's noise has unit deviation; published latents are not scaled otherwise (spec/structure.md section 4).
        """
        mean = self.encoder(occupancy)
        deviation = mean.std(dim=(0, 2, 3, 4))
        channels = len(deviation)
        last, first = self.encoder.out_layer[-1], self.decoder.input_layer
        assert isinstance(last, nn.Conv3d) and last.bias is not None
        last.weight[:channels] /= deviation[:, None, None, None, None]
        last.bias[:channels] /= deviation
        last.bias[channels:] -= 2 * deviation.log()
        first.weight *= deviation[None, :, None, None, None]


def object_grids(seeds: range, resolution: int) -> NDArray[np.uint8]:
    """Occupancy of one random object per seed, packed bits: uint8 [N, R^3 / 8]."""
    objects = (make_object(np.random.default_rng((seed, 2))) for seed in seeds)
    return np.stack([np.packbits(item.occupancy(resolution)) for item in objects])


def unpack_grids(bits: NDArray[np.uint8]) -> Tensor:
    """Packed occupancy [N, R^3 / 8] to float32 [N, 1, R, R, R]."""
    grids = np.unpackbits(bits, axis=1)
    side = round(grids.shape[1] ** (1 / 3))
    return torch.from_numpy(grids.reshape(-1, 1, side, side, side).astype(np.float32))


class StructureVAEStage:
    """Binary cross entropy, dice and a little KL on random objects, packed as by ``object_grids``."""

    def __init__(self, model: StructureVAE, train: NDArray[np.uint8], held_out: NDArray[np.uint8]) -> None:
        self.model = model
        self.train, self.held_out = train, held_out

    def loss(self, step_rng: np.random.Generator, noise: torch.Generator) -> Mapping[str, Tensor]:
        """Terms of one step."""
        rows = step_rng.integers(len(self.train), size=BATCH)
        occupancy = _augment(unpack_grids(self.train[rows]), step_rng)
        occupancy = occupancy.to(next(self.model.parameters()).device)
        _, mean, logvar = self.model.encoder(occupancy, return_raw=True)
        mean, logvar = mean.float(), logvar.float()
        draw = torch.randn(mean.shape, generator=noise).to(mean.device)
        logits = self.model.decoder(mean + (0.5 * logvar).exp() * draw)
        entropy, dice = occupancy_loss(logits, occupancy)
        divergence = 0.5 * (mean**2 + logvar.exp() - 1 - logvar).mean()
        return {
            "loss": entropy + DICE_WEIGHT * dice + KL_WEIGHT * divergence,
            "entropy": entropy,
            "dice": dice,
            "kl": divergence,
        }

    def validate(self, model: nn.Module) -> Mapping[str, float]:
        """Voxel IoU of reconstructions from latent means, over held-out objects."""
        assert isinstance(model, StructureVAE)
        device = next(model.parameters()).device
        ious = [
            voxel_iou(model.decoder(model.encoder(grid)), grid)
            for chunk in np.array_split(self.held_out, len(self.held_out) // BATCH)
            for grid in [unpack_grids(chunk).to(device)]
        ]
        return {"voxel_iou": float(torch.cat(ious).mean())}


def _augment(occupancy: Tensor, rng: np.random.Generator) -> Tensor:
    """A random mirror image and quarter turn about z: the VAE sees more shapes than there are families."""
    occupancy = torch.rot90(occupancy, int(rng.integers(4)), dims=(2, 3))
    return occupancy.flip(2) if rng.random() < 0.5 else occupancy
