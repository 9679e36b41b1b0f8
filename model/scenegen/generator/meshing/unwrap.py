"""Gives a mesh texture coordinates: charts of our own, laid out in the texture by xatlas.

xatlas' own way of cutting charts takes most of a minute for 40,000 faces, so it gets them ready-made and only packs.
Knows nothing about what is drawn into the texture.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xatlas
from numpy.typing import NDArray

from scenegen.generator.meshing.charts import cut_charts, spread
from scenegen.generator.meshing.edges import Floats, Ints

_RESOLUTION = 1024
"""Texels along the side of the texture for which charts are kept apart."""
_PADDING = 4
"""Texels between charts, of an atlas that may be half again as wide."""


@dataclass(frozen=True, eq=False)
class UnwrappedMesh:
    """A mesh whose vertices are doubled along the seams of its charts.

    vertices: float32 [U, 3], z-up. faces: int64 [F, 3], in the order of the mesh unwrapped. uv: float32 [U, 2], 0..1.
    source: int64 [U], the vertex that each stands for.
    """

    vertices: NDArray[np.float32]
    faces: Ints
    uv: NDArray[np.float32]
    source: Ints


def unwrap(vertices: Floats, faces: Ints) -> UnwrappedMesh:
    """Unwraps vertices [V, 3], faces [F, 3], at least one face. No two faces share a point inside the texture."""
    chart, flat = cut_charts(vertices, faces)
    _, first, corner = np.unique(chart[:, None] * len(vertices) + faces, return_index=True, return_inverse=True)
    atlas = xatlas.Atlas()
    plane = spread(flat, chart).astype(np.float32).reshape(-1, 2)[first]
    atlas.add_uv_mesh(plane, corner.reshape(-1, 3).astype(np.uint32))
    options = xatlas.PackOptions()
    options.resolution, options.padding = _RESOLUTION, _PADDING
    atlas.generate(pack_options=options)
    origin, packed, uv = atlas[0]
    source = faces.reshape(-1)[first][origin]
    return UnwrappedMesh(np.asarray(vertices, np.float32)[source], packed.astype(np.int64), uv, source)
