"""The flow over structured latents: from an object's image and the voxels of its surface to their latents.

The structures are the true ones; the latents to arrive at are what the autoencoder gives for the same object. Knows
nothing about scenes: a latent is conditioned by its own asset's image only (spec/latents.md section 5).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from scenegen.generator.conditioning import image_tensor
from scenegen.generator.encoders.dinov2 import ImageEncoder
from scenegen.generator.latents.flow import SLatFlowModel
from scenegen.generator.latents.normalisation import LatentNormalisation
from scenegen.generator.nn.sparse import Voxels
from scenegen.generator.sampling import SIGMA_MIN
from scenegen.synthetic.objects import ProceduralObject
from scenegen.training.latent_vae import LatentVAE, take_apart, voxels_of
from scenegen.training.shards import Samples

OBJECTS_PER_STEP = 8
VOXELS_PER_OBJECT = 500
"""About so many of an object's take part in a step: whole blocks of the flow's coarsest voxels."""
BEST_GUESS_SHARE = 0.85
"""Share of a step's objects at time 1 without noise: the answer to it is the mean of all that an image allows, which
`temperature` 0 of a sampler asks for. The rest is flow matching as usual."""
KEPT_TARGETS = 8192
HELD_OUT = 6
SHARPNESS = 4.0
"""Of the structures that latents are to stand on."""


class LatentStage:
    """Flow matching on latents of unit deviation; conditions from the frozen image encoder."""

    def __init__(
        self,
        model: SLatFlowModel,
        image_encoder: ImageEncoder,
        vae: LatentVAE,
        normalisation: LatentNormalisation,
        train: Samples,
        held_out: Samples,
    ) -> None:
        self.model = model
        self.image_encoder = image_encoder.requires_grad_(False).eval()
        self.vae = vae.requires_grad_(False).eval()
        self.normalisation = normalisation
        self.train, self.held_out = train, held_out
        self._targets = lru_cache(KEPT_TARGETS)(self._encode)

    @torch.no_grad()
    def _encode(self, in_training: bool, row: int) -> tuple[ProceduralObject, NDArray[np.int64], Tensor]:
        """A row's object, the voxels of its surface and their latents, of unit deviation."""
        device = next(self.model.parameters()).device
        made = (self.train if in_training else self.held_out).made(row)
        item = self.vae.surfaced(made, 0.0, SHARPNESS)
        with torch.autocast(device.type, enabled=False):
            mean, _ = self.vae.encoder(item.features, voxels_of([item]))
        return made, item.coords, self.normalisation.normalise(mean).cpu()

    @torch.no_grad()
    def _tokens(self, samples: Samples, rows: NDArray[np.int64]) -> Tensor:
        device = next(self.model.parameters()).device
        return self.image_encoder(image_tensor(samples.objects["crop"][rows]).to(device)).float()  # type: ignore[arg-type]

    def loss(self, step_rng: np.random.Generator, noise: torch.Generator) -> Mapping[str, Tensor]:
        """Terms of one step: the velocity's error, and of it that of the best guesses alone."""
        device = next(self.model.parameters()).device
        rows = step_rng.integers(len(self.train.objects["crop"]), size=OBJECTS_PER_STEP)
        coords, latents = [], []
        for sample, row in enumerate(rows):
            _, places, target = self._targets(True, int(row))
            kept = _some_blocks(places, self.model.patch_size, step_rng)
            coords.append(np.pad(places[kept], ((0, 0), (1, 0)), constant_values=sample))
            latents.append(target[torch.from_numpy(kept)])
        voxels = Voxels(torch.from_numpy(np.concatenate(coords)).int().to(device), len(rows))
        clean = torch.cat(latents).to(device)
        guess = torch.from_numpy(step_rng.random(len(rows)) < BEST_GUESS_SHARE).to(device)
        drawn = torch.from_numpy(1 / (1 + np.exp(-step_rng.normal(1.0, 1.0, len(rows)))).astype(np.float32)).to(device)
        t = torch.where(guess, 1.0, drawn)
        eps = torch.randn(clean.shape, generator=noise).to(device) * ~guess[voxels.sample, None]
        time = t[voxels.sample, None]
        x = (1 - time) * clean + (SIGMA_MIN + (1 - SIGMA_MIN) * time) * eps
        velocity = self.model(x, voxels, 1000 * t, self._tokens(self.train, rows))
        error = (velocity.float() - ((1 - SIGMA_MIN) * eps - clean)).square().mean(1)
        guesses = guess[voxels.sample]
        alone = error[guesses].mean() if guesses.any() else error.mean()
        return {"loss": error.mean(), "best_guess": alone}

    def validate(self, model: nn.Module) -> Mapping[str, float]:
        """Of held-out whole objects, from best guesses.

        error (1: knows nothing) and error_shuffled, the same with another object's image; colour: the mean error of
        decoded colours near the surface; colour_of_latents, the true latents'; colour_of_picture, its mean's.
        """
        assert isinstance(model, SLatFlowModel)
        device = next(model.parameters()).device
        rows = np.arange(HELD_OUT) * (len(self.held_out.objects["crop"]) // HELD_OUT)
        tokens = self._tokens(self.held_out, rows)
        sums: dict[str, list[float]] = {}
        for number, row in enumerate(rows):
            made, places, target = self._targets(False, int(row))
            target = target.to(device)
            voxels = Voxels(torch.from_numpy(np.pad(places, ((0, 0), (1, 0)))).int().to(device), 1)
            nothing, one = torch.zeros_like(target), torch.full((1,), 1000.0, device=device)
            guess = -model(nothing, voxels, one, tokens[number : number + 1])
            other = -model(nothing, voxels, one, tokens.roll(1, 0)[number : number + 1])
            crop = self.held_out.objects["crop"][row].reshape(-1, 3).astype(np.float32) / 255
            shown = torch.from_numpy(crop[crop.max(1) > 0.02].mean(0)).to(device)
            tint = torch.from_numpy(made.colour((places + 0.5) / self.vae.resolution - 0.5) / 255).float().to(device)
            figures = {
                "error": F.mse_loss(guess, target),
                "error_shuffled": F.mse_loss(other, target),
                "colour": (self._colour(guess, voxels) - tint).abs().mean(),
                "colour_of_latents": (self._colour(target, voxels) - tint).abs().mean(),
                "colour_of_picture": (shown - tint).abs().mean(),
            }
            for name, value in figures.items():
                sums.setdefault(name, []).append(float(value))
        return {name: float(np.mean(values)) for name, values in sums.items()}

    def _colour(self, latents: Tensor, voxels: Voxels) -> Tensor:
        """Decoded colours [N, 3]: of every voxel, the mean over its fine voxels."""
        features, _ = self.vae.mesh_decoder(self.normalisation.restore(latents), voxels)
        tints = take_apart(features, self.vae.resolution)[2]
        return tints.unflatten(0, (len(voxels), -1)).mean((1, 2))


def _some_blocks(coords: NDArray[np.int64], side: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Which voxels [V, 3] lie in the first of all blocks of ``side``^3, in random order, to hold enough of them."""
    _, block = np.unique(coords // side @ [1 << 20, 1 << 10, 1], return_inverse=True)
    order = rng.permutation(int(block.max()) + 1)
    sizes = np.bincount(block)[order]
    enough = int(np.searchsorted(np.cumsum(sizes), VOXELS_PER_OBJECT)) + 1
    kept: NDArray[np.bool_] = np.isin(block, order[:enough])
    return kept
