"""From nothing to a pose: rotations to try, scale and position in closed form, scores, and the best few refined.

Knows nothing about views or which asset is which: it lays a group of parts on what was measured of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.spatial.transform import Rotation

from scenegen.placement.fit import match, misfit, rows
from scenegen.placement.solver import (
    Check,
    Part,
    bounded,
    hurried,
    inverse,
    moved,
    scale_of,
    settle,
    shared_out,
    stepped,
)
from scenegen.placement.support import Support
from scenegen.placement.surface import SPACING, Surface
from scenegen.scene import Floats

SCALES = (0.85, 1.0, 1.15)
SCORED = 24
REFINED = 6
POLISHED = 2
COARSE = (0.3, 0.3, 0.3, 0.2, 0.2, 0.2)
FINE = ((0.2, 1), (0.15, 1), (0.12, 1), (0.1, 0.3), (0.08, 0.3), (0.06, 0.1))
POLISH = ((0.05, 0.1), *((0.04, 0.03),) * 12)
STILL = 3e-4  # a step that turns by fewer radians, or moves or grows by less of a length, is the last


def all_rotations(count: int = 600) -> Floats:
    """Rotations spread evenly (super-Fibonacci spiral, Alexa 2022): float64 [count, 3, 3]."""
    s = np.arange(count) + 0.5
    r, R = np.sqrt(s / count), np.sqrt(1 - s / count)
    a, b = 2 * np.pi * s / np.sqrt(2), 2 * np.pi * s / 1.533751168755204288118041
    return Rotation.from_quat(np.stack([r * np.sin(a), r * np.cos(a), R * np.sin(b), R * np.cos(b)], -1)).as_matrix()


def upright_rotations(up: Floats, count: int = 36) -> Floats:
    """Rotations that turn z to up [3] (unit), count yaws: float64 [count, 3, 3]."""
    yaw = Rotation.from_rotvec(np.arange(count)[:, None] * (2 * np.pi / count) * np.array([0.0, 0.0, 1.0]))
    return (Rotation.align_vectors([up], [[0.0, 0.0, 1.0]])[0] * yaw).as_matrix()


def search(parts: Sequence[Part], rotations: Floats, support: Support | None, check: Check) -> tuple[Floats, Floats]:
    """The best poses of a group and their misfits (0 is perfect), best first: [k, 4, 4], [k].

    rotations: float64 [r, 3, 3] of the group in the world, to start from. check: see solver.Check.
    """
    T = starts(parts, rotations)
    T = T[np.argsort(score(T, parts, points=60))[:SCORED]]
    T = settle(T, parts, COARSE, check)
    T = T[np.argsort(score(T, parts, points=100))[:REFINED]]
    T = np.stack([fit_group(start, parts, FINE, 150, None, check) for start in T])
    T = T[np.argsort([group_misfit(pose, parts, 150) for pose in T])[:POLISHED]]
    T = np.stack([fit_group(start, parts, POLISH, 400, support, check) for start in T])
    final = np.array([group_misfit(pose, parts, 300) for pose in T])
    order = np.argsort(final)
    return T[order], final[order]


def fit_group(
    T: Floats,
    parts: Sequence[Part],
    stages: Sequence[tuple[float, float]],
    points: int,
    support: Support | None,
    check: Check,
) -> Floats:
    """A group's pose [4, 4] after one step for each stage (tolerance, weight of outlines); parts weigh the same."""
    pivot = np.mean([part.evidence.mean for part in parts], axis=0)
    length = float(np.mean([part.evidence.length for part in parts]))
    unit = np.array([1, 1, 1, length, length, length, 1])
    step = np.zeros(7)
    for share, outline in stages:
        check()
        hessian, gradient = np.zeros((7, 7)), np.zeros(7)
        for part in parts:
            T_asset = T @ part.T_group_asset
            found = match(T_asset, part, points)
            h, g = rows(T_asset, part, found, part.tolerance(share), outline, points, support).equations(pivot)
            hessian, gradient = hessian + h, gradient + g
        step = hurried(bounded(hessian, gradient, unit), step, unit)
        T = stepped(T[None], step[None], pivot)[0]
        if (share, outline) == stages[-1] and np.abs(step / unit).max() < STILL:
            break
    return T


