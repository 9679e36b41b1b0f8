"""What the released training of the structure flow computes: targets and composite loss (spec/structure.md section 8).

For training at published size and for comparison; small models are trained by structure.py, whose collision loss has
a gradient. Knows nothing about data on disk or networks, but for the decoder it is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from torch import Tensor, nn

from scenegen.generator.nn.rotation import rotation_matrices
from scenegen.generator.sampling import SIGMA_MIN, predict_clean
from scenegen.training.losses import PLACEMENT_BETA, POSITION_WEIGHTS, scene_extent

COLLISION_BETA = 0.05
COLLISION_RESOLUTION = 64
WEIGHT_RANGE = (0.2, 1.0)
WEIGHT_DECAY = 0.99


def relative_placements(
    translation: NDArray[np.float64],
    euler_xyz_deg: NDArray[np.float64],
    scale: NDArray[np.float64],
    order: Sequence[int] | NDArray[np.int64],
) -> NDArray[np.float32]:
    """Target placements [N, 8] (translation, quaternion wxyz, scale) of the assets ``order``, the first the query.

    translation [M, 3], euler_xyz_deg [M, 3] (extrinsic xyz, degrees), scale [M]: all assets of the scene in its frame,
    y-up. Lengths are in query sizes.
    """
    chosen = np.asarray(order)
    turns = Rotation.from_euler("xyz", euler_xyz_deg[chosen], degrees=True)
    to_query = turns[0].as_matrix().T
    t = (translation[chosen] - translation[chosen[0]]) @ to_query.T / scale[chosen[0]]
    q = Rotation.from_matrix(to_query @ turns.as_matrix()).as_quat(scalar_first=True)
    # The query is the identity by definition, not up to rounding.
    t[0], q[0] = 0, (1, 0, 0, 0)
    return np.concatenate([t, q, (scale[chosen] / scale[chosen[0]])[:, None]], axis=1).astype(np.float32)


@dataclass(frozen=True)
class LossTerms:
    """Terms of one step, scalars.

    loss is flow + weight * placement; placement holds the collision term too, which comes of collision_ratio.
    translation (query sizes), rotation, scale: mean absolute errors, to be logged. balance: flow / placement, what the
    weight follows; 0 where there is but one asset, and no placement.
    """

    loss: Tensor
    flow: Tensor
    translation: Tensor
    rotation: Tensor
    scale: Tensor
    placement: Tensor
    collision_ratio: Tensor
    weight: Tensor
    balance: Tensor


class PlacementWeight(nn.Module):
    """The weight of the placement terms: flow / placement averaged over steps, within WEIGHT_RANGE.

    A module so that whatever saves a training saves the average with it; 0 before the first step.
    """

    average: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("average", torch.zeros(()))

    def forward(self, balance: Tensor) -> Tensor:
        """The weight [] in a step of that balance []."""
        return self._moved(balance).clamp(*WEIGHT_RANGE)

    def note(self, balance: float) -> None:
        """Move the average on by a step of that balance. Parts of a step all see the average from before it."""
        self.average.copy_(self._moved(self.average.new_tensor(balance)))

    def _moved(self, balance: Tensor) -> Tensor:
        return torch.where(self.average > 0, WEIGHT_DECAY * self.average + (1 - WEIGHT_DECAY) * balance, balance)


class ReleasedLoss:
    """The composite loss as released: flow matching, placement, and a collision term without gradient.

    The last two are weighted so that they stay beside the first. decoder: structure decoder for the collision term,
    None leaves it out. weight: what whoever trains moves on after each step. The released code fails in the collision
    term on its decoder's channel axis; here it means what it says.
    """

    def __init__(self, decoder: nn.Module | None, weight: PlacementWeight) -> None:
        self.decoder = decoder
        self.weight = weight

    def __call__(
        self, velocity: Tensor, predicted: Tensor, latents: Tensor, placements: Tensor, noise: Tensor, times: Tensor
    ) -> LossTerms:
        """Terms for one scene of N assets, the query first.

        velocity: predicted at x_t [N, c, R, R, R]. predicted: the position head's raw output [N, 8]. latents: x_0.
        placements: true [N, 8]. noise: like x_0. times: flow times [N].
        """
        flow = F.mse_loss(velocity.float(), (1 - SIGMA_MIN) * noise - latents)
        zero = flow.new_zeros(())
        if len(latents) == 1:
            # A gradient of zero, not none: optimisers then do the same however many processes share a step.
            return LossTerms(flow + 0 * predicted.float().sum(), flow, zero, zero, zero, zero, zero, zero, zero)
        extent = scene_extent(placements[None])[0]
        predicted, true = predicted.float()[1:], placements[1:]
        parts = {"translation": (0, 3), "rotation": (3, 7), "scale": (7, 8)}
        errors = {k: predicted[:, a:b] - true[:, a:b] for k, (a, b) in parts.items()}
        logged = {k: error.detach().abs().mean() for k, error in errors.items()}
        errors["translation"] = errors["translation"] / extent
        placement = sum((POSITION_WEIGHTS[k] * _huber(error, PLACEMENT_BETA) for k, error in errors.items()), zero)
        ratio = zero
        if self.decoder is not None:
            time = times[:, None, None, None, None]
            x = (1 - time) * latents + (SIGMA_MIN + (1 - SIGMA_MIN) * time) * noise
            ratio = collision_ratio(self.decoder, predict_clean(x, velocity.float(), time), placements)
        beside = placement + _huber(ratio, COLLISION_BETA)
        balance = flow.detach() / (beside.detach() + 1e-8)
        weight = self.weight(balance)
        loss = flow + weight * beside
        return LossTerms(loss, flow, **logged, placement=beside, collision_ratio=ratio, weight=weight, balance=balance)


def _huber(error: Tensor, beta: float) -> Tensor:
    return F.smooth_l1_loss(error, torch.zeros_like(error), beta=beta)


@torch.no_grad()
def world_points(decoder: nn.Module, latents: Tensor, placements: Tensor) -> list[Tensor]:
    """Occupied voxels of each asset's decoded latent [N, c, R, R, R], placed: N tensors [P_i, 3].

    The query's y-up frame with its origin at the corner of the query's box, as released; a voxel is its lower corner.
    """
    points = []
    placed = torch.cat([torch.tensor([[0, 0, 0, 1, 0, 0, 0, 1.0]], device=placements.device), placements[1:]])
    for logits, row in zip(decoder(latents)[:, 0], placed, strict=True):
        x, y, z = ((logits > 0).nonzero().float() / len(logits) - 0.5).unbind(-1)
        local = torch.stack([x, z, -y], dim=-1)
        rotation = rotation_matrices(row[None, 3:7])[0]
        points.append(row[7] * local @ rotation.T + row[:3] + 0.5)
    return points


@torch.no_grad()
def collision_ratio(decoder: nn.Module, latents: Tensor, placements: Tensor) -> Tensor:
    """Share of the scene's occupied cells that hold more than one object; the query's does not count, as released."""
    points = world_points(decoder, latents, placements)
    together = torch.cat(points)
    if not len(together):  # nothing is decoded early in training, or of a velocity that overflowed
        return latents.new_zeros(())
    low, high = together.amin(0), together.amax(0)
    side = (high - low).max().clamp(min=1e-6)
    size = COLLISION_RESOLUTION
    count = torch.zeros(size**3, device=latents.device)
    for cloud in points[1:]:
        cell = ((cloud - (low + high) / 2) / side + 0.5).clamp(0, 1).mul(size - 1).floor().long()
        count[torch.unique((cell[:, 0] * size + cell[:, 1]) * size + cell[:, 2])] += 1
    return (count > 1).sum() / ((count > 0).sum() + 1e-8)
