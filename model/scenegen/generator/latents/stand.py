"""Where an asset's structured latents stand: on every occupied voxel, or on the surface of a solid structure.

Published structures are shells, all of whose voxels have latents. The small model's are solid: its latents stand on the
voxels that the surface passes through, and its mesh decoder corrects the distances that the structure itself gives.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scenegen.generator.latents.fields import GridFields
from scenegen.generator.meshing.coarse import solid_logits
from scenegen.generator.structure.coords import occupied_voxels
from scenegen.generator.structure.surface import corner_distances, surface_voxels

SOFTER = 2.0
"""Logits are divided by it: those of a trained structure decoder fall by about 8 from one voxel to the next, and so
softened the chance falls by about 1 within a voxel, as distances in voxels do."""
VOXEL = 4
"""Fine voxels along the edge of a voxel that latents stand on."""


@dataclass(frozen=True, eq=False)
class Stand:
    """voxels: int32 [V, 4], 0 in the first column. chance: of lying inside, [R, R, R], where the structure is solid."""

    voxels: Tensor
    chance: NDArray[np.float32] | None = None


def stand_of(logits: Tensor, on_surface: bool) -> Stand:
    """Where latents stand on the structure of one asset, occupancy logits [1, 1, R, R, R].

    Of solids specks are left out, as of coarse meshes; there is no voxel where the structure is empty.
    """
    solid = solid_logits(logits[0, 0].float().cpu().numpy()) if on_surface else None
    if solid is None:
        return Stand(occupied_voxels(logits))
    chance = (1 / (1 + np.exp(-(solid / SOFTER).clip(-20, 20)))).astype(np.float32)
    voxels = np.argwhere(surface_voxels(chance)[0])
    return Stand(torch.from_numpy(np.pad(voxels, ((0, 0), (1, 0)))).int().to(logits.device), chance)


def completed(fields: GridFields, stand: Stand) -> GridFields:
    """The fields of a mesh: for a solid structure, its own distances are added, and all that is within is inside."""
    if stand.chance is None:
        return fields
    fine = fields.coords.cpu().numpy().astype(np.int64)
    features = fields.features.clone()
    features[:, :8] += torch.from_numpy(corner_distances(stand.chance, fine, VOXEL)).to(features)
    steps = np.stack(np.meshgrid(*[np.arange(VOXEL)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    within = np.argwhere(surface_voxels(stand.chance)[1])
    inner = torch.from_numpy((VOXEL * within[:, None] + steps).reshape(-1, 3)).to(fields.coords)
    filling = features.new_zeros(len(inner), features.shape[1])
    filling[:, :8] = -1
    return GridFields(torch.cat([fields.coords, inner]), torch.cat([features, filling]), fields.resolution)
