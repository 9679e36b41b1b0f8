"""Gauss-Newton in seven degrees of freedom: a similarity that lays surfaces on measured points, many starts at once.

A pose here is a float64 [4, 4] similarity, scale included. Steps are (rotation vector, shift, log-scale) about a pivot.
Knows nothing about how starts are found or which object may move on its own.
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


@dataclass(frozen=True)
class Part:
    """A surface and what was measured of it.

    T_group_asset: float64 [4, 4], its place in the group that moves as one.
    """

    surface: Surface
    evidence: Evidence
    T_group_asset: Floats


@dataclass(frozen=True)
class Stage:
    """How one round of Gauss-Newton weighs things.

    tolerance: residual beyond which points count little, as a share of an object's measured length. outline: weight of
    outline and free space. plane: distances to tangent planes instead of points. points: how many per object. exact:
    k-d tree instead of the table.
    """

    tolerance: float
    outline: float
    plane: bool = True
    points: int = 200
    exact: bool = False

    def metres(self, evidence: Evidence) -> float:
        """The tolerance in metres: never below what the camera's noise explains."""
        return max(self.tolerance * evidence.length, 3 * evidence.noise)


@dataclass(frozen=True)
class Normal:
    """Normal equations of a batch of poses: hessian [s, 7, 7], gradient [s, 7], cost [s]."""

    hessian: Floats
    gradient: Floats
    cost: Floats


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


def residuals(T: Floats, part: Part, stage: Stage) -> tuple[Floats, Floats, Floats]:
    """Nearest surface points [s, n, 3] and normals [s, n, 3] in the world, and their offset from the measured ones."""
    T_world_asset = T @ part.T_group_asset
    measured = part.evidence.points[: stage.points]
    index = part.surface.nearest(moved(inverse(T_world_asset), measured), exact=stage.exact)
    rotation = np.swapaxes(T_world_asset[:, :3, :3], -1, -2)
    surface = part.surface.points[index] @ rotation + T_world_asset[:, None, :3, 3]
    normals = part.surface.normals[index] @ rotation / scale_of(T_world_asset)[:, None, None]
    return surface, normals, surface - measured


def normal_equations(T: Floats, parts: Sequence[Part], stage: Stage, pivot: Floats) -> Normal:
    """Every part weighs the same; costs are mean squares in units of each part's tolerance."""
    count = len(T)
    total = Normal(np.zeros((count, 7, 7)), np.zeros((count, 7)), np.zeros(count))
    for part in parts:
        evidence = part.evidence
        tolerance = stage.metres(evidence)
        surface, normals, offset = residuals(T, part, stage)
        weight = 1 / (1 + (offset**2).sum(-1) / tolerance**2) ** 2 / (offset.shape[1] * tolerance**2)
        if stage.plane:
            _add(total, surface - pivot, normals, (offset * normals).sum(-1), weight)
        else:
            for axis in np.eye(3):
                _add(total, surface - pivot, np.broadcast_to(axis, surface.shape), offset @ axis, weight)
        if stage.outline > 0:
            for samples, outline in shared_out(part, stage.points):
                at = moved(T @ part.T_group_asset, samples)
                amount, direction = outline.violation(at)
                share = stage.outline / (len(evidence.outlines) * at.shape[1] * tolerance**2)
                _add(total, at - pivot, direction, amount, share / (1 + (amount / (2 * tolerance)) ** 2))
    return total


def shared_out(part: Part, count: int) -> Iterator[tuple[Floats, Outline]]:
    """Surface samples [n, 3] to test against each outline, in all about count, so that more views cost no more."""
    outlines = part.evidence.outlines
    each = max(count // max(len(outlines), 1), 50)
    for k, outline in enumerate(outlines):
        yield part.surface.points[k * each : (k + 1) * each], outline


def _add(total: Normal, arm: Floats, direction: Floats, residual: Floats, weight: Floats) -> None:
    """Add residuals [s, n] that change along direction [s, n, 3] at arm [s, n, 3] from the pivot."""
    jacobian = np.empty((*residual.shape, 7))
    for axis in range(3):  # np.cross is several times slower
        a, b = (axis + 1) % 3, (axis + 2) % 3
        jacobian[..., axis] = arm[..., a] * direction[..., b] - arm[..., b] * direction[..., a]
    jacobian[..., 3:6] = direction
    jacobian[..., 6] = (arm * direction).sum(-1)
    weighted = jacobian * weight[..., None]
    total.hessian[:] += np.swapaxes(weighted, -1, -2) @ jacobian
    total.gradient[:] += (weighted * residual[..., None]).sum(axis=1)
    total.cost[:] += (weight * residual**2).sum(axis=1)


def solve(T: Floats, parts: Sequence[Part], stages: Sequence[Stage], check: Check) -> Floats:
    """Poses T [s, 4, 4] of a group after one damped Gauss-Newton step per stage; check is called before each."""
    pivot = np.mean([part.evidence.mean for part in parts], axis=0)
    length = float(np.mean([part.evidence.length for part in parts]))
    unit = np.array([1, 1, 1, length, length, length, 1])
    for stage in stages:
        check()
        normal = normal_equations(T, parts, stage, pivot)
        T = stepped(T, bounded(normal.hessian, normal.gradient, unit), pivot)
    return T


def bounded(hessian: Floats, gradient: Floats, unit: Floats) -> Floats:
    """Steps [s, 7] in units [7] (radians, lengths), damped and kept short: the linear model is local."""
    scaled = hessian * unit[:, None] * unit
    size = np.trace(scaled, axis1=1, axis2=2)[:, None, None] / 7
    step = -np.linalg.solve(scaled + (1e-3 * size + 1e-12) * np.eye(7), (gradient * unit)[..., None])[..., 0]
    limit = np.array([0.35, 0.35, 0.35, 0.3, 0.3, 0.3, 0.2])
    shrink = np.minimum(1, 1 / np.maximum((np.abs(step) / limit).max(axis=1, keepdims=True), 1e-9))
    return np.asarray(step * shrink * unit)
