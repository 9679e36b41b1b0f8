"""The latent flow model: noisy structured latents of assets to velocities (spec/latents.md section 4).

All assets of a scene are one sparse batch; each is conditioned by the tokens of its own image. What stays constant
over a sampling is kept in the `Voxels` and in encoded conditions (spec/cost.md section 3). Parameter names are those
of the published checkpoints. Knows nothing about schedules, guidance weights or images.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from scenegen.generator.latents.block import Context, KeysValues, LatentFlowBlock
from scenegen.generator.nn.layers import TimestepEmbedder, modulation
from scenegen.generator.nn.precision import halve_weights
from scenegen.generator.nn.sparse import Voxels
from scenegen.generator.nn.sparse_blocks import SparseResBlock3d
from scenegen.scene import InvalidInput

Condition = tuple[Context, ...]
"""An encoded condition, or the absence of one: what it means to every block."""


class SLatFlowModel(nn.Module):
    """Velocity of structured latents. Args as in the published config files (spec/latents.md section 4)."""

    def __init__(
        self,
        resolution: int,
        in_channels: int,
        model_channels: int,
        cond_channels: int,
        out_channels: int,
        num_blocks: int,
        num_heads: int | None = None,
        num_head_channels: int = 64,
        mlp_ratio: float = 4,
        patch_size: int = 2,
        num_io_res_blocks: int = 2,
        io_block_channels: Sequence[int] | None = None,
        pe_mode: str = "ape",
        use_fp16: bool = False,
        use_checkpoint: bool = False,
        use_skip_connection: bool = True,
        share_mod: bool = False,
        qk_rms_norm: bool = False,
        qk_rms_norm_cross: bool = False,
    ) -> None:
        super().__init__()
        widths = tuple(io_block_channels or ())
        _reject_unsupported(
            {
                f"pe_mode {pe_mode!r}: only 'ape' is supported": pe_mode != "ape",
                "share_mod together with io_block_channels": share_mod and bool(widths),
                f"patch_size {patch_size} with {len(widths)} io_block_channels, 2 to the power of their number is "
                "needed": patch_size != 2 ** len(widths),
            }
        )
        heads = num_heads or model_channels // num_head_channels
        self.resolution, self.in_channels, self.cond_channels = resolution, in_channels, cond_channels
        self.model_channels, self.use_checkpoint, self.patch_size = model_channels, use_checkpoint, patch_size
        self.use_skip_connection = use_skip_connection
        self.t_embedder = TimestepEmbedder(model_channels)
        self.adaLN_modulation = modulation(model_channels, 6) if share_mod else nn.Identity()
        outermost = widths[0] if widths else model_channels
        self.input_layer = nn.Linear(in_channels, outermost)
        self.input_blocks, self.out_blocks = nn.ModuleList(), nn.ModuleList()
        doubled = 2 if use_skip_connection else 1
        levels = list(pairwise((*widths, model_channels)))
        for width, deeper in levels:
            for _ in range(num_io_res_blocks - 1):
                self.input_blocks.append(SparseResBlock3d(width, model_channels))
            self.input_blocks.append(SparseResBlock3d(width, model_channels, deeper, "down"))
        for width, deeper in reversed(levels):
            self.out_blocks.append(SparseResBlock3d(doubled * deeper, model_channels, width, "up"))
            for _ in range(num_io_res_blocks - 1):
                self.out_blocks.append(SparseResBlock3d(doubled * width, model_channels, width))
        self.blocks = nn.ModuleList(
            LatentFlowBlock(
                model_channels,
                cond_channels,
                heads,
                mlp_ratio,
                qk_rms_norm=qk_rms_norm,
                qk_rms_norm_cross=qk_rms_norm_cross,
                share_mod=share_mod,
            )
            for _ in range(num_blocks)
        )
        self.out_layer = nn.Linear(outermost, out_channels)
        if use_fp16:
            halve_weights(self.input_blocks, self.blocks, self.out_blocks)

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the blocks."""
        return next(self._flow_blocks[0].mlp.parameters()).dtype

    @property
    def _flow_blocks(self) -> list[LatentFlowBlock]:
        return cast("list[LatentFlowBlock]", list(self.blocks))

    def encode_condition(self, cond: Tensor | None) -> Condition:
        """What the blocks need of image tokens [B, T, cond_channels] of B assets; None: of all-zero ones."""
        if cond is not None and (cond.ndim != 3 or cond.shape[2] != self.cond_channels):
            raise InvalidInput(f"condition {list(cond.shape)}, expected [assets, tokens, {self.cond_channels}]")
        tokens = None if cond is None else cond.to(self.dtype)
        return tuple(block.context(tokens) for block in self._flow_blocks)

    def velocities(self, x: Tensor, voxels: Voxels, t: Tensor, conditions: Sequence[Condition]) -> list[Tensor]:
        """The velocity [N, out] under each of several conditions; what does not depend on them is done once.

        x: float32 [N, in]. t: 1000 x flow time, [B], or [1] for all assets (cheaper). Raises InvalidInput when the
        voxels, latents and conditions are not of equally many assets or rows.
        """
        self._require_fit(x, voxels, conditions)
        emb = self.adaLN_modulation(self.t_embedder(t)).to(self.dtype)
        h = self.input_layer(x).to(self.dtype)
        levels, skips = [voxels], []
        for part in self.input_blocks:
            block = cast(SparseResBlock3d, part)
            h = block(h, levels[-1], emb)
            if block.resample == "down":
                levels.append(levels[-1].coarser.coarse)
            skips.append(h)
        coarse = levels[-1]
        h = h + coarse.position_embedding(self.model_channels).to(h.dtype)
        h = self._flow_blocks[0].attend_within(h, coarse, emb)
        return [
            self._velocity(self._attend(h, coarse, emb, condition), levels, skips, emb).to(x.dtype)
            for condition in conditions
        ]

    def forward(self, x: Tensor, voxels: Voxels, t: Tensor, cond: Tensor) -> Tensor:
        """Evaluate once, keeping nothing: x [N, in], t [B] (1000 x flow time), cond [B, T, ctx] -> [N, out]."""
        (velocity,) = self.velocities(x, voxels, t, [self.encode_condition(cond)])
        return velocity

    def _attend(self, h: Tensor, voxels: Voxels, emb: Tensor, condition: Condition) -> Tensor:
        """All blocks, but for the part of the first that was done for all conditions."""
        first, *others = self._flow_blocks
        h = first.attend_to_condition(h, voxels, emb, condition[0])
        for block, context in zip(others, condition[1:], strict=True):
            if self.use_checkpoint and torch.is_grad_enabled():
                h = checkpoint(block, h, voxels, emb, context, use_reentrant=False)
            else:
                h = block(h, voxels, emb, context)
        return h

    def _velocity(self, h: Tensor, levels: Sequence[Voxels], skips: Sequence[Tensor], emb: Tensor) -> Tensor:
        """Back to the finest of the levels, each output block joined by the output of its input block."""
        level = len(levels) - 1
        for part, skip in zip(self.out_blocks, reversed(skips), strict=True):
            block = cast(SparseResBlock3d, part)
            if block.resample == "up":
                level -= 1
            h = block(torch.cat([h, skip], dim=1) if self.use_skip_connection else h, levels[level], emb)
        return self.out_layer(F.layer_norm(h, h.shape[-1:]).to(self.out_layer.weight.dtype))

    def _require_fit(self, x: Tensor, voxels: Voxels, conditions: Sequence[Condition]) -> None:
        if x.shape != (len(voxels), self.in_channels):
            raise InvalidInput(f"latents {list(x.shape)}, expected [{len(voxels)} voxels, {self.in_channels}]")
        for condition in conditions:
            context = condition[0]
            if isinstance(context, KeysValues) and len(context.keys) != voxels.samples:
                raise InvalidInput(
                    f"voxels of {voxels.samples} assets but conditions of {len(context.keys)}: one condition per "
                    "asset is needed"
                )


def _reject_unsupported(reasons: dict[str, bool]) -> None:
    for reason, applies in reasons.items():
        if applies:
            raise InvalidInput(f"latent flow model config: {reason} is not supported")
