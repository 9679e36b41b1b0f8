"""How objects come to rest: penetrations undone by the least movement, then gravity, step by step, without momentum.

Every step is one small convex problem: the movement closest to the wanted one (none, to separate; a few millimetres
down, to come to rest) among those that keep the linearised gaps of all contacts open. With friction, a contact's gap
is measured along the edges of its friction cone, so that a step of zero means exactly that weights and contact forces
balance (Anitescu's convex relaxation). Nothing is simulated: there is no time, no speed, no bounce.

Knows nothing about files or meshes beyond the corners of each object's hull.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import nnls
from scipy.spatial.transform import Rotation

from scenegen.scene import Floats
from scenegen.settle.contacts import Contacts, Touch

FRICTION = 0.5
"""Less than the 0.8 that is exported, so that what holds here holds there."""
MARGIN_M = 0.02
"""Contacts are looked for from this distance on."""
_TOUCHING_M = 3e-4
_FLAT_M = 1e-6
"""Lowest corners of one height, as of a foot that stands."""
_OVERLAP_M = 1e-5
"""What objects that touch are left with, for MuJoCo does not always find contacts of what is only close (its issue
2471)."""
_FALL_M = 0.005
"""How far a free object falls in one step."""
_MOST_TURN = 0.06
"""Radians in one step: what linearised gaps are good for."""
_STILL_M = 3e-6
_STEPS = 400
_DEEP_M, _TRIES = 1e-4, 60
"""What is left of penetrations, and how often they are undone before that is enough."""
_SOFTNESS = 1e-7
_AROUND = np.stack([np.cos(np.arange(12) * np.pi / 6), np.sin(np.arange(12) * np.pi / 6)])
_UP = np.array([0.0, 0.0, 1.0])
_EDGES = 4
"""Of a friction cone."""


@dataclass(frozen=True)
class Shape:
    """What resting needs of an object. corners_m: float64 [c, 3] of its hull and centre_m [3] of mass, own frame.

    radius_m: of gyration.
    """

    corners_m: Floats
    centre_m: Floats
    mass_kg: float
    radius_m: float


def separate(shapes: Sequence[Shape], poses: Floats, levels_m: Floats, touch: Touch) -> Floats:
    """Poses float64 [n, 4, 4] without penetrations, shifted as little as that takes, all objects alike.

    levels_m: float64 [n], height of the level support under each object. Nothing turns: that is for weights to do,
    while a few contact points of a deep penetration say little about turns. What cannot be undone (an object caught in
    another) is left, as small as it gets.
    """
    number = len(shapes)
    for _ in range(_TRIES):
        rows, gaps = _constraints(shapes, poses, levels_m, touch.contacts(poses), friction=0.0)
        if gaps.min() > -_DEEP_M:
            break
        shifts = rows.reshape(-1, number, 6)[:, :, :3].reshape(-1, 3 * number)
        step = _step(shifts, gaps, np.ones(3 * number), np.zeros(3 * number))
        poses = poses.copy()
        poses[:, :3, 3] += step.reshape(number, 3)
    return poses


def come_to_rest(shapes: Sequence[Shape], poses: Floats, levels_m: Floats, touch: Touch) -> Floats:
    """Poses float64 [n, 4, 4] in which every object's weight is carried by what it touches."""
    mass = np.array([s.mass_kg for s in shapes])
    size = _size(shapes) * np.repeat(np.sqrt(mass / mass.max()), 6)
    wanted = np.tile([0, 0, -_FALL_M, 0, 0, 0], len(shapes)) * size
    for _ in range(_STEPS):
        rows, gaps = _constraints(shapes, poses, levels_m, touch.contacts(poses), FRICTION)
        step = _step(rows, gaps, size, wanted)
        poses = _moved(shapes, poses, step)
        if _reach(shapes, step).max() < _STILL_M:
            break
    return poses


def _size(shapes: Sequence[Shape]) -> Floats:
    """What makes turns as long as shifts, float64 [6n]."""
    return np.concatenate([[1.0, 1, 1, s.radius_m, s.radius_m, s.radius_m] for s in shapes])


def _step(rows: Floats, gaps: Floats, size: Floats, wanted: Floats) -> Floats:
    """The movement x float64 [6n] with size * x closest to `wanted` that keeps rows @ x >= -gaps.

    Gaps are given a trace of softness, so that there is always an answer: a non-negative least squares problem for
    the contact forces.
    """
    scaled = rows / size
    length = np.linalg.norm(scaled, axis=1)
    scaled, open_by = scaled / length[:, None], gaps / length
    lacking = -open_by - scaled @ wanted
    soft = np.sqrt(_SOFTNESS)
    left = np.concatenate([scaled.T, soft * np.eye(len(gaps))])
    right = np.concatenate([np.zeros(len(size)), lacking / soft])
    forces = nnls(left, right, maxiter=30 * len(gaps))[0]
    return (wanted + scaled.T @ forces) / size


