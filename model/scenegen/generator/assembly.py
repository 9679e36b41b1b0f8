"""One scene out of generated assets: the matrices of spec/structure.md section 7 (numpy only).

Knows nothing about files, textures or the robot's frame (scenegen.placement stands the scene there).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.transform import Rotation

from scenegen.scene import ROTATION_YUP_ZUP, Floats, InvalidInput

EXTENT = 1.96
"""Longest edge of the assembled scene."""


@dataclass(frozen=True)
class Assembly:
    """Assets standing in one scene, in the order that was asked for.

    T_scene_asset: float64 [N, 4, 4] for y-up asset vertices, scale included. translations_zup: float64 [N, 3] of the
    placements, lifted to the z-up frame of the query asset. bounds: float64 [2, 3] of all vertices in the scene.
    """

    T_scene_asset: Floats
    translations_zup: Floats
    bounds: Floats


def assemble_scene(
    placements: ArrayLike,
    vertices: Sequence[NDArray[np.floating]],
    *,
    order: Sequence[int] | None = None,
    literal: bool = False,
) -> Assembly:
    """Place assets and fit the scene into a cube of edge 1.96 around the origin.

    placements: [N, 8] as the position head gives them, query first (its row is taken as the identity).
    vertices: N arrays [V, 3], y-up. order: which asset comes where in the result, None to keep them as they are.
    The scene's axes are those of the query asset, y-up. ``literal`` repeats two slips of the published code for
    parity: the axes are those of the first asset of the result, and the centre is subtracted without being scaled.
    Raises InvalidInput when a quaternion is zero or no asset has vertices.
    """
    rows = np.array(placements, dtype=np.float64)
    rows[0] = [0, 0, 0, 1, 0, 0, 0, 1]
    if not np.linalg.norm(rows[:, 3:7], axis=1).all():
        raise InvalidInput("a placement has a zero quaternion: it has no rotation, generate again with another seed")
    order = range(len(rows)) if order is None else order
    to_zup = ROTATION_YUP_ZUP.T

    T_query_asset = np.tile(np.eye(4), (len(rows), 1, 1))
    rotations = Rotation.from_quat(rows[:, 3:7], scalar_first=True).as_matrix()
    T_query_asset[:, :3, :3] = rows[:, 7, None, None] * (to_zup @ rotations)
    T_query_asset[:, :3, 3] = rows[:, :3] @ to_zup.T

    T_reference = T_query_asset[order[0] if literal else 0]
    # The published code transposes where it means to invert; they differ by a scale that the fit below removes.
    T_reference_query = np.eye(4)
    T_reference_query[:3, :3] = T_reference[:3, :3].T
    T_reference_query[:3, 3] = -T_reference[:3, :3].T @ T_reference[:3, 3]
    T_scene_asset = T_reference_query @ T_query_asset[list(order)]

    lower, upper = _bounds(T_scene_asset, [vertices[i] for i in order])
    centre, gain = (lower + upper) / 2, EXTENT / (upper - lower).max()
    fit = np.diag([gain, gain, gain, 1.0])
    fit[:3, 3] = -centre if literal else -gain * centre
    bounds = np.stack([lower, upper]) * gain + fit[:3, 3]
    return Assembly(fit @ T_scene_asset, T_query_asset[list(order), :3, 3], bounds)


def _bounds(T_scene_asset: Floats, vertices: Sequence[NDArray[np.floating]]) -> Floats:
    """Lower and upper corner [2, 3] of all vertices where they stand."""
    placed = [v @ T[:3, :3].T + T[:3, 3] for T, v in zip(T_scene_asset, vertices, strict=True) if len(v)]
    if not placed:
        raise InvalidInput("no asset has any vertices: nothing was generated, check the masks")
    points = np.concatenate(placed)
    return np.stack([points.min(axis=0), points.max(axis=0)])
