"""The autoencoder of structured latents: image features on voxels to latents, and to meshes and Gaussians.

spec/latents.md section 6. No rasteriser: the mesh decoder is told the exact signed distance and colour at the corners
of its fine voxels, each Gaussian how far it is from the surface and which way that faces. Features are those of the
small image encoder where a voxel is seen, averaged over views as published, and beside them the colour seen there,
which so small an encoder has little of.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from scenegen.generator.conditioning import image_tensor
from scenegen.generator.encoders.dinov2 import ImageEncoder
from scenegen.generator.latents.encoder import SLatEncoder, draw_latents
from scenegen.generator.latents.fields import Gaussians
from scenegen.generator.latents.gaussian_decoder import SLatGaussianDecoder
from scenegen.generator.latents.mesh_decoder import SLatMeshDecoder
from scenegen.generator.latents.stand import VOXEL
from scenegen.generator.nn.rotation import rotation_matrices
from scenegen.generator.nn.sparse import Voxels
from scenegen.generator.structure.surface import corner_distances, surface_voxels
from scenegen.synthetic.objects import ProceduralObject, make_object
from scenegen.training.latent_truth import corner_truth, feet, structure_of, views_of

OBJECTS_PER_STEP = 4
BOXES_PER_OBJECT = 3
BOX = 2
"""Voxels of a step are those within so many of a random one: detail is local, and whole objects are too much work.

Many small boxes rather than few large ones: a box has one or two colours to learn from.
"""
OBJECTS = 256
"""Random objects that are learned from; a step also shuffles their colour channels."""
WEIGHTS = {"distance": 1.0, "colour": 2.0, "quiet": 0.01, "kl": 1e-3}
WEIGHTS |= {"near": 1.0, "splat_colour": 1.0, "flat": 0.2, "size": 0.1, "opacity": 0.1}
COLOURS = 3
"""Of a voxel's features, the last."""
FIRST_LOG_VARIANCE = -5.0
"""Of latents, where training starts."""
COLOUR_REACH = 0.75
"""In voxels: how far from the surface colours count."""
SPLAT_SIZE = (0.5, 0.5, 0.1)
"""Wanted deviations of Gaussians, in voxels: flat on the surface."""
SEED, HELD_OUT_SEED = 1_000_000, 400_000
HELD_OUT = 4
SHARPNESS = 1.5, 12.0
"""Range of that of structures: what is learned must not hang on how sure the structure's decoder is."""
STANDARD_OBJECTS = 24
_SHIFT_OF_EXTRACTION = -1.0
"""What the extraction adds to distances, in fine voxels of one (spec/latents.md section 8)."""


@dataclass(frozen=True)
class Surfaced:
    """An object and the voxels of its surface: int64 [V, 3], features float32 [V, C + 3]; structure [R, R, R]."""

    made: ProceduralObject
    coords: NDArray[np.int64]
    features: Tensor
    structure: NDArray[np.float32]