def _constraints(
    shapes: Sequence[Shape], poses: Floats, levels_m: Floats, contacts: Contacts, friction: float
) -> tuple[Floats, Floats]:
    """How gaps change with the movement, float64 [k, 6n], and the gaps float64 [k]."""
    standing = [_standing(i, shape, T, z) for i, (shape, T, z) in enumerate(zip(shapes, poses, levels_m, strict=True))]
    every = [replace(contacts, gap_m=contacts.gap_m + _OVERLAP_M), *standing]
    first, second, gaps = (np.concatenate([getattr(c, n) for c in every]) for n in ("first", "second", "gap_m"))
    points, normals = (np.concatenate([getattr(c, n) for c in every]) for n in ("point_m", "normal"))
    centres = np.stack([_apply(T, s.centre_m) for T, s in zip(poses, shapes, strict=True)])
    slides = (gaps < _TOUCHING_M) & (friction > 0)
    edges = np.concatenate([normals[~slides], _cones(normals[slides], friction)])
    of = np.concatenate([np.flatnonzero(~slides), np.repeat(np.flatnonzero(slides), _EDGES)])
    rows, index = np.zeros((len(of), len(shapes), 6)), np.arange(len(of))
    for owner, sign in ((first[of], -1.0), (second[of], 1.0)):
        turning = _cross(points[of] - centres[owner], edges)
        rows[index, owner] += np.where(owner >= 0, sign, 0)[:, None] * np.concatenate([edges, turning], axis=1)
    return rows.reshape(len(of), -1), gaps[of]


def _standing(number: int, shape: Shape, T: Floats, level_m: float) -> Contacts:
    """Corners of an object that its support must carry, or soon may. first is -1, the support."""
    points = _apply(T, shape.corners_m)
    gap = points[:, 2] - level_m
    lowest = gap < gap.min() + _FLAT_M
    outermost = np.unique(np.where(lowest[:, None], points[:, :2] @ _AROUND, -np.inf).argmax(0))  # they say it all
    near = np.flatnonzero(~lowest & (gap < MARGIN_M + _MOST_TURN * shape.radius_m))
    chosen = np.concatenate([outermost, near])
    up = np.tile(_UP, (len(chosen), 1))
    return Contacts(np.full(len(chosen), -1), np.full(len(chosen), number), points[chosen], up, gap[chosen])


def _cones(normals: Floats, friction: float) -> Floats:
    """float64 [4k, 3], the edges of the friction cones about normals [k, 3]."""
    helper = np.where(np.abs(normals[:, 2:]) < 0.9, _UP, np.array([1.0, 0, 0]))
    one = _cross(normals, helper)
    one /= np.linalg.norm(one, axis=1, keepdims=True)
    other = _cross(normals, one)
    return np.stack([normals + friction * t for t in (one, -one, other, -other)], axis=1).reshape(-1, 3)


def _cross(a: Floats, b: Floats) -> Floats:
    """Of rows [k, 3]; numpy's own takes ten times as long for few."""
    return np.stack([a[:, i] * b[:, j] - a[:, j] * b[:, i] for i, j in ((1, 2), (2, 0), (0, 1))], axis=1)


def _moved(shapes: Sequence[Shape], poses: Floats, step: Floats) -> Floats:
    """Each object shifted and turned about its centre of mass; all a little less when one would turn too far."""
    by_object = step.reshape(-1, 6)
    turn = np.linalg.norm(by_object[:, 3:], axis=1).max()
    if turn > _MOST_TURN:
        by_object = by_object * (_MOST_TURN / turn)
    moved = poses.copy()
    for T, shape, (*shift, x, y, z) in zip(moved, shapes, by_object, strict=True):
        centre = _apply(T, shape.centre_m)
        T[:3, :3] = Rotation.from_rotvec([x, y, z]).as_matrix() @ T[:3, :3]
        T[:3, 3] = centre + shift - T[:3, :3] @ shape.centre_m
    return moved


def _reach(shapes: Sequence[Shape], step: Floats) -> Floats:
    """How far points of each object move, float64 [n] in metres."""
    by_object = np.abs(step.reshape(-1, 6))
    radii = np.array([s.radius_m for s in shapes])
    return np.asarray(by_object[:, :3].max(1) + radii * by_object[:, 3:].max(1))


def _apply(T: Floats, points: Floats) -> Floats:
    return np.asarray(points @ T[:3, :3].T + T[:3, 3])
