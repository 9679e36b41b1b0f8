"""What a small encoder already knows of shape and placement, read out of the condition tokens.

At full size the flow transformer finds everything in the condition tokens by itself. A small one trained for hours
does not: spec/small_model.md measured that it learns shape and placement only when both are first regressed from
the tokens and handed to it. The readout is that regression. It starts the latents (added to the latent tokens) and
the position head (whose iterations refine the estimate). Published models have none.

Knows nothing about images, time steps or sampling.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scenegen.generator.rays import ANGLES

RAY_FEATURES = 1 + ANGLES + 2


@dataclass(frozen=True)
class AssetEstimate:
    """Regressed from the tokens of asset images alone, one row per asset.

    latents [N, L, D]: structure latents in patchified token layout. yaw_logits [N, bins]: apparent yaw, relative to
    the viewing ray. features [N, C]: what yaw is read from.
    """

    latents: Tensor
    yaw_logits: Tensor
    features: Tensor


@dataclass(frozen=True)
class ConditionEstimate:
    """Regressed from condition tokens, one row per asset.

    latents [N, L, D]: structure latents in patchified token layout.
    placements [N, 8]: relative to the first asset of each scene, as the position head's: translation, quaternion
    wxyz, scale.
    """

    latents: Tensor
    placements: Tensor


class ReadoutBlock(nn.Module):
    """Pre-norm block of queries that attend to a context, then to themselves, then an MLP."""

    def __init__(self, channels: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm_cross, self.norm_self, self.norm_mlp = (nn.LayerNorm(channels) for _ in range(3))
        self.to_q, self.to_kv = nn.Linear(channels, channels), nn.Linear(channels, 2 * channels)
        self.cross_out = nn.Linear(channels, channels)
        self.to_qkv, self.self_out = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)
        self.mlp = nn.Sequential(
            nn.Linear(channels, 4 * channels), nn.GELU(approximate="tanh"), nn.Linear(4 * channels, channels)
        )

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Multi-head attention of q [N, L, C] over k, v [N, T, C]: [N, L, C]."""
        q, k, v = (x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for x in (q, k, v))
        # Short sequences: the explicit product is several times faster to train on a CPU than the fused kernel.
        scores = (q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5
        return (scores.softmax(-1).to(v.dtype) @ v).transpose(1, 2).flatten(2)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """Queries x [N, L, C] after one look at the context [N, T, C]."""
        x = x + self.cross_out(self.attend(self.to_q(self.norm_cross(x)), *self.to_kv(context).chunk(2, dim=-1)))
        x = x + self.self_out(self.attend(*self.to_qkv(self.norm_self(x)).chunk(3, dim=-1)))
        return x + self.mlp(self.norm_mlp(x))


class ConditionReadout(nn.Module):
    """Condition tokens [N, T, C] -> ConditionEstimate.

    The token layout is that of spec/structure.md section 6.4, with ``local_tokens`` tokens per image block.
    latent_tokens, latent_channels: L and D of the estimate. yaw_bins: bins of the apparent yaw over the full turn.
    ray_token: the last condition token holds the rays of the asset; where they are known, shapes and yaws are read with
    them, and positions are what `lifted` makes of them.
    """

    def __init__(
        self,
        channels: int,
        latent_tokens: int,
        latent_channels: int,
        local_tokens: int,
        num_heads: int = 3,
        depth: int = 2,
        yaw_bins: int = 36,
        ray_token: bool = False,
    ) -> None:
        super().__init__()
        self.local_tokens, self.ray_token = local_tokens, ray_token
        self.yaw_bins = yaw_bins
        self.shape_queries = nn.Parameter(torch.randn(1, latent_tokens, channels) * 0.5)
        self.place_query = nn.Parameter(torch.randn(1, 1, channels) * 0.5)
        self.place_inputs = nn.Linear(4 * channels, channels)
        self.shape_blocks = nn.ModuleList(ReadoutBlock(channels, num_heads) for _ in range(depth))
        self.place_blocks = nn.ModuleList(ReadoutBlock(channels, num_heads) for _ in range(depth))
        self.context_norm = nn.LayerNorm(channels)
        self.to_latents = nn.Sequential(nn.LayerNorm(channels), nn.Linear(channels, latent_channels))
        self.to_features = nn.Sequential(nn.Linear(channels, channels), nn.GELU())
        self.to_yaw = nn.Linear(channels, yaw_bins)
        self.to_place = _place_head(channels)
        if ray_token:
            self.read_rays = nn.Sequential(
                nn.Linear(RAY_FEATURES, channels), nn.GELU(), nn.Linear(channels, channels), nn.GELU()
            )
            self.rays_to_shape, self.rays_to_yaw, self.rays_to_place = (nn.Linear(channels, channels) for _ in range(3))
            self.to_lifted = _place_head(channels)
            # Zero, so that a readout that was trained without rays can go on with them.
            for last in (self.rays_to_shape, self.rays_to_yaw, self.rays_to_place, self.to_lifted[3]):
                for parameter in last.parameters():
                    nn.init.zeros_(parameter)

    def forward(self, cond: Tensor, *, scenes: int = 1) -> ConditionEstimate:
        """cond [N, T, C], the assets of ``scenes`` scenes of equal count, scene-major; the first of each is its query.

        Rows of zeros (dropped conditions) give zero latents and the identity placement.
        """
        present = cond.abs().amax(dim=(1, 2)) > 0
        asset = self.of_assets(cond[:, : self.local_tokens], self.rays(cond))
        placements = compose_placements(*self.place(cond), yaw_from_logits(asset.yaw_logits), scenes)
        identity = placements.new_tensor([0, 0, 0, 1, 0, 0, 0, 1.0])
        return ConditionEstimate(
            latents=asset.latents * present[:, None, None],
            placements=torch.where(present[:, None], placements, identity),
        )

    def rays(self, cond: Tensor) -> Tensor:
        """The rays [N, 1 + ANGLES] that condition tokens hold; unknown for a readout without a ray token."""
        if not self.ray_token:
            return cond.new_zeros(len(cond), 1 + ANGLES, dtype=torch.float32)
        return cond[:, -1, : 1 + ANGLES].float()

    def of_assets(self, tokens: Tensor, rays: Tensor) -> AssetEstimate:
        """What the tokens of asset images [N, local_tokens, C] tell, and rays [N, 1 + ANGLES] of the same assets."""
        context = self.context_norm(tokens)
        shape = self.shape_queries.expand(len(tokens), -1, -1)
        first = context[:, 0]
        if self.ray_token:
            read = self.read_rays(ray_features(rays))
            shape = shape + self.rays_to_shape(read)[:, None]
            first = first + self.rays_to_yaw(read)
        for block in self.shape_blocks:
            shape = block(shape, context)
        features = self.to_features(first)
        return AssetEstimate(self.to_latents(shape).float(), self.to_yaw(features).float(), features)

    def place(self, cond: Tensor) -> tuple[Tensor, Tensor]:
        """Position [N, 3] and log size [N] of the assets with condition tokens [N, T, C].

        The position is the centre's in the heading frame (x right, y forward, z up, origin at the camera), the size
        the longest extent; both are in camera heights above the objects' support.
        """
        rays = self.rays(cond)
        if self.ray_token:
            cond = cond[:, :-1]
        local = self.local_tokens
        half = (cond.shape[1] - 3 * local) // 2
        context = self.context_norm(cond)
        class_tokens = context[:, [0, local, 3 * local, 3 * local + half]].flatten(1)
        x = self.place_query + self.place_inputs(class_tokens)[:, None]
        if self.ray_token:
            x = x + self.rays_to_place(self.read_rays(ray_features(rays)))[:, None]
        for block in self.place_blocks:
            x = block(x, context)
        values = self.to_place(x[:, 0]).float()
        if self.ray_token:
            values = torch.where(rays[:, :1] > 0, lifted(rays, self.to_lifted(x[:, 0]).float()), values)
        return values[:, :3], values[:, 3]


def _place_head(channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.LayerNorm(channels), nn.Linear(channels, 2 * channels), nn.GELU(), nn.Linear(2 * channels, 4)
    )


def box_of_rays(rays: Tensor) -> tuple[Tensor, Tensor]:
    """Distance [N] on the ground to what the lowest ray meets, and the longer side [N] of the mask's box there.

    Both in camera heights: what rays [N, 1 + ANGLES] say of an object without a look at it; 1 where they are unknown.
    """
    known = rays[:, 0] > 0
    _, elevation, left, right, top, bottom = rays[:, 1:].unbind(-1)
    distance = torch.where(known, -1 / torch.where(known, bottom, -1).tan(), 1.0)
    size = distance * torch.maximum(right - left, (top - bottom) / elevation.cos())
    return distance, torch.where(known, size.clamp(min=1e-3), 1.0)


def ray_features(rays: Tensor) -> Tensor:
    """Rays [N, 1 + ANGLES] as numbers of about one [N, RAY_FEATURES]; zero where they are unknown."""
    distance, size = box_of_rays(rays)
    return torch.cat([rays[:, :1], 2 * rays[:, 1:], distance[:, None].log(), size[:, None].log()], dim=-1)


def lifted(rays: Tensor, offset: Tensor) -> Tensor:
    """Positions and log sizes [N, 4] as `place` gives them, of assets with known rays [N, 1 + ANGLES].

    offset [N, 4]: from the point that the rays alone suggest, along the horizontal ray's right, the ray and up, in
    sizes that they suggest; and the log of the size's ratio to that.
    """
    distance, size = box_of_rays(rays)
    azimuth, elevation = rays[:, 1], rays[:, 2]
    right, forward = offset[:, 0] * size, distance + offset[:, 1] * size
    x, y = (
        azimuth.cos() * right + azimuth.sin() * forward,
        azimuth.cos() * forward - azimuth.sin() * right,
    )
    z = distance * elevation.tan() + offset[:, 2] * size
    return torch.stack([x, y, z, size.log() + offset[:, 3]], dim=-1)


def yaw_from_logits(logits: Tensor) -> Tensor:
    """Apparent yaw [N] in radians from bins [N, bins]; bin b is centred on 2 pi b / bins.

    Circular mean over the best bin and its two neighbours on each side: the mean over all bins would fall between
    the peaks of an object whose front is uncertain.
    """
    bins = logits.shape[-1]
    best = logits.argmax(-1, keepdim=True)
    near = (best + torch.arange(-2, 3, device=logits.device)) % bins
    weights = logits.softmax(-1).gather(-1, near)
    angles = near * (2 * math.pi / bins)
    return torch.atan2((weights * angles.sin()).sum(-1), (weights * angles.cos()).sum(-1))


def yaw_targets(yaw: Tensor, bins: int, concentration: float = 20.0) -> Tensor:
    """Soft targets [N, bins] for apparent yaws [N]: a von Mises bump around each."""
    centres = torch.arange(bins, device=yaw.device) * (2 * math.pi / bins)
    return F.softmax(concentration * torch.cos(centres - yaw[:, None]), dim=-1)


def compose_placements(position: Tensor, log_size: Tensor, apparent_yaw: Tensor, scenes: int) -> Tensor:
    """Placements [N, 8] relative to the first asset of each scene, from camera-frame estimates.

    position [N, 3] in the heading frame, log_size [N], apparent_yaw [N]. Objects stand upright, so rotations are
    yaws: about z in the heading frame, about y in the placement's y-up frame (spec/structure.md section 7).
    """
    yaw = apparent_yaw + torch.atan2(position[:, 1], position[:, 0])

    def of_query(x: Tensor) -> Tensor:
        grouped = x.unflatten(0, (scenes, -1))
        return grouped[:, :1].expand_as(grouped).flatten(0, 1)

    offset = (position - of_query(position)) / of_query(log_size).exp()[:, None]
    cos, sin = of_query(yaw).cos(), of_query(yaw).sin()
    x, y = cos * offset[:, 0] + sin * offset[:, 1], cos * offset[:, 1] - sin * offset[:, 0]
    half = (yaw - of_query(yaw)) / 2
    zero = torch.zeros_like(half)
    scale = (log_size - of_query(log_size)).exp()
    return torch.stack([x, offset[:, 2], -y, half.cos(), zero, half.sin(), zero, scale], dim=-1)
