"""VGGT's heads: geometry tokens to cameras, depth and points (spec/vggt.md, heads).

Parameter names are those of the published checkpoint (`camera_head.*`, `depth_head.*`, `point_head.*`). Lengths are in
the unit of the sequence, which is unknown: one factor for all its views. Knows nothing of images or the aggregator.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from scenegen.generator.encoders.vit import Block, Mlp

POSITION_WEIGHT = 0.1
POSITION_BASE = 100.0


class CameraHead(nn.Module):
    """Camera tokens to a camera encoding, refined a few times: translation 3, quaternion xyzw 4, fields of view 2."""

    def __init__(self, dim_in: int, num_heads: int, trunk_depth: int = 4, iterations: int = 4) -> None:
        super().__init__()
        self.iterations = iterations
        self.token_norm = nn.LayerNorm(dim_in)
        self.empty_pose_tokens = nn.Parameter(torch.zeros(1, 1, 9))
        self.embed_pose = nn.Linear(9, dim_in)
        self.poseLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(dim_in, 3 * dim_in))
        self.trunk = nn.ModuleList(Block(dim_in, num_heads, eps=1e-5, init_values=0.01) for _ in range(trunk_depth))
        self.trunk_norm = nn.LayerNorm(dim_in)
        self.pose_branch = Mlp(dim_in, dim_in // 2, out=9)

    def forward(self, tokens: Tensor) -> Tensor:
        """Encode the cameras of geometry tokens [B, S, P, 2C], the camera's first: [B, S, 9], fields of view (y, x)."""
        tokens = self.token_norm(tokens[:, :, 0])
        plain = functional.layer_norm(tokens, tokens.shape[-1:], eps=1e-6)
        encoding = self.empty_pose_tokens.expand(*tokens.shape[:2], -1)
        for iteration in range(self.iterations):
            shift, scale, gate = self.poseLN_modulation(self.embed_pose(encoding)).chunk(3, dim=-1)
            h = tokens + gate * (plain * (1 + scale) + shift)
            for block in self.trunk:
                h = block(h)
            change = self.pose_branch(self.trunk_norm(h))
            encoding = encoding + change if iteration else change
        return torch.cat([encoding[..., :7], encoding[..., 7:].relu()], dim=-1)


