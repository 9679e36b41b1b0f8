"""The transformer that the latent encoder and all decoders begin with (spec/latents.md section 6).

Parameter names are those of the published checkpoints. Knows nothing about what goes in or comes out.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from scenegen.generator.nn.layers import MLP
from scenegen.generator.nn.norms import LayerNorm32
from scenegen.generator.nn.precision import halve_weights
from scenegen.generator.nn.sparse import Voxels
from scenegen.generator.nn.sparse_attention import Groups, SparseSelfAttention
from scenegen.scene import InvalidInput


class SparseTransformerBlock(nn.Module):
    """Attention within groups of rows, then a feed-forward network."""

    def __init__(self, channels: int, num_heads: int, mlp_ratio: float, qk_rms_norm: bool) -> None:
        super().__init__()
        self.norm1 = LayerNorm32(channels, eps=1e-6, elementwise_affine=False)
        self.norm2 = LayerNorm32(channels, eps=1e-6, elementwise_affine=False)
        self.attn = SparseSelfAttention(channels, num_heads, qk_rms_norm)
        self.mlp = MLP(channels, mlp_ratio)

    def forward(self, x: Tensor, groups: Groups) -> Tensor:
        """x: [N, C] -> [N, C]."""
        x = x + self.attn(self.norm1(x), groups)
        return x + self.mlp(self.norm2(x))


class SparseTransformer(nn.Module):
    """Linear, position embedding, blocks. attn_mode: "swin" windows, shifted by half in every other block, or "full".

    Args as in the published config files.
    """

    def __init__(
        self,
        in_channels: int,
        model_channels: int,
        num_blocks: int,
        num_heads: int | None = None,
        num_head_channels: int = 64,
        mlp_ratio: float = 4,
        attn_mode: str = "swin",
        window_size: int | None = None,
        pe_mode: str = "ape",
        use_fp16: bool = False,
        use_checkpoint: bool = False,
        qk_rms_norm: bool = False,
    ) -> None:
        super().__init__()
        if pe_mode != "ape":
            raise InvalidInput(f"sparse transformer config: pe_mode {pe_mode!r} is not supported, only 'ape'")
        if attn_mode not in ("full", "swin") or (attn_mode == "swin" and not window_size):
            raise InvalidInput(
                f"sparse transformer config: attn_mode {attn_mode!r} with window_size {window_size} is not supported, "
                "only 'full', and 'swin' with a window_size"
            )
        heads = num_heads or model_channels // num_head_channels
        self.in_channels, self.model_channels = in_channels, model_channels
        self.window_size = window_size if attn_mode == "swin" else None
        self.use_checkpoint = use_checkpoint
        self.input_layer = nn.Linear(in_channels, model_channels)
        self.blocks = nn.ModuleList(
            SparseTransformerBlock(model_channels, heads, mlp_ratio, qk_rms_norm) for _ in range(num_blocks)
        )
        if use_fp16:
            halve_weights(self.blocks)

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the blocks."""
        return next(cast(SparseTransformerBlock, self.blocks[0]).mlp.parameters()).dtype

    def transform(self, x: Tensor, voxels: Voxels) -> Tensor:
        """x: [N, in] -> [N, C], in the precision of the blocks. Raises InvalidInput when x is of another shape."""
        if x.shape != (len(voxels), self.in_channels):
            raise InvalidInput(f"features {list(x.shape)}, expected [{len(voxels)} voxels, {self.in_channels}]")
        h = (self.input_layer(x) + voxels.position_embedding(self.model_channels)).to(self.dtype)
        for index, block in enumerate(self.blocks):
            groups = self._groups(voxels, index)
            if self.use_checkpoint and torch.is_grad_enabled():
                h = checkpoint(block, h, groups, use_reentrant=False)
            else:
                h = block(h, groups)
        return h

    def transform_normalised(self, x: Tensor, voxels: Voxels) -> Tensor:
        """The same in the precision of x, each row normalised (eps 1e-5): what most output layers take."""
        h = self.transform(x, voxels).to(x.dtype)
        return F.layer_norm(h, h.shape[-1:])

    def _groups(self, voxels: Voxels, block: int) -> Groups:
        if self.window_size is None:
            return voxels.whole_samples
        return voxels.windows(self.window_size, self.window_size // 2 * (block % 2))
