"""The product's meshing for conformance cases: glue, not copies. The adapter merges BUILDERS."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from scenegen.generator.latents.fields import GridFields
from scenegen.generator.meshing.edges import keep_faces
from scenegen.generator.meshing.flexicubes import ExtractedMesh, extract
from scenegen.generator.meshing.hidden_faces import hidden_faces


def _outputs(mesh: ExtractedMesh) -> dict[str, Tensor]:
    return {
        "vertices": torch.from_numpy(mesh.vertices),
        "faces": torch.from_numpy(mesh.faces),
        "vertex_attrs": torch.from_numpy(mesh.attributes),
    }


class _SparseFeatures2Mesh(nn.Module):
    def __init__(self, res: int, use_color: bool) -> None:
        super().__init__()
        self.resolution = res

    def forward(self, feats: Tensor, coords: Tensor) -> dict[str, Tensor]:
        return _outputs(extract(GridFields(coords[:, 1:], feats, self.resolution)))


class _FlexiCubes(nn.Module):
    """A dense grid as the fields of voxels that are all set: every corner of a vertex says the same."""

    def __init__(self, resolution: int) -> None:
        super().__init__()
        self.resolution = resolution

    def forward(
        self,
        grid_vertices: Tensor,
        sdf: Tensor,
        cube_idx: Tensor,
        beta: Tensor | None = None,
        alpha: Tensor | None = None,
        gamma: Tensor | None = None,
        colors: Tensor | None = None,
    ) -> dict[str, Tensor]:
        cubes, size = len(cube_idx), self.resolution
        coords = torch.stack(torch.meshgrid(*[torch.arange(size)] * 3, indexing="ij"), -1).reshape(-1, 3)
        assert torch.equal(cube_idx[:, 0], (coords * torch.tensor([(size + 1) ** 2, size + 1, 1])).sum(1))
        regular = coords[torch.arange(cubes)].float() / size - 0.5
        torch.testing.assert_close(grid_vertices[cube_idx[:, 0]], regular)
        channels = [sdf[cube_idx] + 1 / size, sdf.new_zeros(cubes, 24)]
        for width, weight in ((12, beta), (8, alpha), (1, gamma)):
            channels.append(sdf.new_zeros(cubes, width) if weight is None else weight.reshape(cubes, width))
        if colors is not None:
            channels.append(colors[cube_idx].reshape(cubes, 48))
        return _outputs(extract(GridFields(coords, torch.cat(channels, 1), size)))


class _FillHoles(nn.Module):
    """Given which of some views see which face. Filled holes depend on MeshFix in the stored outputs: left out."""

    def __init__(self, max_hole_size: float, max_hole_nbe: int) -> None:
        super().__init__()
        self.largest_opening = max_hole_size

    def forward(self, vertices: Tensor, faces: Tensor, visibility: Tensor) -> dict[str, Tensor]:
        share = visibility.float().mean(0).cpu().numpy()
        points, corners = vertices.cpu().numpy(), faces.cpu().numpy()
        removed = hidden_faces(points, corners, share, self.largest_opening)
        if removed is not None:
            points, corners = keep_faces(points, corners, ~removed)
        return {"kept_vertices": torch.from_numpy(points), "kept_faces": torch.from_numpy(corners)}


BUILDERS: dict[str, Callable[..., nn.Module]] = {
    "SparseFeatures2Mesh": _SparseFeatures2Mesh,
    "FlexiCubes": _FlexiCubes,
    "FillHoles": _FillHoles,
}
