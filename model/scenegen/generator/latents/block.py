"""One block of the latent flow model: attention within each asset, then to its image (spec/latents.md section 4.2).

Knows nothing about time embedding, resolutions or guidance weights.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from scenegen.generator.nn.layers import MLP, modulate, modulation
from scenegen.generator.nn.norms import LayerNorm32
from scenegen.generator.nn.sparse import Voxels
from scenegen.generator.nn.sparse_attention import SparseCrossAttention, SparseSelfAttention


@dataclass(frozen=True)
class KeysValues:
    """What a cross-attention needs of a condition, constant over all steps of a sampling: [B, T, H, head_dim] each."""

    keys: Tensor
    values: Tensor


Context = KeysValues | Tensor
"""Keys and values; or, of an all-zero condition, what every row gets from it: [C]."""


class LatentFlowBlock(nn.Module):
    """Attention within each asset and to its condition, modulated by time."""

    def __init__(
        self,
        channels: int,
        ctx_channels: int,
        num_heads: int,
        mlp_ratio: float = 4,
        *,
        qk_rms_norm: bool = False,
        qk_rms_norm_cross: bool = False,
        share_mod: bool = False,
    ) -> None:
        super().__init__()
        self.norm1 = LayerNorm32(channels, eps=1e-6, elementwise_affine=False)
        self.norm2 = LayerNorm32(channels, eps=1e-6)
        self.norm3 = LayerNorm32(channels, eps=1e-6, elementwise_affine=False)
        self.self_attn = SparseSelfAttention(channels, num_heads, qk_rms_norm)
        self.cross_attn = SparseCrossAttention(channels, ctx_channels, num_heads, qk_rms_norm_cross)
        self.mlp = MLP(channels, mlp_ratio)
        self.adaLN_modulation = nn.Identity() if share_mod else modulation(channels, 6)

    def context(self, cond: Tensor | None) -> Context:
        """What the condition tokens [B, T, ctx], or all-zero ones (None), mean to this block."""
        if cond is None:
            return self.cross_attn.of_zero_context()
        return KeysValues(*self.cross_attn.keys_values(cond))

    def forward(self, x: Tensor, voxels: Voxels, emb: Tensor, context: Context) -> Tensor:
        """x: [N, C] -> [N, C]. emb: [B or 1, C], the time; [.., 6 C] with ``share_mod``."""
        return self.attend_to_condition(self.attend_within(x, voxels, emb), voxels, emb, context)

    def attend_within(self, x: Tensor, voxels: Voxels, emb: Tensor) -> Tensor:
        """The part that comes before the condition: [N, C] -> [N, C]."""
        shift, scale, gate = voxels.rows(self.adaLN_modulation(emb)).chunk(6, dim=1)[:3]
        return x + gate * self.self_attn(modulate(self.norm1(x), shift, scale), voxels.whole_samples)

    def attend_to_condition(self, x: Tensor, voxels: Voxels, emb: Tensor, context: Context) -> Tensor:
        """The rest: [N, C] -> [N, C]."""
        shift, scale, gate = voxels.rows(self.adaLN_modulation(emb)).chunk(6, dim=1)[3:]
        if isinstance(context, KeysValues):
            x = x + self.cross_attn(self.norm2(x), voxels.lengths, context.keys, context.values)
        else:
            x = x + context
        return x + gate * self.mlp(modulate(self.norm3(x), shift, scale))
