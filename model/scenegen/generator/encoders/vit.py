"""The transformer block and the plain vision transformer that VGGT is made of (spec/vggt.md items 2 and 5).

Parameter names are those of the published VGGT checkpoint. Knows nothing about frames or sequences of views.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from scenegen.generator.encoders.rope import rotate
from scenegen.scene import InvalidInput


class ImageNorm(nn.Module):
    """Subtracts ImageNet's mean and divides by its deviation: [..., 3, H, W] in 0..1. Nothing enters the state dict."""

    mean: Tensor
    deviation: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Normalise images, in the dtype of the module."""
        return (images.to(self.mean.dtype) - self.mean) / self.deviation


class Attention(nn.Module):
    """Self-attention with one projection for q, k, v; optional layer norm per head on q and k before the rotation."""

    def __init__(self, dim: int, num_heads: int, qk_norm: bool = False) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.q_norm = nn.LayerNorm(dim // num_heads) if qk_norm else nn.Identity()
        self.k_norm = nn.LayerNorm(dim // num_heads) if qk_norm else nn.Identity()
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, rotary: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Attend within each row of x [B, L, C]."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        q, k = self.q_norm(q), self.k_norm(k)
        if rotary is not None:
            q, k = rotate(q, rotary), rotate(k, rotary)
        return self.proj(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """Linear, exact GELU, linear."""

    def __init__(self, dim: int, hidden: int, out: int | None = None) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim if out is None else out)

    def forward(self, x: Tensor) -> Tensor:
        """Apply to [..., C]."""
        return self.fc2(functional.gelu(self.fc1(x)))


class LayerScale(nn.Module):
    """A learned factor per channel on a residual branch."""

    def __init__(self, dim: int, initial: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), float(initial)))

    def forward(self, x: Tensor) -> Tensor:
        """Scale [..., C]."""
        return x * self.gamma


class Block(nn.Module):
    """Pre-norm transformer block with layer scale."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        mlp_ratio: float = 4,
        eps: float = 1e-6,
        qk_norm: bool = False,
        init_values: float = 1.0,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.attn = Attention(dim, num_heads, qk_norm)
        self.ls1 = LayerScale(dim, init_values)
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.ls2 = LayerScale(dim, init_values)

    def forward(self, x: Tensor, rotary: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Transform tokens [B, L, C]."""
        x = x + self.ls1(self.attn(self.norm1(x), rotary))
        return x + self.ls2(self.mlp(self.norm2(x)))


class PatchEmbed(nn.Module):
    """Non-overlapping patches to tokens."""

    def __init__(self, dim: int, patch_size: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, patch_size, stride=patch_size)

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] -> [B, (H/p)(W/p), C], row by row."""
        return self.proj(images).flatten(2).transpose(1, 2)


class VisionTransformer(nn.Module):
    """DINOv2's vision transformer with registers, as VGGT's patch embedder uses it: only patch tokens come out."""

    def __init__(
        self,
        embed_dim: int,
        depth: int,
        num_heads: int,
        *,
        img_size: int = 518,
        patch_size: int = 14,
        num_register_tokens: int = 4,
        interpolate_antialias: bool = True,
        interpolate_offset: float = 0.0,
        init_values: float = 1.0,
        layernorm_eps: float = 1e-6,
        mlp_ratio: float = 4,
    ) -> None:
        super().__init__()
        if interpolate_offset != 0.0:
            raise InvalidInput(
                f"interpolate_offset is {interpolate_offset}, but positions are interpolated to an explicit size: "
                "only 0 is supported, as in VGGT-1B"
            )
        self.antialias = interpolate_antialias
        self.grid = img_size // patch_size
        self.patch_size = patch_size
        self.patch_embed = PatchEmbed(embed_dim, patch_size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + self.grid**2, embed_dim))
        self.register_tokens = nn.Parameter(torch.zeros(1, num_register_tokens, embed_dim))
        # stored with the published weights, used only by their training
        self.mask_token = nn.Parameter(torch.zeros(1, embed_dim))
        self.blocks = nn.ModuleList(
            Block(embed_dim, num_heads, mlp_ratio=mlp_ratio, eps=layernorm_eps, init_values=init_values)
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(embed_dim, eps=layernorm_eps)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images [B, 3, H, W] -> patch tokens [B, (H/p)(W/p), C]."""
        batch, _, height, width = images.shape
        position = self._positions(height // self.patch_size, width // self.patch_size)
        tokens = torch.cat(
            [
                (self.cls_token + position[:, :1]).expand(batch, -1, -1),
                self.register_tokens.expand(batch, -1, -1),
                self.patch_embed(images) + position[:, 1:],
            ],
            dim=1,
        )
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens[:, 1 + self.register_tokens.shape[1] :])

    def _positions(self, rows: int, columns: int) -> Tensor:
        """Position embedding [1, 1 + rows * columns, C], resampled unless the grid is the trained one."""
        if (rows, columns) == (self.grid, self.grid):
            return self.pos_embed
        trained = self.pos_embed[:, 1:].float().unflatten(1, (self.grid, self.grid)).permute(0, 3, 1, 2)
        resampled = functional.interpolate(trained, size=(rows, columns), mode="bicubic", antialias=self.antialias)
        return torch.cat([self.pos_embed[:, :1], resampled.flatten(2).transpose(1, 2).to(self.pos_embed.dtype)], dim=1)
