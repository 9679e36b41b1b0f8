"""The position head: one position token per asset to its placement (spec/structure.md section 3).

Knows nothing about latents or conditions. A raw placement is (translation 3, quaternion wxyz 4, scale 1) relative
to the query asset, in its y-up frame; the quaternion is not normalised.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scenegen.generator.nn.attention import SelfAttention
from scenegen.generator.nn.layers import MLP, modulate, modulation
from scenegen.generator.nn.norms import LayerNorm32
from scenegen.generator.nn.precision import halve_weights
from scenegen.scene import InvalidInput

IDENTITY = (0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
"""The query asset's own placement, as the head writes it."""


class PositionBlock(nn.Module):
    """Attention and MLP on a one-token sequence, modulated by the embedded placement."""

    def __init__(self, channels: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm1 = LayerNorm32(channels, eps=1e-6, elementwise_affine=False)
        self.norm2 = LayerNorm32(channels, eps=1e-6, elementwise_affine=False)
        self.attn = SelfAttention(channels, heads, qk_rms_norm=True)
        self.mlp = MLP(channels, mlp_ratio)
        self.adaLN_modulation = modulation(channels, 6)

    def forward(self, h: Tensor, m: Tensor) -> Tensor:
        """h: [N, 1, C] tokens, m: [N, 1, C] embedded placements -> [N, 1, C]."""
        shift_attn, scale_attn, gate_attn, shift_mlp, scale_mlp, gate_mlp = self.adaLN_modulation(m).chunk(6, dim=-1)
        h = h + gate_attn * self.attn.of_single_token(modulate(self.norm1(h), shift_attn, scale_attn))
        return h + gate_mlp * self.mlp(modulate(self.norm2(h), shift_mlp, scale_mlp))


class PositionHead(nn.Module):
    """Refines a placement ``num_iteration`` times from the asset's position token."""

    def __init__(
        self,
        model_channels: int,
        trunk_depth: int = 4,
        pose_encoding_type: str = "absT_quatR_S",
        num_heads: int = 16,
        mlp_ratio: float = 4,
        use_fp16: bool = False,
    ) -> None:
        super().__init__()
        if pose_encoding_type != "absT_quatR_S":
            raise InvalidInput(f"pose_encoding_type is {pose_encoding_type!r}, only 'absT_quatR_S' is supported")
        self.empty_pose_tokens = nn.Parameter(torch.tensor([IDENTITY]))
        self.trunk = nn.ModuleList(PositionBlock(model_channels, num_heads, mlp_ratio) for _ in range(trunk_depth))
        self.token_norm = LayerNorm32(model_channels, eps=1e-6, elementwise_affine=False)
        self.trunk_norm = LayerNorm32(model_channels, eps=1e-6, elementwise_affine=False)
        self.embed_pose = nn.Linear(len(IDENTITY), model_channels)
        self.pose_branch = nn.Sequential(
            nn.Linear(model_channels, model_channels // 2), nn.GELU(), nn.Linear(model_channels // 2, len(IDENTITY))
        )
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.normal_(module.bias, std=0.01)
        if use_fp16:
            halve_weights(self.trunk)

    def forward(
        self, position_token: Tensor, num_iteration: int = 4, *, start: Tensor | None = None, scenes: int = 1
    ) -> Tensor:
        """Placements of all assets; in eval mode those of the query assets are the identity.

        position_token: [S*N, 1, C], the query first in each of the S scenes. start: raw placements [S*N, 8] to
        refine, None to begin from ``empty_pose_tokens``. -> float32 [S*N, 8].
        """
        token = self.token_norm(position_token.float())
        dtype = next(self.trunk.parameters()).dtype
        raw = None if start is None else start.float()[:, None]
        for _ in range(num_iteration):
            m = self.embed_pose(self.empty_pose_tokens.expand(len(token), 1, -1) if raw is None else raw).to(dtype)
            h = token.to(dtype)
            for block in self.trunk:
                h = block(h, m)
            change = self.pose_branch(self.trunk_norm(h.float()))
            raw = change if raw is None else raw + change
        assert raw is not None
        raw = raw[:, 0].float()
        placements = torch.cat([raw[:, :7], F.relu(raw[:, 7:])], dim=-1)
        if not self.training:
            placements[:: len(placements) // scenes] = placements.new_tensor(IDENTITY)
        return placements
