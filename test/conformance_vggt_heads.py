"""VGGT with its heads, for conformance cases."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from scenegen.generator.encoders.vggt_cameras import VGGT


class _VGGT(VGGT):
    def forward(self, images: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        geometry = super().forward(images)
        return {
            "pose_enc": geometry.encoding,
            "extrinsics": geometry.extrinsics,
            "intrinsics": geometry.intrinsics,
            "depth": geometry.depth[..., None],
            "depth_conf": geometry.depth_confidence,
            "world_points": geometry.points,
            "world_points_conf": geometry.points_confidence,
        }


BUILDERS: dict[str, Callable[..., nn.Module]] = {"VGGT": _VGGT}
