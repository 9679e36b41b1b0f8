"""Every object on its own: refined about its predicted placement, or found anew where the views contradict that.

Knows nothing about how the group was placed, nor about cameras.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from scenegen.placement.search import part_score, search, upright_rotations
from scenegen.placement.solver import (
    Check,
    Normal,
    Part,
    Stage,
    bounded,
    normal_equations,
    residuals,
    scale_of,
    stepped,
)
from scenegen.scene import Asset, Floats, PlacedObject

INDEPENDENT = 60  # residuals of neighbouring points share their cause: they count as this many
CONTRADICTED = 0.12  # part_score above which a predicted placement is not believed without a search of its own
BETTER = 0.75  # a pose of its own must score this much better than the predicted one
SNAP = np.cos(np.deg2rad(20))
STAGES = [Stage(0.08, 0.3), Stage(0.06, 0.1), Stage(0.05, 0.1)] + [Stage(0.04, 0.03, points=400, exact=True)] * 5
FREE = np.array([0.3, 0.3, 0.3, 0.2, 0.2, 0.2, 0.2])
"""Prior of an object found anew: radians, lengths and log-scale about its own start."""


@dataclass(frozen=True)
class Pose:
    """An object's pose and how sure it is.

    T: float64 [4, 4] similarity. covariance: float64 [7, 7] of (rotation vector, centre, log-scale), radians, metres.
    residual_m: median distance to the measured points. score: part_score. own: found without the prediction.
    """

    T: Floats
    covariance: Floats
    residual_m: float
    score: float
    own: bool = False


def place_objects(T_world_group: Floats, parts: Sequence[Part], up: Floats | None, check: Check) -> list[Pose]:
    """Poses of all parts, given the group's pose [4, 4]; up is the world's up [3] where it is known. check: see Check.

    The prior's width comes from the scene itself: first everything moves a little, then how far it moved says how far
    the predictions can be trusted.
    """
    predicted = [upright(T_world_group @ part.T_group_asset, up) for part in parts]
    width = np.full(3, 0.08)
    poses = [refined(part, T, T, prior(part, width), check) for part, T in zip(parts, predicted, strict=True)]
    good = [i for i, pose in enumerate(poses) if pose.score < CONTRADICTED]
    if good and len(parts) > 1:
        moves = np.stack([_change(poses[i].T, predicted[i]) / _unit(parts[i]) for i in good])
        squares = np.stack([moves[:, :3], moves[:, 3:6], np.repeat(moves[:, 6:], 3, 1)], axis=1) ** 2
        width = np.clip(np.sqrt((squares.mean(axis=2).sum(axis=0) + 0.02**2) / (len(good) + 1)) * 1.2, 0.01, 0.15)
        poses = [
            refined(part, T, pose.T, prior(part, width), check)
            for part, T, pose in zip(parts, predicted, poses, strict=True)
        ]
    axis = up if up is not None else T_world_group[:3, 2] / scale_of(T_world_group)
    return [
        pose if pose.score < CONTRADICTED else _found_anew(part, pose, axis, check)
        for part, pose in zip(parts, poses, strict=True)
    ]


def placed(
    asset: Asset,
    T: Floats,
    covariance: Floats,
    confidence: float,
    residual_m: float = float("nan"),
    *,
    metric: bool = True,
) -> PlacedObject:
    """The object that an asset is where a similarity T [4, 4] puts it; covariance [6, 6] as PlacedObject has it."""
    scale = float(scale_of(T))
    rigid = T.copy()
    rigid[:3, :3] /= scale
    return PlacedObject(
        id=asset.id,
        label=asset.label,
        asset=asset,
        T_world_object=rigid,
        scale_m=scale,
        size_m=np.asarray(asset.mesh.extents * scale, dtype=np.float64),
        covariance=covariance,
        confidence=confidence,
        residual_m=residual_m,
        metric=metric,
    )


def upright(T: Floats, up: Floats | None) -> Floats:
    """A pose [4, 4] with its z axis turned to up [3] where it is nearly there: assets stand upright."""
    if up is None:
        return T
    z = T[:3, 2] / scale_of(T)
    if z @ up < SNAP:
        return T
    out = T.copy()
    out[:3, :3] = Rotation.align_vectors([up], [z])[0].as_matrix() @ T[:3, :3]
    return out


def prior(part: Part, width: Floats) -> Floats:
    """Standard deviations [7] from widths of rotation, shift (in lengths) and log-scale [3]."""
    return np.repeat(width, [3, 3, 1]) * _unit(part)


def refined(part: Part, T_predicted: Floats, T_start: Floats, sigma: Floats, check: Check) -> Pose:
    """One object's maximum a posteriori pose from T_start, with standard deviations sigma [7] about T_predicted."""
    single = Part(part.surface, part.evidence, np.eye(4))
    T = T_start[None]
    precision = np.diag(1 / sigma**2)
    for stage in STAGES:
        check()
        centre = T[0, :3, 3]
        offset = np.linalg.norm(residuals(T, single, stage)[2][0], axis=-1)
        spread = max(1.48 * float(np.median(offset)), single.evidence.noise)
        data = normal_equations(T, [single], stage, centre)
        worth = INDEPENDENT * (stage.metres(single.evidence) / spread) ** 2
        pull = _change(T[0], T_predicted) / sigma**2
        total = Normal(worth * data.hessian + precision, worth * data.gradient + pull, data.cost)
        T = stepped(T, bounded(total.hessian, total.gradient, _unit(part)), centre)
    _, normals, gap = residuals(T, single, STAGES[-1])
    residual = float(np.median(np.abs((gap * normals).sum(-1))))
    covariance = np.linalg.inv(total.hessian[0])
    return Pose(T[0], covariance, residual, float(part_score(T, single, 300)[0]))


def _found_anew(part: Part, predicted: Pose, up: Floats, check: Check) -> Pose:
    """The better of the predicted pose and one found from the object's own points, standing upright."""
    single = Part(part.surface, part.evidence, np.eye(4))
    T, _ = search([single], upright_rotations(up), check)
    candidates = [refined(part, start, start, FREE * _unit(part), check) for start in (upright(t, up) for t in T[:3])]
    best = min(candidates, key=lambda pose: pose.score)
    if best.score > BETTER * predicted.score:
        return predicted
    return Pose(best.T, best.covariance, best.residual_m, best.score, own=True)


def _unit(part: Part) -> Floats:
    length = part.evidence.length
    return np.array([1, 1, 1, length, length, length, 1])


def _change(T: Floats, T_from: Floats) -> Floats:
    """Rotation vector, shift of the centre and log-scale that take T_from to T: [7]."""
    scale, scale_from = scale_of(T), scale_of(T_from)
    turn = Rotation.from_matrix(T[:3, :3] @ T_from[:3, :3].T / (scale * scale_from)).as_rotvec()
    return np.concatenate([turn, T[:3, 3] - T_from[:3, 3], [np.log(scale / scale_from)]])