def group_misfit(T: Floats, parts: Sequence[Part], points: int) -> float:
    """Mean misfit of a group's parts."""
    return float(np.mean([misfit(T @ part.T_group_asset, part, points) for part in parts]))


def starts(parts: Sequence[Part], rotations: Floats) -> Floats:
    """Poses [3 r, 4, 4] for rotations [r, 3, 3]: scale and position make the moments of what should be seen agree."""
    expected, spread, measured, variance = [], [], [], []
    for part in parts:
        size = scale_of(part.T_group_asset)
        turned = rotations @ (part.T_group_asset[:3, :3] / size)
        mean, var = seen(part.surface, part.evidence.towards_camera, part.evidence.share, turned)
        in_group = mean @ part.T_group_asset[:3, :3].T + part.T_group_asset[:3, 3]
        expected.append(np.einsum("rij,rj->ri", rotations, in_group))
        spread.append(size**2 * var)
        measured.append(part.evidence.mean)
        variance.append(part.evidence.variance)
    model, points = np.stack(expected, axis=1), np.stack(measured)
    model_mean, points_mean = model.mean(axis=1), points.mean(axis=0)
    model_spread = ((model - model_mean[:, None]) ** 2).sum((1, 2)) + np.sum(spread, axis=0)
    scale = np.sqrt((((points - points_mean) ** 2).sum() + np.sum(variance)) / model_spread)
    T = np.zeros((len(SCALES), len(rotations), 4, 4))
    for k, factor in enumerate(SCALES):
        T[k, :, :3, :3] = rotations * (factor * scale)[:, None, None]
        T[k, :, :3, 3] = points_mean - (factor * scale)[:, None] * model_mean
    T[..., 3, 3] = 1
    return T.reshape(-1, 4, 4)


def seen(surface: Surface, towards_camera: Floats, share: Floats, rotations: Floats) -> tuple[Floats, Floats]:
    """Mean [r, 3] and variance [r] of what the views should see of an asset turned by rotations [r, 3, 3].

    towards_camera: float64 [v, 3], unit directions to the cameras. share: [v], each camera's part of the points.
    """
    mean = np.zeros((len(rotations), 3))
    square = np.zeros(len(rotations))
    for towards, part in zip(towards_camera, share, strict=True):
        index = np.argmax((towards @ rotations) @ surface.directions.T, axis=-1)
        here = surface.seen_mean[index]
        mean += part * here
        square += part * (surface.seen_variance[index] + (here**2).sum(-1))
    return mean, np.maximum(square - (mean**2).sum(-1), 1e-8)


def score(T: Floats, parts: Sequence[Part], points: int) -> Floats:
    """Mean over parts of how badly poses T [s, 4, 4] fit, each part 0..2, by table: [s]."""
    total = np.zeros(len(T))
    for part in parts:
        T_world_asset = T @ part.T_group_asset
        scale = scale_of(T_world_asset)[:, None]
        reach = 0.15 * part.evidence.length
        at = moved(inverse(T_world_asset), part.evidence.points[:points])
        offset = np.linalg.norm(at - part.surface.points[part.surface.nearest(at)], axis=-1)
        gap = np.maximum(offset - SPACING / 2, 0) * scale
        total += np.clip((gap - part.evidence.noise) / reach, 0, 1).mean(axis=1)
        for samples, outline in shared_out(part, points):
            amount = outline.violation(moved(T_world_asset, samples))[0]
            total += np.minimum(amount / reach, 1).mean(axis=1) / len(part.evidence.outlines)
    return np.asarray(total / len(parts))
