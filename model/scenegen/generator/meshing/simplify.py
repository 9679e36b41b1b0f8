"""Fewer faces for the same shape: quadric edge collapse. Knows nothing about what the faces are for."""

from __future__ import annotations

import fast_simplification
import numpy as np

from scenegen.generator.meshing.edges import Floats, Ints


def simplify(vertices: Floats, faces: Ints, count: int) -> tuple[Floats, Ints]:
    """About `count` faces instead of faces [F, 3] on vertices [V, 3]; the same when they are not more."""
    if len(faces) <= count:
        return vertices, faces
    points, corners = fast_simplification.simplify(
        np.ascontiguousarray(vertices, np.float32), np.ascontiguousarray(faces, np.int32), target_count=count
    )
    return points, corners.astype(np.int64)
