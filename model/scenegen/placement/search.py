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
    change,
    hurried,
    inverse,
    moved,
    scale_of,
    settle,
    shared_out,
    stepped,
    unit_of,
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
WORTH = 1.5  # what fits worse than the best by this factor is not followed up
ALIKE = 0.08  # poses whose turn (radians), shift (lengths) and log-scale differ by less end up the same
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


def candidates(parts: Sequence[Part], rotations: Floats, check: Check) -> tuple[Floats, Floats]:
    """The most promising poses of a group by table, no two alike, and how badly they fit: [k, 4, 4], [k], best first.

    rotations: float64 [r, 3, 3] of the group in the world, to start from. check: see solver.Check.
    """
    T = starts(parts, rotations)
    T = T[np.argsort(score(T, parts, points=60))[:SCORED]]
    T = settle(T, parts, COARSE, check)
    return _distinct(T, score(T, parts, points=100), parts, REFINED)


def refine(T: Floats, parts: Sequence[Part], check: Check) -> Floats:
    """Poses T [k, 4, 4] fitted to what cameras see, the best of them: best first, no two alike."""
    T = np.stack([fit_group(start, parts, FINE, 150, None, check) for start in T])
    return _distinct(T, np.array([group_misfit(pose, parts, 150) for pose in T]), parts, POLISHED)[0]


def polish(T: Floats, parts: Sequence[Part], support: Support | None, check: Check) -> tuple[Floats, float]:
    """The best of poses T [k, 4, 4] once they are fitted to the end, and its misfit (0 is perfect)."""
    found = [fit_group(start, parts, POLISH, 400, support, check) for start in T]
    return min(((pose, group_misfit(pose, parts, 300)) for pose in found), key=lambda pair: pair[1])


def _distinct(T: Floats, badness: Floats, parts: Sequence[Part], most: int) -> tuple[Floats, Floats]:
    """Poses of T [s, 4, 4] that are not much worse than the best and not nearly the same as a better one."""
    length = float(np.mean([part.evidence.length for part in parts]))
    chosen: list[int] = []
    for i in np.argsort(badness):
        if len(chosen) == most or badness[i] > WORTH * badness.min() + 0.01:
            break
        apart = [np.abs(change(T[i], T[k]) / unit_of(length)).max() for k in chosen]
        if min(apart, default=np.inf) > ALIKE:
            chosen.append(int(i))
    return T[chosen], badness[chosen]


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
    unit = unit_of(float(np.mean([part.evidence.length for part in parts])))
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
        samples = moved(T_world_asset, shared_out(part, points).reshape(-1, 3))
        amount = part.evidence.outlines.amount(samples.reshape(len(T), len(part.evidence.outlines), -1, 3))
        total += np.minimum(amount / reach, 1).mean(axis=(1, 2))
    return np.asarray(total / len(parts))
