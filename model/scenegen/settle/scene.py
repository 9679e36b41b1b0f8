"""Settling a scene: the levels that things stand on, and the order of steps.

Knows bodies in metres with z up; forces and movements are rest.py's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import trimesh
from scipy.spatial.transform import Rotation

from scenegen.export.bodies import Bodies, Body, Floor, floor_under
from scenegen.scene import Floats, InvalidInput
from scenegen.settle.contacts import Touch
from scenegen.settle.rest import MARGIN_M, Shape, come_to_rest, separate

REACH_M = 0.03
"""What floats no higher than this above something stands on it; higher up, it has a shelf of its own."""
_CONTACT_M = 1e-3
_SHELF_M = 0.005
"""Thickness of a shelf, and how far it reaches beyond what stands on it."""
_NUDGE_RAD = 3e-3
_UPWARDS = 0.3


@dataclass(frozen=True)
class Settled:
    """What settling did to one object.

    shift_m, turn_deg: how far its centre of mass and its axes are from the measured pose. penetration_before_m,
    penetration_after_m: the deepest into another object or into its support. gap_before_m: from its lowest point down
    to the level of its support, 0 when it sank. stands_on: names of objects and supports that carry it.
    """

    name: str
    shift_m: float
    turn_deg: float
    penetration_before_m: float
    penetration_after_m: float
    gap_before_m: float
    stands_on: tuple[str, ...]


def settle(scene: Bodies) -> tuple[Bodies, tuple[Settled, ...]]:
    """The scene at rest, on a floor at the height that fits its objects best; and what was done to each object.

    Objects need convex pieces. InvalidInput when there are none, or mujoco is missing.
    """
    if not all(body.pieces for body in scene.bodies):
        raise InvalidInput("objects without convex pieces cannot be settled: have them cut when they are read")
    shapes = [_shape(body) for body in scene.bodies]
    measured = np.stack([body.T_world_object for body in scene.bodies])
    touch = Touch(scene, MARGIN_M)
    floor_z, levels, poses = _at_rest(shapes, measured, touch)
    on_shelf = np.flatnonzero(levels != floor_z).tolist()
    before, after = (_penetrations(shapes, T, levels, touch) for T in (measured, poses))
    gaps = np.maximum(_lows(shapes, measured) - levels, 0)
    bodies = tuple(replace(body, T_world_object=T) for body, T in zip(scene.bodies, poses, strict=True))
    shelves = [_shelf(shapes[i], poses[i], levels[i]) for i in on_shelf]
    floor = (scene.floor or floor_under(bodies)).at(floor_z)
    rested = replace(scene, bodies=bodies, floor=floor, shelves=tuple(shelves), settled=True)
    supports = ["floor"] * len(bodies)
    for name, i in zip(list(rested.supports)[1:], on_shelf, strict=True):
        supports[i] = name
    stands = _lows(shapes, poses) < levels + _CONTACT_M
    carried = _carried(bodies, [{by} if on else set() for by, on in zip(supports, stands, strict=True)], touch, poses)
    told = []
    for i, body in enumerate(bodies):
        shift, turn = _moved(shapes[i], measured[i], poses[i])
        told.append(Settled(body.name, shift, turn, float(before[i]), float(after[i]), float(gaps[i]), carried[i]))
    return rested, tuple(told)


def _at_rest(shapes: Sequence[Shape], measured: Floats, touch: Touch) -> tuple[float, Floats, Floats]:
    """The floor's height, that of each object's support float64 [n], and poses float64 [n, 4, 4].

    The floor is where the median of those stands that are close to the lowest. What floats too high above it is let
    down by REACH_M: if it meets nothing there, it stands on something that was not seen, a shelf at its own height;
    from the lowest up, for others may stand on it.
    """
    lows = _lows(shapes, measured)
    floor_z = float(np.median(lows[lows <= lows.min() + REACH_M]))
    levels, high = np.full(len(lows), floor_z), lows > floor_z + REACH_M
    while True:
        let_down = np.where(high, lows - REACH_M, levels)
        poses = _rested(shapes, measured, let_down, touch)
        alone = high & (_lows(shapes, poses) < let_down + _CONTACT_M)
        if not alone.any():
            return floor_z, levels, poses
        shelved = alone & (lows <= lows[alone].min() + REACH_M)
        levels, high = np.where(shelved, lows, levels), high & ~shelved


def _rested(shapes: Sequence[Shape], poses: Floats, levels: Floats, touch: Touch) -> Floats:
    """Apart, then at rest; and once more after a nudge, where that brings down what was balancing on a point."""
    rested = come_to_rest(shapes, separate(shapes, poses, levels, touch), levels, touch)
    nudged = rested.copy()
    nudged[:, :3, :3] = Rotation.from_rotvec([_NUDGE_RAD, _NUDGE_RAD, 0]).as_matrix() @ rested[:, :3, :3]
    again = come_to_rest(shapes, nudged, levels, touch)
    turned = Rotation.from_matrix(again[:, :3, :3] @ rested[:, :3, :3].transpose(0, 2, 1)).magnitude()
    return again if turned.max() > 2 * _NUDGE_RAD else rested


def _shape(body: Body) -> Shape:
    corners = trimesh.convex.convex_hull(np.concatenate([piece.vertices for piece in body.pieces])).vertices
    physics = body.physics
    radius = np.sqrt(np.trace(physics.inertia) / 2 / physics.mass_kg)
    return Shape(np.asarray(corners), physics.centre_m, physics.mass_kg, float(radius))


def _lows(shapes: Sequence[Shape], poses: Floats) -> Floats:
    """float64 [n], the height of each object's lowest corner."""
    return np.array([(s.corners_m @ T[2, :3] + T[2, 3]).min() for s, T in zip(shapes, poses, strict=True)])


