"""Losses of the structure stage (spec/structure.md section 8) and of the structure VAE.

Knows nothing about networks: tensors in, scalars out.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from scenegen.generator.nn.rotation import rotation_matrices

POSITION_WEIGHTS = {"translation": 7.0, "rotation": 5.0, "scale": 3.0}
"""Weights of the placement loss, as released."""

PLACEMENT_BETA = 0.02
"""Transition point of the placement loss from squared to absolute."""


def occupancy_loss(logits: Tensor, occupancy: Tensor) -> tuple[Tensor, Tensor]:
    """Binary cross entropy and dice loss of logits against occupancy, both [B, 1, R, R, R]."""
    logits = logits.float()
    entropy = F.binary_cross_entropy_with_logits(logits, occupancy)
    chance = logits.sigmoid()
    overlap = (chance * occupancy).sum(dim=(1, 2, 3, 4))
    total = chance.sum(dim=(1, 2, 3, 4)) + occupancy.sum(dim=(1, 2, 3, 4))
    return entropy, (1 - 2 * overlap / (total + 1e-6)).mean()


def voxel_iou(logits: Tensor, occupancy: Tensor) -> Tensor:
    """Intersection over union per sample [B] of ``logits > 0`` and occupancy, both [B, 1, R, R, R]."""
    a, b = logits > 0, occupancy > 0.5
    return (a & b).flatten(1).sum(1) / (a | b).flatten(1).sum(1).clamp(min=1)


def placement_loss(predicted: Tensor, true: Tensor, scenes: int) -> Tensor:
    """Placement loss over the assets that are not their scene's query; zero when there are none.

    predicted, true: [N, 8] (translation, quaternion wxyz, scale), ``scenes`` scenes of equal count, query first.
    Translations are measured against the scene's extent per axis; +q and -q are the same rotation, the nearer counts.
    """
    predicted, true = (x.float().unflatten(0, (scenes, -1)) for x in (predicted, true))
    if predicted.shape[1] == 1:
        return predicted.sum() * 0
    extent = scene_extent(true)
    predicted, true = predicted[:, 1:], true[:, 1:]
    translation = F.smooth_l1_loss(predicted[..., :3] / extent, true[..., :3] / extent, beta=PLACEMENT_BETA)
    signs = [
        F.smooth_l1_loss(predicted[..., 3:7], sign * true[..., 3:7], beta=PLACEMENT_BETA, reduction="none").mean(-1)
        for sign in (1, -1)
    ]
    rotation = torch.minimum(*signs).mean()
    scale = F.smooth_l1_loss(predicted[..., 7], true[..., 7], beta=PLACEMENT_BETA)
    weights = POSITION_WEIGHTS
    return weights["translation"] * translation + weights["rotation"] * rotation + weights["scale"] * scale


def placement_errors(predicted: Tensor, true: Tensor) -> dict[str, Tensor]:
    """How far placements [N, 8] are off, each [N]: translation (query sizes), scale_log, rotation_deg."""
    predicted, true = predicted.float(), true.float()
    dot = (F.normalize(predicted[:, 3:7], dim=-1) * true[:, 3:7]).sum(-1).abs()
    return {
        "translation": (predicted[:, :3] - true[:, :3]).norm(dim=-1),
        "scale_log": (predicted[:, 7].clamp(min=1e-3) / true[:, 7]).log().abs(),
        "rotation_deg": 2 * dot.clamp(max=1).acos().rad2deg(),
    }


def scene_extent(placements: Tensor) -> Tensor:
    """Extents [S, 1, 3] per axis of scenes whose assets [S, N, 8] are taken for cubes of their scale, at least 0.01."""
    half = placements[..., 7:] / 2
    high, low = (placements[..., :3] + half).amax(1, keepdim=True), (placements[..., :3] - half).amin(1, keepdim=True)
    return (high - low).clamp(min=0.01)


def collision_loss(placements: Tensor, occupancy: Tensor, scenes: int, points: int, noise: torch.Generator) -> Tensor:
    """Share of each asset's points that lie inside another asset of its scene, with gradient to the placements.

    placements: [N, 8]. occupancy: [N, 1, R, R, R], 0..1. ``points`` occupied voxels are drawn per asset, moved by its
    placement into the query's frame and from there into every other asset's box, where the occupancy is read
    trilinearly. This is our own: the released collision loss carries no gradient (spec/structure.md section 8).
    """
    count = len(placements) // scenes
    if count == 1:
        return placements.sum() * 0
    side = occupancy.shape[-1]
    chance = occupancy.flatten(1) + 1e-9
    index = torch.multinomial(chance.cpu(), points, replacement=True, generator=noise).to(occupancy.device)
    grid = torch.stack([index // side**2, index // side % side, index % side], dim=-1)
    zup = (grid + 0.5) / side - 0.5
    local = torch.stack([zup[..., 0], zup[..., 2], -zup[..., 1]], dim=-1)
    translation, rotation, scale = placements[:, :3], rotation_matrices(placements[:, 3:7]), placements[:, 7:8]
    world = (scale[..., None] * local @ rotation.transpose(1, 2) + translation[:, None]).unflatten(0, (scenes, count))
    # world [S, i, P, 3] seen from every asset j: [S, i, j, P, 3]
    to = [x.unflatten(0, (scenes, count))[:, None] for x in (translation, rotation, scale)]
    seen = (world[:, :, None] - to[0][..., None, :]) @ to[1] / to[2].clamp(min=1e-3)[..., None]
    x, y, z = seen.unbind(-1)
    # grid_sample wants (depth, height, width) = our (i, j, k) reversed, in [-1, 1] over the box
    query = torch.stack([y, -z, x], dim=-1) * 2
    other = occupancy.unflatten(0, (scenes, count))[:, None].expand(-1, count, -1, -1, -1, -1, -1)
    inside = F.grid_sample(other.flatten(0, 2), query.flatten(0, 2)[:, None, None], align_corners=False)
    inside = inside.reshape(scenes, count, count, points)
    return (inside * (1 - torch.eye(count, device=inside.device))[None, :, :, None]).sum(2).clamp(max=1).mean()