def camera_matrices(encoding: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Extrinsics [..., 3, 4] (world to camera, the world is the first view's camera) and intrinsics [..., 3, 3].

    encoding: [..., 9] as of `CameraHead`. The principal point is at the middle of the image of the given size, where
    the corner of the first pixel is (0, 0).
    """
    translation, quaternion, fov = encoding.split([3, 4, 2], dim=-1)
    x, y, z, w = functional.normalize(quaternion, dim=-1).unbind(-1)
    rotation = torch.stack(
        [
            *(1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)),
            *(2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)),
            *(2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)),
        ],
        dim=-1,
    ).unflatten(-1, (3, 3))
    intrinsics = encoding.new_zeros(*encoding.shape[:-1], 3, 3)
    intrinsics[..., 0, 0] = width / 2 / torch.tan(fov[..., 1] / 2)
    intrinsics[..., 1, 1] = height / 2 / torch.tan(fov[..., 0] / 2)
    intrinsics[..., 0, 2], intrinsics[..., 1, 2], intrinsics[..., 2, 2] = width / 2, height / 2, 1
    return torch.cat([rotation, translation[..., None]], dim=-1), intrinsics


class _ResidualUnit(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = x.relu()  # the branch that is added is rectified too
        return x + self.conv2(self.conv1(x).relu())


class _Fusion(nn.Module):
    """A finer map is added, and the sum resampled to the size that the next one has."""

    def __init__(self, channels: int, joins: bool) -> None:
        super().__init__()
        if joins:
            self.resConfUnit1 = _ResidualUnit(channels)
        self.resConfUnit2 = _ResidualUnit(channels)
        self.out_conv = nn.Conv2d(channels, channels, 1)

    def forward(self, coarse: Tensor, fine: Tensor | None, size: Sequence[int]) -> Tensor:
        if fine is not None:
            coarse = coarse + self.resConfUnit1(fine)
        return self.out_conv(_resample(self.resConfUnit2(coarse), size))


class _Scratch(nn.Module):
    """The published checkpoint's name for everything after the maps have their sizes."""

    def __init__(self, in_channels: Sequence[int], channels: int, outputs: int) -> None:
        super().__init__()
        for i, of_layer in enumerate(in_channels, start=1):
            setattr(self, f"layer{i}_rn", nn.Conv2d(of_layer, channels, 3, padding=1, bias=False))
            setattr(self, f"refinenet{i}", _Fusion(channels, joins=i < len(in_channels)))
        self.output_conv1 = nn.Conv2d(channels, channels // 2, 3, padding=1)
        self.output_conv2 = nn.Sequential(
            nn.Conv2d(channels // 2, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, outputs, 1)
        )


class DenseHead(nn.Module):
    """A dense prediction transformer: four rounds of patch tokens to values and a confidence per pixel."""

    def __init__(
        self, dim_in: int, outputs: int, *, patch_size: int, features: int = 256, out_channels: Sequence[int]
    ) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.norm = nn.LayerNorm(dim_in)
        self.projects = nn.ModuleList(nn.Conv2d(dim_in, channels, 1) for channels in out_channels)
        first, second, _, fourth = out_channels
        self.resize_layers = nn.ModuleList(
            [
                nn.ConvTranspose2d(first, first, 4, stride=4),
                nn.ConvTranspose2d(second, second, 2, stride=2),
                nn.Identity(),
                nn.Conv2d(fourth, fourth, 3, stride=2, padding=1),
            ]
        )
        self.scratch = _Scratch(out_channels, features, outputs + 1)

    def forward(self, rounds: Sequence[Tensor], height: int, width: int) -> tuple[Tensor, Tensor]:
        """Values [B, S, H, W, outputs] as the network gives them, and confidences [B, S, H, W], above 1.

        rounds: four tensors of geometry tokens [B, S, P, 2C], special tokens first; height, width: of the images.
        """
        rows, columns = height // self.patch_size, width // self.patch_size
        maps = []
        for i, tokens in enumerate(rounds):
            patches = self.norm(tokens[:, :, -rows * columns :]).flatten(0, 1)
            image = self.projects[i](patches.transpose(1, 2).unflatten(2, (rows, columns)))
            resized = self.resize_layers[i](_with_positions(image, width / height))
            maps.append(getattr(self.scratch, f"layer{i + 1}_rn")(resized))
        sizes = [[2 * side for side in maps[0].shape[-2:]], *(finer.shape[-2:] for finer in maps)]
        fused, *finer_maps = maps[::-1]
        for i, finer in zip((4, 3, 2, 1), (None, *finer_maps), strict=True):
            fused = getattr(self.scratch, f"refinenet{i}")(fused, finer, sizes[i - 1])
        fused = _resample(self.scratch.output_conv1(fused), (height, width))
        outputs = self.scratch.output_conv2(_with_positions(fused, width / height))
        outputs = outputs.permute(0, 2, 3, 1).unflatten(0, rounds[0].shape[:2])
        return outputs[..., :-1], 1 + outputs[..., -1].exp()


def _resample(image: Tensor, size: Sequence[int]) -> Tensor:
    return functional.interpolate(image, size=tuple(size), mode="bilinear", align_corners=True)


def _with_positions(image: Tensor, aspect: float) -> Tensor:
    """Add sines and cosines of where each pixel lies to maps [B, C, h, w]; x first, then y, each sines first.

    The middle of the picture is 0 and its half diagonal 1; aspect: width over height of the picture.
    """
    channels, height, width = image.shape[-3:]
    diagonal = (aspect**2 + 1) ** 0.5

    def axis(count: int, half: float) -> Tensor:
        outermost = half * (count - 1) / count
        at = torch.linspace(-outermost, outermost, count, device=image.device)
        exponents = torch.arange(channels // 4, device=image.device) / (channels // 4)
        angles = at[:, None] / POSITION_BASE**exponents
        return torch.cat([angles.sin(), angles.cos()], dim=-1)

    across = axis(width, aspect / diagonal).expand(height, -1, -1)
    down = axis(height, 1 / diagonal)[:, None].expand(-1, width, -1)
    positions = torch.cat([across, down], dim=-1).permute(2, 0, 1)
    return image + POSITION_WEIGHT * positions.to(image.dtype)
