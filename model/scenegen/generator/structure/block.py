"""One block of the structure flow model: local, then global attention (spec/structure.md section 2.1).

Knows nothing about patches, time embedding or guidance weights; it does know that rows beyond those of its
condition belong to the negative pass (spec/cost.md section 3.2).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from scenegen.generator.nn.attention import CrossAttention, SelfAttention
from scenegen.generator.nn.layers import MLP, modulate, modulation
from scenegen.generator.nn.norms import LayerNorm32


@dataclass(frozen=True)
class Context:
    """What one cross-attention needs of the condition: constant over all steps of a sampling.

    keys, values: [B, T, H, head_dim]. zero: [C], what the negative pass gets instead.
    """

    keys: Tensor
    values: Tensor
    zero: Tensor

    @staticmethod
    def of(attn: CrossAttention, tokens: Tensor) -> Context:
        """Context of ``attn`` for condition tokens [B, T, ctx]."""
        return Context(*attn.keys_values(tokens), attn.of_zero_context())


def _attend(attn: CrossAttention, norm: nn.Module, x: Tensor, context: Context, branches: int) -> Tensor:
    """Add cross-attention to the conditioned rows and, with two branches, the constant to the negative ones after them.

    x: [B, L, C], or [B / 2, L, C] as long as both branches are the same -> [B, L, C].
    """
    conditioned = len(context.keys)
    rows = x[:conditioned]
    attended = rows + attn(norm(rows), context.keys, context.values)
    return attended if branches == 1 else torch.cat([attended, x[-conditioned:] + context.zero])


class FlowBlock(nn.Module):
    """Local attention within each asset; with ``use_global`` also global attention over all assets of a scene."""

    def __init__(
        self,
        channels: int,
        cond_channels: int,
        heads: int,
        mlp_ratio: float,
        *,
        qk_rms_norm: bool,
        qk_rms_norm_cross: bool,
        share_mod: bool,
        use_global: bool,
    ) -> None:
        super().__init__()
        self.use_global = use_global
        self.norm1 = LayerNorm32(channels, eps=1e-6, elementwise_affine=False)
        self.norm2 = LayerNorm32(channels, eps=1e-6)
        self.norm3 = LayerNorm32(channels, eps=1e-6, elementwise_affine=False)
        self.self_attn = SelfAttention(channels, heads, qk_rms_norm)
        self.cross_attn = CrossAttention(channels, cond_channels, heads, qk_rms_norm_cross)
        self.mlp = MLP(channels, mlp_ratio)
        if not share_mod:
            self.adaLN_modulation = modulation(channels, 6)
        self.share_mod = share_mod
        if use_global:
            self.norm4 = LayerNorm32(channels, eps=1e-6)
            self.norm5 = LayerNorm32(channels, eps=1e-6, elementwise_affine=False)
            self.global_attn = SelfAttention(channels, heads, qk_rms_norm_cross)
            self.global_cross_attn = CrossAttention(channels, cond_channels, heads, qk_rms_norm_cross)
            self.adaLN_modulation_global = modulation(channels, 3)
            self._init_global()

    def _init_global(self) -> None:
        """The published initialisation of the parts that SceneGen adds to TRELLIS (section 2.2)."""
        for attn in (self.global_attn, self.global_cross_attn):
            for layer in attn.children():
                if isinstance(layer, nn.Linear):
                    nn.init.xavier_uniform_(layer.weight)
                    nn.init.normal_(layer.bias, std=0.2)
        nn.init.constant_(self.global_cross_attn.to_kv.bias, 0.1)
        for parameter in self.adaLN_modulation_global.parameters():
            nn.init.normal_(parameter, std=0.02)

    def contexts(self, local: Tensor, scene: Tensor) -> tuple[Context, Context | None]:
        """Contexts of the local [B, T_l, ctx] and of all [B, T, ctx] condition tokens."""
        return (
            Context.of(self.cross_attn, local),
            Context.of(self.global_cross_attn, scene) if self.use_global else None,
        )

    def forward(
        self,
        special: Tensor | None,
        x: Tensor,
        emb: Tensor,
        contexts: tuple[Context, Context | None],
        scenes: int,
        branches: int,
    ) -> tuple[Tensor | None, Tensor]:
        """Special tokens [B, k, C] (None without ``use_global``) and latent tokens [B, L, C] -> the same.

        emb: [B or 1, C] time embedding ([.., 6C] with ``share_mod``). Rows stand by branch, of which there are two with
        a negative pass, then by scene; global attention stays within each scene of each branch. x may be given once for
        both branches: they part at the first cross-attention.
        """
        chunks = (emb if self.share_mod else self.adaLN_modulation(emb))[:, None].chunk(6, dim=-1)
        shift_attn, scale_attn, gate_attn, shift_mlp, scale_mlp, gate_mlp = chunks
        local, scene = contexts
        x = x + gate_attn * self.self_attn(modulate(self.norm1(x), shift_attn, scale_attn))
        x = _attend(self.cross_attn, self.norm2, x, local, branches)
        if special is not None and scene is not None:
            count = special.shape[1]
            shift, scale, gate = self.adaLN_modulation_global(emb)[:, None].chunk(3, dim=-1)
            y = torch.cat([special, x], dim=1)
            h = modulate(self.norm4(y), shift, scale)
            h = self.global_attn(h.reshape(branches * scenes, -1, h.shape[-1])).reshape(y.shape)
            y = y + gate * h
            y = _attend(self.global_cross_attn, self.norm5, y, scene, branches)
            special, x = y[:, :count], y[:, count:]
        return special, x + gate_mlp * self.mlp(modulate(self.norm3(x), shift_mlp, scale_mlp))
