"""Which views are worth keeping: how sharp one is, and how much of the same two of them show.

Knows nothing about messages or when views come.
"""

from __future__ import annotations

import math
from collections.abc import Sequence, Set
from dataclasses import dataclass
from itertools import product

import cv2
import numpy as np

from scenegen.scene import Floats, View

SHARPER = 1.3
"""A view is sharper than another when its measure is this many times as large; less is noise and the way it looks."""
_SAMPLES = 2000
_DEGREES_PER_OCTAVE = 20.0
_DEGREES_PER_HALF_OTHERS = 40.0
_STEP_DEG = 10.0


def sharpness(view: View) -> float:
    """Variance of the Laplacian where the objects are, over the variance of the picture there.

    The quotient does not change with exposure; one pass of smoothing keeps sensor noise from passing for detail.
    """
    seen = view.masks > 0
    rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    if not len(rows):
        return 0.0
    window = slice(max(rows[0] - 2, 0), rows[-1] + 3), slice(max(columns[0] - 2, 0), columns[-1] + 3)
    grey = cv2.GaussianBlur(cv2.cvtColor(view.image[window], cv2.COLOR_RGB2GRAY), (3, 3), 0)
    where = cv2.dilate(seen[window].astype(np.uint8), np.ones((5, 5), np.uint8)) > 0  # outlines tell most
    detail = cv2.Laplacian(grey, cv2.CV_32F)[where]
    return float(detail.var() / (grey[where].var() + 1.0))


@dataclass(frozen=True)
class Aim:
    """Where a view looks.

    T_world_camera: float64 [4, 4]. ids: instances it sees. middle: float64 [3] world, metres, of what was measured of
    them; None without depth. ray: float64 [3] world, unit, towards the middle of their masks; None without intrinsics.
    """

    T_world_camera: Floats
    ids: Set[int]
    middle: Floats | None
    ray: Floats | None

    @staticmethod
    def of(view: View, T_world_camera: Floats) -> Aim:
        """The aim of a view."""
        ids = frozenset(view.instance_ids)
        v, u = np.nonzero(view.masks > 0)
        if view.intrinsics is None or not len(u):
            return Aim(T_world_camera, ids, None, None)
        some = slice(None, None, max(len(u) // _SAMPLES, 1))
        v, u = v[some], u[some]
        rays = np.linalg.solve(view.intrinsics, np.stack([u, v, np.ones(len(u))])).T @ T_world_camera[:3, :3].T
        ray = np.asarray(rays.mean(axis=0) / np.linalg.norm(rays.mean(axis=0)))
        z = np.zeros(len(u)) if view.depth_m is None else np.nan_to_num(view.depth_m[v, u].astype(np.float64))
        if (z > 0).sum() < 10:
            return Aim(T_world_camera, ids, None, ray)
        points = rays[z > 0] * z[z > 0, None] + T_world_camera[:3, 3]
        return Aim(T_world_camera, ids, np.median(points, axis=0), ray)


def middle_of(aims: Sequence[Aim]) -> Floats | None:
    """What the views stand around, float64 [3]: measured, or else where their rays meet. None when nothing says it."""
    measured = [aim.middle for aim in aims if aim.middle is not None]
    if measured:
        return np.asarray(np.median(measured, axis=0))
    lines = [(aim.T_world_camera[:3, 3], aim.ray) for aim in aims if aim.ray is not None]
    if len(lines) < 2:
        return None
    across = [np.eye(3) - np.outer(ray, ray) for _, ray in lines]
    A, b = np.sum(across, axis=0), np.sum([P @ eye for P, (eye, _) in zip(across, lines, strict=True)], axis=0)
    if np.linalg.eigvalsh(A)[0] < 1e-3 * len(lines):  # all but parallel: they meet nowhere in particular
        return None
    middle = np.linalg.solve(A, b)
    ahead = all((middle - eye) @ ray > 0 for eye, ray in lines)
    return np.asarray(middle) if ahead else None


def motion(T_world_a: Floats, T_world_b: Floats) -> tuple[float, float]:
    """Metres and degrees between two camera poses."""
    cosine = (float(np.vdot(T_world_a[:3, :3], T_world_b[:3, :3])) - 1) / 2  # with each frame: no Rotation objects
    turn = math.acos(min(max(cosine, -1.0), 1.0))
    return math.dist(T_world_a[:3, 3], T_world_b[:3, 3]), math.degrees(turn)


def differences(of: Sequence[Aim], than: Sequence[Aim], metres: float, degrees: float) -> Floats:
    """How much else each of n views shows than each of m others, float64 [n, m]; 1 is a step worth taking.

    That is ten degrees around what all of them stand around, plus an octave of distance and half of the objects being
    others, which count like 20 and 40 degrees: neither a close view nor one of the other end of the table is given up
    for its angle. Where nothing says what they stand around it is motion, in units of (metres, degrees).
    """
    middle = middle_of([*of, *than])
    if middle is None:
        table = np.empty((len(of), len(than)))
        for at, (a, b) in zip(np.ndindex(table.shape), product(of, than), strict=True):
            moved, turned = motion(a.T_world_camera, b.T_world_camera)
            table[at] = moved / max(metres, 1e-3) + turned / max(degrees, 1e-1)
        return table
    to_a, to_b = (np.stack([aim.T_world_camera[:3, 3] - middle for aim in aims]) for aims in (of, than))
    far_a, far_b = (np.maximum(np.linalg.norm(to, axis=1), 1e-6) for to in (to_a, to_b))
    angle = np.rad2deg(np.arccos(np.clip((to_a / far_a[:, None]) @ (to_b / far_b[:, None]).T, -1, 1)))
    octaves = np.abs(np.log2(far_a[:, None] / far_b))
    shared = np.array([len(a.ids & b.ids) / max(len(a.ids | b.ids), 1) for a, b in product(of, than)])
    others = 1 - shared.reshape(len(of), len(than))
    return np.asarray((angle + _DEGREES_PER_OCTAVE * octaves + 2 * _DEGREES_PER_HALF_OTHERS * others) / _STEP_DEG)


def missed(apart: Floats) -> Floats:
    """How much worse the places of a history are covered without each of n views, float64 [n].

    apart: float64 [m, n], how far each place of the history is from each view. A place counts with the square of how
    far the nearest view is, so that one wide gap is worse than several narrow ones.
    """
    nearest = np.argmin(apart, axis=1)
    rows = np.arange(len(apart))
    first = apart[rows, nearest]
    rest = apart.copy()
    rest[rows, nearest] = np.inf
    worse = np.minimum(rest.min(axis=1, initial=np.inf), 1e3) ** 2 - first**2
    return np.bincount(nearest, worse, minlength=apart.shape[1]).astype(np.float64)