def _penetrations(shapes: Sequence[Shape], poses: Floats, levels: Floats, touch: Touch) -> Floats:
    """float64 [n], how deep each object is in another or in its level, 0 for none."""
    deepest = np.maximum(levels - _lows(shapes, poses), 0)
    found = touch.contacts(poses)
    for owner in (found.first, found.second):
        np.maximum.at(deepest, owner, -found.gap_m)
    return np.asarray(deepest)


def _carried(
    bodies: Sequence[Body], supports: Sequence[set[str]], touch: Touch, poses: Floats
) -> list[tuple[str, ...]]:
    """Who stands on what: their supports, and objects whose contact force has something upwards in it."""
    carried, found = [set(by) for by in supports], touch.contacts(poses)
    for first, second, normal, gap in zip(found.first, found.second, found.normal, found.gap_m, strict=True):
        if gap < _CONTACT_M and abs(normal[2]) > _UPWARDS:
            above, below = (second, first) if normal[2] > 0 else (first, second)
            carried[above].add(bodies[below].name)
    return [tuple(sorted(by)) for by in carried]


def _moved(shape: Shape, T_before: Floats, T_after: Floats) -> tuple[float, float]:
    """Metres of the centre of mass, and degrees."""
    centres = [T[:3, :3] @ shape.centre_m + T[:3, 3] for T in (T_before, T_after)]
    turn = Rotation.from_matrix(T_after[:3, :3] @ T_before[:3, :3].T).magnitude()
    return float(np.linalg.norm(centres[1] - centres[0])), float(np.degrees(turn))


def _shelf(shape: Shape, T: Floats, top_m: float) -> Floor:
    """A thin slab under the part of an object that reaches down to it."""
    points = shape.corners_m @ T[:3, :3].T + T[:3, 3]
    standing = points[points[:, 2] < top_m + 0.01, :2]
    low, high = standing.min(0) - _SHELF_M, standing.max(0) + _SHELF_M
    return Floor(np.append((low + high) / 2, top_m - _SHELF_M / 2), np.append(high - low, _SHELF_M))
