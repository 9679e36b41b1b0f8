"""All of VGGT that predicts geometry: the aggregator and its camera, depth and point heads (spec/vggt.md).

Knows nothing about View or what the predictions are used for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from scenegen.generator.encoders.vggt import VGGTAggregator
from scenegen.generator.encoders.vggt_heads import CameraHead, DenseHead, camera_matrices


@dataclass(frozen=True)
class Geometry:
    """What VGGT says of S views in each of B sequences; lengths in the unknown unit of each sequence.

    encoding: [B, S, 9], see `CameraHead`. extrinsics [B, S, 3, 4], intrinsics [B, S, 3, 3]: see `camera_matrices`.
    depth: [B, S, H, W] along the optical axis. points: [B, S, H, W, 3] in the first view's camera.
    depth_confidence, points_confidence: [B, S, H, W], above 1.
    """

    encoding: Tensor
    extrinsics: Tensor
    intrinsics: Tensor
    depth: Tensor
    depth_confidence: Tensor
    points: Tensor
    points_confidence: Tensor


class VGGT(nn.Module):
    """Aggregator and heads; the arguments are the manifest's config: the aggregator's, `camera_head` and `dpt`."""

    def __init__(self, *, camera_head: Mapping[str, Any], dpt: Mapping[str, Any], **aggregator: Any) -> None:
        super().__init__()
        self.aggregator = VGGTAggregator(**aggregator)
        self.rounds: Sequence[int] = dpt["intermediate_layer_idx"]
        sizes = {"patch_size": self.aggregator.patch_size, "features": dpt["features"]}
        channels: Sequence[int] = dpt["out_channels"]
        width = 2 * self.aggregator.embed_dim
        self.camera_head = CameraHead(**camera_head)
        self.depth_head = DenseHead(width, 1, out_channels=channels, **sizes)
        self.point_head = DenseHead(width, 3, out_channels=channels, **sizes)

    def forward(self, images: Tensor) -> Geometry:
        """Predict from images [B, S, 3, H, W] in 0..1; H and W multiples of the patch (InvalidInput otherwise)."""
        height, width = images.shape[-2:]
        *rounds, last = self.aggregator(images, rounds=(*self.rounds, -1))
        encoding = self.camera_head(last)
        extrinsics, intrinsics = camera_matrices(encoding, height, width)
        depth, depth_confidence = self.depth_head(rounds, height, width)
        points, points_confidence = self.point_head(rounds, height, width)
        return Geometry(
            encoding=encoding,
            extrinsics=extrinsics,
            intrinsics=intrinsics,
            depth=depth[..., 0].exp(),
            depth_confidence=depth_confidence,
            points=points.sign() * points.abs().expm1(),
            points_confidence=points_confidence,
        )
