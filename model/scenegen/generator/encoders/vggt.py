"""The VGGT aggregator: views of one scene to geometry tokens (spec/vggt.md).

Frame attention looks within a view, global attention across the views of a sequence, in turn. Parameter names are
those of the published checkpoint (`aggregator.*`). Knows nothing about cameras, depth or what the tokens are for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from scenegen.generator.encoders.rope import rotary_tables
from scenegen.generator.encoders.vit import Block, ImageNorm, VisionTransformer
from scenegen.scene import InvalidInput


class VGGTAggregator(nn.Module):
    """Alternating attention over views (spec/vggt.md items 1-6); the arguments are the manifest's config."""

    def __init__(
        self,
        embed_dim: int,
        patch_embed_vit: Mapping[str, Any],
        aa_depth: int,
        aa_heads: int,
        *,
        img_size: int = 518,
        patch_size: int = 14,
        num_register_tokens: int = 4,
        rope_freq: float = 100,
        qk_norm: bool = True,
        aa_layernorm_eps: float = 1e-5,
        mlp_ratio: float = 4,
    ) -> None:
        super().__init__()
        self.embed_dim, self.image_size, self.patch_size = embed_dim, img_size, patch_size
        self.head_dim, self.rope_freq = embed_dim // aa_heads, rope_freq
        self.patch_embed = VisionTransformer(
            embed_dim, img_size=img_size, patch_size=patch_size, mlp_ratio=mlp_ratio, **patch_embed_vit
        )
        # index 0 is for the first view of a sequence, index 1 for all others
        self.camera_token = nn.Parameter(torch.zeros(1, 2, 1, embed_dim))
        self.register_token = nn.Parameter(torch.zeros(1, 2, num_register_tokens, embed_dim))

        def rounds() -> nn.ModuleList:
            return nn.ModuleList(
                Block(embed_dim, aa_heads, mlp_ratio=mlp_ratio, eps=aa_layernorm_eps, qk_norm=qk_norm)
                for _ in range(aa_depth)
            )

        self.frame_blocks, self.global_blocks = rounds(), rounds()
        self.image_norm = ImageNorm()
        self._initialise()

    @property
    def num_tokens(self) -> int:
        """Tokens of one square view at the configured size: camera, registers, patches."""
        return 1 + self.register_token.shape[2] + (self.image_size // self.patch_size) ** 2

    def forward(self, images: Tensor, rounds: Sequence[int] = (-1,)) -> list[Tensor]:
        """Geometry tokens of views, one tensor [B, S, P, 2C] for each of the rounds asked for.

        images: [B, S, 3, H, W] in 0..1, S views in each of B sequences; H and W multiples of the patch.
        The first C channels are the frame attention's output, the last C the global attention's. Token order: camera,
        registers, patches. Raises InvalidInput when the size does not fit the patch.
        """
        batch, views, _, height, width = images.shape
        if height % self.patch_size or width % self.patch_size:
            raise InvalidInput(
                f"images are {height} x {width}: height and width must be multiples of the patch, {self.patch_size}"
            )
        patches = self.patch_embed(self.image_norm(images.flatten(0, 1)))
        special = torch.cat([self.camera_token, self.register_token], dim=2)
        order = torch.arange(views, device=images.device).clamp(max=1).repeat(batch)
        tokens = torch.cat([special[0, order], patches], dim=1)
        frame_rotary, global_rotary = self._rotary(height // self.patch_size, width // self.patch_size, views, tokens)

        wanted = {range(len(self.frame_blocks))[index] for index in rounds}
        outputs: dict[int, Tensor] = {}
        for index, (frame_block, global_block) in enumerate(zip(self.frame_blocks, self.global_blocks, strict=True)):
            within = frame_block(tokens, frame_rotary)
            across = global_block(within.unflatten(0, (batch, views)).flatten(1, 2), global_rotary)
            tokens = across.unflatten(1, (views, -1)).flatten(0, 1)
            if index in wanted:
                outputs[index] = torch.cat([within, tokens], dim=-1).unflatten(0, (batch, views))
        return [outputs[range(len(self.frame_blocks))[index]] for index in rounds]

    def _rotary(
        self, rows: int, columns: int, views: int, like: Tensor
    ) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Rotary tables of one view and of a whole sequence; special tokens stand at (0, 0), patches count from 1."""
        row, column = (torch.arange(1, side + 1, device=like.device) for side in (rows, columns))
        patches = torch.cartesian_prod(row, column)
        special = patches.new_zeros(like.shape[1] - len(patches), 2)
        cosines, sines = rotary_tables(torch.cat([special, patches]), self.head_dim, self.rope_freq)
        return (cosines, sines), (cosines.repeat(views, 1), sines.repeat(views, 1))

    def _initialise(self) -> None:
        for name, parameter in self.named_parameters():
            if parameter.ndim > 1:
                nn.init.trunc_normal_(parameter, std=0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)
