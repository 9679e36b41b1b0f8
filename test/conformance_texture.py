"""Builds what conformance cases of cameras and scene assembly ask for; merged by conformance_adapter."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from scenegen.generator.assembly import assemble_scene
from scenegen.generator.hammersley import hammersley_sphere
from scenegen.generator.texture.cameras import (
    FIELD_OF_VIEW,
    hammersley_cameras,
    normalised_intrinsics,
)


class _CameraRig(nn.Module):
    def forward(self, n: Tensor) -> dict[str, Tensor]:
        return {"yaw_pitch": torch.from_numpy(hammersley_sphere(int(n)))}


class _Cameras(nn.Module):
    """The published code's projections follow from its intrinsics; ours casts rays and needs none."""

    def forward(self, n: Tensor) -> dict[str, Tensor]:
        extrinsics, intrinsics = hammersley_cameras(int(n)), normalised_intrinsics()
        flip = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0]))
        forward_z = torch.zeros(4, 4)
        forward_z[0, 0] = forward_z[1, 1] = 1 / math.tan(FIELD_OF_VIEW / 2)
        forward_z[2, 2], forward_z[2, 3], forward_z[3, 2] = 1.6 / 0.8, -1.6 * 0.8 / 0.8, 1.0

        def opengl(near: float, far: float) -> Tensor:
            matrix = forward_z.clone()
            matrix[2, 2], matrix[2, 3] = -(far + near) / (far - near), -2 * far * near / (far - near)
            matrix[3, 2] = -1.0
            return matrix

        return {
            "extrinsics": extrinsics,
            "intrinsics": intrinsics.repeat(len(extrinsics), 1, 1),
            "gl_view": flip @ extrinsics,
            "gl_projection_bake": opengl(0.1, 10.0).repeat(len(extrinsics), 1, 1),
            "gs_projection": forward_z.repeat(len(extrinsics), 1, 1),
            "fill_projection": opengl(1.0, 3.0),
        }


class _SceneAssembly(nn.Module):
    """Two forms of case: all vertices in one array (structure), or a mesh per asset (latents)."""

    def forward(
        self,
        positions: Tensor,
        vertices: Tensor | None = None,
        num_vertices: Tensor | None = None,
        resorted_indices: Tensor | None = None,
        order: Tensor | None = None,
        **meshes: Tensor,
    ) -> dict[str, Tensor]:
        if vertices is None or num_vertices is None:
            parts = [meshes[f"v{i}"].cpu().numpy() for i in range(len(positions))]
            given = order
        else:
            parts = np.split(vertices.cpu().numpy(), num_vertices.cpu().cumsum(0)[:-1].numpy())
            given = resorted_indices
        sequence = list(range(len(positions))) if given is None else given.tolist()
        assembly = assemble_scene(positions.cpu().numpy(), parts, order=sequence, literal=True)
        matrices = assembly.T_scene_asset
        points = [parts[i] @ T[:3, :3].T + T[:3, 3] for i, T in zip(sequence, matrices, strict=True)]
        return {
            "matrices": torch.from_numpy(matrices),
            "transforms": torch.from_numpy(matrices),
            "points": torch.from_numpy(np.concatenate(points)),
            "positions_global": torch.from_numpy(assembly.translations_zup),
            "positions": torch.from_numpy(assembly.translations_zup),
            "bounds": torch.from_numpy(assembly.bounds),
        }


BUILDERS: dict[str, Callable[..., nn.Module]] = {
    "CameraRig": _CameraRig,
    "Cameras": _Cameras,
    "SceneAssembly": _SceneAssembly,
}