class LatentVAE(nn.Module):
    """Encoder, mesh decoder and Gaussian decoder of structured latents, and the image encoder its features come from.

    That one is frozen and kept with the rest: what latents mean must not change when image encoders are trained on.
    """

    def __init__(
        self,
        encoder: Mapping[str, Any],
        mesh_decoder: Mapping[str, Any],
        gaussian_decoder: Mapping[str, Any],
        image_encoder: ImageEncoder,
    ) -> None:
        super().__init__()
        self.image_encoder = image_encoder.requires_grad_(False)
        self.encoder = SLatEncoder(**encoder)
        self.mesh_decoder = SLatMeshDecoder(**mesh_decoder)
        self.gaussian_decoder = SLatGaussianDecoder(**gaussian_decoder)
        self._initialise()

    @torch.no_grad()
    def _initialise(self) -> None:
        """A start from which colours come through at once; the usual one takes hundreds of steps to let them.

        Transformer blocks do nothing yet, so that both ways are linear; colours, 3 of many features, are as loud as all
        others together; latents have little noise.
        """
        for part in (self.encoder, self.mesh_decoder, self.gaussian_decoder):
            for name, parameter in part.blocks.named_parameters():
                if "attn.to_out" in name or "mlp.mlp.2" in name:
                    nn.init.zeros_(parameter)
        weight = self.encoder.input_layer.weight
        nn.init.normal_(weight[:, :-COLOURS], std=0.3 * weight.shape[1] ** -0.5)
        nn.init.normal_(weight[:, -COLOURS:], std=0.5)
        nn.init.constant_(self.encoder.out_layer.bias[self.encoder.out_layer.out_features // 2 :], FIRST_LOG_VARIANCE)
        for out in (self.mesh_decoder.out_layer, self.gaussian_decoder.out_layer):
            nn.init.normal_(out.weight, std=0.02)
            nn.init.zeros_(out.bias)

    @property
    def resolution(self) -> int:
        """Of the voxels."""
        return self.encoder.resolution

    @torch.no_grad()
    def surfaced(self, made: ProceduralObject, turn: float, sharpness: float) -> Surfaced:
        """An object and the features of its surface's voxels.

        turn: azimuth of the first view, radians. sharpness: of the structure, see structure_of.
        """
        image_encoder, resolution = self.image_encoder, self.resolution
        device = image_encoder.norm.mean.device
        structure = structure_of(made, resolution, sharpness)
        coords = np.argwhere(surface_voxels(structure)[0])
        centres = (coords + 0.5) / resolution - 0.5
        pictures, views = views_of(made, image_encoder.image_size, turn)
        with torch.autocast(device.type, enabled=False):
            tokens = image_encoder(image_tensor(pictures).to(device))
        side = image_encoder.image_size // image_encoder.patch_size
        maps = tokens[:, -(side**2) :].transpose(1, 2).unflatten(2, (side, side))
        tint = torch.from_numpy(made.colour(centres).astype(np.float32) / 255)
        places, seen = zip(*(view.of(centres, 2 / resolution) for view in views), strict=True)
        grid = torch.from_numpy((2 * (np.stack(places) + 0.5) / image_encoder.image_size - 1).astype(np.float32))
        looked = F.grid_sample(maps, grid[:, :, None].to(device), align_corners=False, padding_mode="border")
        colour = torch.where(torch.from_numpy(np.any(seen, axis=0))[:, None], 4 * tint - 2, 0.0)
        return Surfaced(made, coords, torch.cat([looked[..., 0].mean(0).T, colour.to(device)], dim=1), structure)

    def random_object(self, seed: int) -> Surfaced:
        """A random object with a more or less sharp structure, seen from a random azimuth."""
        rng = np.random.default_rng((seed, 2))
        made = make_object(rng)
        return self.surfaced(made, rng.uniform(-np.pi, np.pi), np.exp(rng.uniform(*np.log(SHARPNESS))))

    @torch.no_grad()
    def standard(self) -> tuple[list[float], list[float]]:
        """Mean and deviation of each latent channel over held-out objects."""
        items = (self.random_object(HELD_OUT_SEED + number) for number in range(STANDARD_OBJECTS))
        merged = torch.cat([self.encoder(item.features, voxels_of([item]))[0] for item in items])
        return merged.mean(0).tolist(), merged.std(0).clamp(min=1e-3).tolist()


class LatentVAEStage:
    """Direct supervision on parts of random objects."""

    def __init__(self, model: LatentVAE) -> None:
        self.model = model
        self._object = lru_cache(OBJECTS + HELD_OUT)(lambda seed: self.model.random_object(seed))

    def loss(self, step_rng: np.random.Generator, noise: torch.Generator) -> Mapping[str, Tensor]:
        """Terms of one step."""
        chosen = [
            parts_of(self._object(SEED + int(number)), step_rng)
            for number in step_rng.integers(OBJECTS, size=OBJECTS_PER_STEP)
        ]
        terms = self.terms(chosen, noise)
        return {"loss": sum((WEIGHTS[k] * v for k, v in terms.items()), torch.zeros(())), **terms}

    def terms(self, objects: Sequence[Surfaced], noise: torch.Generator) -> dict[str, Tensor]:
        """Loss terms of objects, or of parts of them."""
        model = self.model
        voxels = voxels_of(objects)
        mean, logvar = (x.float() for x in model.encoder(torch.cat([o.features for o in objects]), voxels))
        latents = draw_latents(mean, logvar, torch.randn(mean.shape, generator=noise).to(mean.device))
        terms = self.mesh_terms(objects, latents, voxels) | self.splat_terms(objects, latents, voxels)
        return terms | {"kl": 0.5 * (mean**2 + logvar.exp() - 1 - logvar).mean()}

    def mesh_terms(self, objects: Sequence[Surfaced], latents: Tensor, voxels: Voxels) -> dict[str, Tensor]:
        """Signed distance and colour at the corners of fine voxels; displacements and weights are kept small."""
        features, fine = self.model.mesh_decoder(latents, voxels)
        distance, colour, first = (torch.from_numpy(x).to(latents.device) for x in self._truth(objects, fine))
        correction, displaced, tints = take_apart(features.float(), self.model.resolution)
        said = first + correction
        near = distance.abs() < COLOUR_REACH
        return {
            "distance": ((said - distance).abs() / (distance.abs() + 0.25)).mean(),
            "colour": (tints - colour)[near].abs().mean(),
            "quiet": displaced.square().mean(),
        }

    def _truth(self, objects: Sequence[Surfaced], fine: Voxels) -> list[NDArray[np.float32]]:
        """At the corners of fine voxels: distance and colour as they are, and the distance as the structure has it."""
        resolution, parts = self.model.resolution, []
        for item, coords in zip(objects, fine.split(fine.coords), strict=True):
            places = coords[:, 1:].cpu().numpy().astype(np.int64)
            truth = corner_truth(item.made, places, VOXEL * resolution, resolution)
            parts.append((*truth, corner_distances(item.structure, places, VOXEL)))
        return [np.concatenate(part) for part in zip(*parts, strict=True)]

    def splat_terms(self, objects: Sequence[Surfaced], latents: Tensor, voxels: Voxels) -> dict[str, Tensor]:
        """Gaussians on the surface, flat, in its colour; those that are not near it fade."""
        resolution = self.model.resolution
        decoded = self.model.gaussian_decoder.decode(latents, voxels)
        terms: dict[str, list[Tensor]] = {}
        for item, splats in zip(objects, decoded, strict=True):
            for name, value in splat_terms(item.made, splats, resolution).items():
                terms.setdefault(name, []).append(value)
        return {name: torch.stack(values).mean() for name, values in terms.items()}

    def validate(self, model: nn.Module) -> Mapping[str, float]:
        """Of held-out whole objects, from latent means, near the surface.

        distance: error in voxels; structure_distance: the structure's own; signs: share of right ones; colour and
        mean_colour: error of colours, and of the object's mean colour; splats_off: Gaussians' distance in voxels.
        """
        assert isinstance(model, LatentVAE)
        sums: dict[str, list[float]] = {}
        for number in range(HELD_OUT):
            item = self._object(HELD_OUT_SEED + number)
            voxels = voxels_of([item])
            mean, _ = model.encoder(item.features, voxels)
            features, fine = model.mesh_decoder(mean, voxels)
            distance, colour, first = (torch.from_numpy(x).to(mean.device) for x in self._truth([item], fine))
            correction, _, tints = take_apart(features, model.resolution)
            said = first + correction
            near = distance.abs() < COLOUR_REACH
            (splats,) = model.gaussian_decoder.decode(mean, voxels)
            off = np.abs(item.made.sdf(splats.positions.cpu().numpy().astype(np.float64)))
            figures: dict[str, Tensor | float] = {
                "distance": (said - distance)[near].abs().mean(),
                "structure_distance": (first - distance)[near].abs().mean(),
                "signs": ((said < 0) == (distance < 0))[near].float().mean(),
                "colour": (tints - colour)[near].abs().mean(),
                "mean_colour": (colour[near] - colour[near].mean(0)).abs().mean(),
                "splats_off": float(off.mean()) * model.resolution,
            }
            for name, value in figures.items():
                sums.setdefault(name, []).append(float(value))
        return {name: float(np.mean(values)) for name, values in sums.items()}


def voxels_of(objects: Sequence[Surfaced]) -> Voxels:
    """The voxels of objects, as samples."""
    coords = [np.pad(o.coords, ((0, 0), (1, 0)), constant_values=i) for i, o in enumerate(objects)]
    return Voxels(torch.from_numpy(np.concatenate(coords)).int().to(objects[0].features.device), len(objects))


def parts_of(item: Surfaced, rng: np.random.Generator) -> Surfaced:
    """A few boxes out of an object's surface, with its colours' channels in another order."""
    middles = item.coords[rng.integers(len(item.coords), size=BOXES_PER_OBJECT)]
    kept = (np.abs(item.coords[:, None] - middles).max(-1) <= BOX).any(1)
    features = item.features[torch.from_numpy(kept).to(item.features.device)]
    order = rng.permutation(3)
    features = torch.cat([features[:, :-COLOURS], features[:, -COLOURS:][:, torch.from_numpy(order)]], dim=1)
    return Surfaced(recoloured(item.made, order), item.coords[kept], features, item.structure)


def recoloured(made: ProceduralObject, order: NDArray[np.int64]) -> ProceduralObject:
    """An object with the channels of its colours in another order."""
    parts = [replace(part, colour=tuple(part.colour[i] for i in order)) for part in made.parts]  # type: ignore[type-var]
    return replace(made, parts=tuple(parts))


def take_apart(features: Tensor, resolution: int) -> tuple[Tensor, Tensor, Tensor]:
    """The mesh decoder's channels [F, 101]: distance [F, 8] as it is extracted, the quiet ones, colours [F, 8, 3].

    Distances are corrections to those of the structure.
    """
    distance = features[:, :8] + _SHIFT_OF_EXTRACTION / (VOXEL * resolution)
    return distance, features[:, 8:53], features[:, 53:].unflatten(1, (8, 6))[..., :3].sigmoid()


def splat_terms(made: ProceduralObject, splats: Gaussians, resolution: int) -> dict[str, Tensor]:
    """Terms of one object's Gaussians."""
    device = splats.positions.device
    truth = feet(made, splats.positions.detach().cpu().numpy().astype(np.float64))
    foot, normal, distance = (torch.from_numpy(x.astype(np.float32)).to(device) for x in truth)
    tint = torch.from_numpy(made.colour(truth[0]).astype(np.float32) / 255).to(device)
    off = (splats.positions - foot).norm(dim=1) * resolution
    own_up = rotation_matrices(splats.rotations)[..., 2]
    wanted = torch.tensor(SPLAT_SIZE, device=device) / resolution
    shown = 0.95 * (distance.abs() * resolution < 0.5).float()
    opaque = splats.opacities.float().clamp(1e-4, 1 - 1e-4)
    return {
        "near": off.mean(),
        "splat_colour": (splats.colours - tint).abs().mean(),
        "flat": (1 - (own_up * normal).sum(1).abs()).mean(),
        "size": (splats.scales / wanted).log().abs().mean(),
        "opacity": -(shown * opaque.log() + (1 - shown) * (1 - opaque).log()).mean(),
    }
