"""A textured asset mesh, its colours taken one of three ways (docs/texture.md compares them).

decoded: the mesh decoder's colours at the vertices that were extracted.
gaussians: the blended colours of the Gaussians at every texel's own point of the surface.
rendered: pictures of the Gaussians from all around, brought back to the surface, as published.

Knows nothing about networks, files or scenes. What takes the decoded colours needs no torch, so that processes that
finish meshes start quickly and stay small.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import trimesh
from PIL import Image
from trimesh.visual import TextureVisuals
from trimesh.visual.material import PBRMaterial

from scenegen.generator.meshing.extracted import ExtractedMesh
from scenegen.generator.meshing.unwrap import UnwrappedMesh
from scenegen.generator.texture.bake import ColourFunction, Floats32, texture_mesh
from scenegen.generator.texture.decoded import DecodedColours
from scenegen.scene import InvalidInput

if TYPE_CHECKING:
    from scenegen.generator.latents.fields import Gaussians

Way = Literal["decoded", "gaussians", "rendered"]

_PICTURES = {True: (100, 1024), False: (24, 512)}
"""Pictures and their size for `rendered`, on CUDA (as published) and not (a minute instead of a quarter of an hour)."""


def textured_mesh(
    mesh: UnwrappedMesh,
    extracted: ExtractedMesh | None = None,
    gaussians: Gaussians | None = None,
    *,
    way: Way | None = None,
    size: int = 1024,
) -> trimesh.Trimesh:
    """The unwrapped mesh (z-up) with a texture of size x size and nothing else on it.

    extracted: what the mesh came from, before simplification: needed for `decoded`. gaussians: of the same asset,
    needed for the other ways. way: None takes `decoded`, the fastest of the best, or `gaussians` where the mesh
    decoder gave no colours. Raises InvalidInput when what the way needs is missing.
    """
    chosen = way or ("decoded" if extracted is not None and extracted.attributes.shape[1] else "gaussians")
    colour = _colour_function(chosen, mesh, extracted, gaussians)
    image = texture_mesh(mesh.vertices, mesh.faces, mesh.uv, colour, size)
    return with_texture(mesh, image)


def with_texture(mesh: UnwrappedMesh, image: np.ndarray) -> trimesh.Trimesh:
    """The mesh with an image uint8 [H, W, 3] as its base colour: rough, no metal, no other map (spec/ros.md 5)."""
    material = PBRMaterial(baseColorTexture=Image.fromarray(image), roughnessFactor=1.0, metallicFactor=0.0)
    looks = TextureVisuals(uv=mesh.uv, material=material)
    return trimesh.Trimesh(mesh.vertices, mesh.faces, visual=looks, process=False)


def _colour_function(
    way: Way, mesh: UnwrappedMesh, extracted: ExtractedMesh | None, gaussians: Gaussians | None
) -> ColourFunction:
    if way == "decoded":
        if extracted is None or not extracted.attributes.shape[1]:
            raise InvalidInput("the mesh decoder gave no colours: choose the way 'gaussians'")
        colours: Floats32 = extracted.attributes[:, :3]
        return DecodedColours(extracted.vertices, colours, extracted.resolution)
    if gaussians is None:
        raise InvalidInput(f"the way '{way}' needs the Gaussians of the asset: decode them, or choose 'decoded'")
    from scenegen.generator.texture.rendered import RenderedColours
    from scenegen.generator.texture.splats import SplatColours

    if way == "gaussians":
        return SplatColours(gaussians)
    return RenderedColours(gaussians, mesh.vertices, mesh.faces, *_PICTURES[gaussians.positions.is_cuda])
