"""What structured latents decode to, one asset each: Gaussians, and the fields a mesh is extracted from.

Tensors in the asset's frame: z-up, unit box [-0.5, 0.5]^3. Knows nothing about the networks that made them, nor about
meshes and textures made of them.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from torch import Tensor


@dataclass(frozen=True)
class Gaussians:
    """G Gaussians of one asset, activated (spec/latents.md section 7); the colour does not depend on the view.

    positions: [G, 3]. colours: [G, 3], RGB, at least 0, about 1 at most. scales: [G, 3], standard deviations along
    the own axes. rotations: [G, 4], unit quaternions wxyz. opacities: [G], 0..1.
    """

    positions: Tensor
    colours: Tensor
    scales: Tensor
    rotations: Tensor
    opacities: Tensor

    def cpu(self) -> Gaussians:
        """The same in the processor's memory."""
        return Gaussians(*(getattr(self, field.name).cpu() for field in fields(self)))


@dataclass(frozen=True)
class GridFields:
    """The mesh decoder's output of one asset, as it is (spec/latents.md section 8, none of its steps done).

    coords: int [V, 3], fine voxels, 0..resolution - 1. features: float [V, 101], or [V, 53] without colour: of the 8
    corners (x fastest) signed distance [8], displacement [8, 3]; weights [21]; of the corners colour [8, 6].
    resolution: voxels along an edge of the unit box, 256 as published.
    """

    coords: Tensor
    features: Tensor
    resolution: int


@dataclass(frozen=True)
class RadianceField:
    """A factorised radiance field per voxel of one asset (spec/latents.md section 6), for renderers that know it.

    trivec: [V, rank, 3, dim]. density: [V, rank]. features_dc: [V, rank, 1, 3]. positions: [V, 3], voxel centres in
    the unit box from 0 to 1. depth: uint8 [V, 1], octree level.
    """

    trivec: Tensor
    density: Tensor
    features_dc: Tensor
    positions: Tensor
    depth: Tensor
