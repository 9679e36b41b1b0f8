"""Gauss-Newton in seven degrees of freedom: a similarity that lays surfaces on measured points, many starts at once.

A pose here is a float64 [4, 4] similarity, scale included. Steps are (rotation vector, shift, log-scale) about a pivot.
This is the coarse end: nearest samples by table, whoever sees them; fit.py is the fine one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from scenegen.placement.evidence import Evidence, Outline
from scenegen.placement.surface import Surface
from scenegen.scene import Floats

Check = Callable[[], None]
"""Called all along what takes long; raises when the result is not wanted any more."""
OUTLINE = 0.3  # weight of outline and free space beside the points
POINTS = 80
ONWARD, HURRY = 0.7, 2.5


@dataclass(frozen=True)
class Part:
    """A surface and what was measured of it.

    T_group_asset: float64 [4, 4], its place in the group that moves as one.
    """

    surface: Surface
    evidence: Evidence
    T_group_asset: Floats

    def tolerance(self, share: float) -> float:
        """A share of the measured length in metres, never below what the camera's noise explains."""
        return max(share * self.evidence.length, 3 * self.evidence.noise)


def inverse(T: Floats) -> Floats:
    """Inverse of similarities [..., 4, 4]."""
    out = np.zeros_like(T)
    squared = (T[..., :3, 0] ** 2).sum(-1)[..., None, None]
    out[..., :3, :3] = np.swapaxes(T[..., :3, :3], -1, -2) / squared
    out[..., :3, 3] = -np.einsum("...ij,...j->...i", out[..., :3, :3], T[..., :3, 3])
    out[..., 3, 3] = 1
    return out


def scale_of(T: Floats) -> Floats:
    """Scale of similarities [..., 4, 4]."""
    return np.asarray(np.linalg.norm(T[..., :3, 0], axis=-1))


def moved(T: Floats, points: Floats) -> Floats:
    """Points [n, 3] under each pose of T [s, 4, 4]: [s, n, 3]."""
    return np.asarray(points @ np.swapaxes(T[:, :3, :3], -1, -2) + T[:, None, :3, 3])


def stepped(T: Floats, step: Floats, pivot: Floats) -> Floats:
    """Poses T [s, 4, 4] after steps [s, 7] about pivot [3]."""
    turn = np.exp(step[:, 6])[:, None, None] * Rotation.from_rotvec(step[:, :3]).as_matrix()
    out = T.copy()
    out[:, :3, :3] = turn @ T[:, :3, :3]
    out[:, :3, 3] = np.einsum("sij,sj->si", turn, T[:, :3, 3] - pivot) + pivot + step[:, 3:6]
    return out


def shared_out(part: Part, count: int) -> Iterator[tuple[Floats, Outline]]:
    """Surface samples [n, 3] to test against each outline, in all about count, so that more views cost no more."""
    outlines = part.evidence.outlines
    each = max(count // max(len(outlines), 1), 50)
    for k, outline in enumerate(outlines):
        yield part.surface.points[k * each : (k + 1) * each], outline


def jacobian(arm: Floats, direction: Floats) -> Floats:
    """How residuals along direction [..., 3] at arm [..., 3] from the pivot change with a step: [..., 7]."""
    out = np.empty((*arm.shape[:-1], 7))
    for axis in range(3):  # np.cross is several times slower
        a, b = (axis + 1) % 3, (axis + 2) % 3
        out[..., axis] = arm[..., a] * direction[..., b] - arm[..., b] * direction[..., a]
    out[..., 3:6] = direction
    out[..., 6] = (arm * direction).sum(-1)
    return out


def settle(T: Floats, parts: Sequence[Part], shares: Sequence[float], check: Check) -> Floats:
    """Poses T [s, 4, 4] of a group after one damped point-to-point step for each tolerance (see Part.tolerance)."""
    pivot = np.mean([part.evidence.mean for part in parts], axis=0)
    length = float(np.mean([part.evidence.length for part in parts]))
    unit = np.array([1, 1, 1, length, length, length, 1])
    for share in shares:
        check()
        hessian, gradient = np.zeros((len(T), 7, 7)), np.zeros((len(T), 7))
        for part in parts:
            _point_to_point(T, part, part.tolerance(share), pivot, hessian, gradient)
        T = stepped(T, bounded(hessian, gradient, unit, damping=1e-3), pivot)
    return T


def _point_to_point(T: Floats, part: Part, near: float, pivot: Floats, hessian: Floats, gradient: Floats) -> None:
    T_world_asset = T @ part.T_group_asset
    measured = part.evidence.points[:POINTS]
    index = part.surface.nearest(moved(inverse(T_world_asset), measured))
    surface = part.surface.points[index] @ np.swapaxes(T_world_asset[:, :3, :3], -1, -2) + T_world_asset[:, None, :3, 3]
    offset = surface - measured
    weight = 1 / (1 + (offset**2).sum(-1) / near**2) ** 2 / (len(measured) * near**2)
    for axis in np.eye(3):
        rows = jacobian(surface - pivot, np.broadcast_to(axis, surface.shape))
        _add(hessian, gradient, rows, offset @ axis, weight)
    for samples, outline in shared_out(part, POINTS):
        at = moved(T_world_asset, samples)
        amount, direction = outline.violation(at)
        share = OUTLINE / (len(part.evidence.outlines) * at.shape[1] * near**2)
        _add(hessian, gradient, jacobian(at - pivot, direction), amount, share / (1 + (amount / (2 * near)) ** 2))


def _add(hessian: Floats, gradient: Floats, rows: Floats, residual: Floats, weight: Floats) -> None:
    weighted = rows * weight[..., None]
    hessian += np.swapaxes(weighted, -1, -2) @ rows
    gradient += (weighted * residual[..., None]).sum(axis=-2)


def bounded(hessian: Floats, gradient: Floats, unit: Floats, damping: float = 1e-5) -> Floats:
    """Steps [..., 7] in units [7] (radians, lengths), damped and kept short: the linear model is local."""
    scaled = hessian * unit[:, None] * unit
    size = np.trace(scaled, axis1=-2, axis2=-1)[..., None, None] / 7
    step = -np.linalg.solve(scaled + (damping * size + 1e-12) * np.eye(7), (gradient * unit)[..., None])[..., 0]
    limit = np.array([0.35, 0.35, 0.35, 0.3, 0.3, 0.3, 0.2])
    shrink = np.minimum(1, 1 / np.maximum((np.abs(step) / limit).max(axis=-1, keepdims=True), 1e-9))
    return np.asarray(step * shrink * unit)


def hurried(step: Floats, before: Floats, unit: Floats) -> Floats:
    """A step [7], longer when it goes on as the one before did: matches that slide along a surface go slowly."""
    a, b = step / unit, before / unit
    onward = a @ b > ONWARD * np.linalg.norm(a) * np.linalg.norm(b) > 0
    return step * HURRY if onward else step
