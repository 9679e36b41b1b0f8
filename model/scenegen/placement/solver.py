"""Gauss-Newton in seven degrees of freedom: a similarity that lays surfaces on measured points, many starts at once.

A pose here is a float64 [4, 4] similarity, scale included. Steps are (rotation vector, shift, log-scale) about a pivot.
This is the coarse end: nearest samples by table, whoever sees them; fit.py is the fine one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from scenegen.placement.evidence import Evidence
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


def change(T: Floats, T_from: Floats) -> Floats:
    """Rotation vector, shift of the centre and log-scale that take T_from to T: [7]."""
    scale, scale_from = scale_of(T), scale_of(T_from)
    turn = Rotation.from_matrix(T[:3, :3] @ T_from[:3, :3].T / (scale * scale_from)).as_rotvec()
    return np.concatenate([turn, T[:3, 3] - T_from[:3, 3], [np.log(scale / scale_from)]])


def unit_of(length: float) -> Floats:
    """What steps [7] are measured in: radians, lengths in metres and log-scale."""
    return np.array([1, 1, 1, length, length, length, 1])


def shared_out(part: Part, count: int) -> Floats:
    """Surface samples [v, n, 3] to test against the outlines of v views: about count in all, so more cost little."""
    views = len(part.evidence.outlines)
    each = max(count // views, 50)
    return part.surface.points[: views * each].reshape(views, each, 3)


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
    unit = unit_of(float(np.mean([part.evidence.length for part in parts])))
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
    offset, arm = surface - measured, surface - pivot
    weight = 1 / (1 + (offset**2).sum(-1) / near**2) ** 2 / (len(measured) * near**2)
    add_points(hessian, gradient, arm, offset, weight)
    outlines = part.evidence.outlines
    at = moved(T_world_asset, shared_out(part, POINTS).reshape(-1, 3)).reshape(len(T), len(outlines), -1, 3)
    amount, direction = outlines.violation(at)
    share = OUTLINE / (amount[0].size * near**2)
    weight = share / (1 + (amount / (2 * near)) ** 2)
    rows = jacobian(at - pivot, direction).reshape(len(T), -1, 7)
    weighted = rows * weight.reshape(len(T), -1, 1)
    hessian += np.swapaxes(weighted, -1, -2) @ rows
    gradient += (amount.reshape(len(T), 1, -1) @ weighted)[:, 0]


def add_points(hessian: Floats, gradient: Floats, arm: Floats, offset: Floats, weight: Floats) -> None:
    """Add the equations of offsets [s, n, 3] in all three directions, at arms [s, n, 3] from the pivot: by moments."""
    weighted = weight[..., None] * arm
    total, mean = weight.sum(axis=-1), weighted.sum(axis=-2)
    second = np.swapaxes(weighted, -1, -2) @ arm
    squared = np.trace(second, axis1=-2, axis2=-1)
    hessian[:, :3, :3] += squared[:, None, None] * np.eye(3) - second
    hessian[:, 3:6, 3:6] += total[:, None, None] * np.eye(3)
    hessian[:, 6, 6] += squared
    hessian[:, 3:6, 6] += mean
    hessian[:, 6, 3:6] += mean
    across = np.zeros((len(mean), 3, 3))
    for axis in range(3):
        a, b = (axis + 1) % 3, (axis + 2) % 3
        across[:, a, b], across[:, b, a] = -mean[:, axis], mean[:, axis]
    hessian[:, :3, 3:6] += across
    hessian[:, 3:6, :3] += np.swapaxes(across, -1, -2)
    product = np.swapaxes(weighted, -1, -2) @ offset
    for axis in range(3):
        a, b = (axis + 1) % 3, (axis + 2) % 3
        gradient[:, axis] += product[:, a, b] - product[:, b, a]
    gradient[:, 3:6] += (weight[..., None] * offset).sum(axis=-2)
    gradient[:, 6] += np.trace(product, axis1=-2, axis2=-1)


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
