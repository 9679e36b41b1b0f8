"""Every object on its own: refined about its predicted placement, or found anew where the views contradict that.

Knows nothing about how the group was placed, nor about cameras.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.spatial.transform import Rotation

from scenegen.placement.fit import match, misfit, rows
from scenegen.placement.search import candidates, refine, upright_rotations
from scenegen.placement.solver import Check, Part, bounded, change, hurried, scale_of, stepped, unit_of
from scenegen.placement.support import Support
from scenegen.scene import Asset, Floats, PlacedObject

INDEPENDENT = 60  # residuals of neighbouring points share their cause: they count as this many
CONTRADICTED = 0.12  # misfit above which a predicted placement is not believed without a search of its own
BETTER = 0.75  # a pose of its own must fit this much better than the predicted one
UPRIGHT, NEARLY_UPRIGHT = np.deg2rad(0.4), np.deg2rad(10.0)
"""Standing objects stand this upright; what leans more than the second is hardly taken for standing."""
SNAP = np.cos(np.deg2rad(25.0))
STAGES = ((0.08, 0.3), (0.06, 0.1), (0.05, 0.1), *((0.04, 0.03),) * 4)
POINTS = 400
FREE = np.array([0.3, 0.3, 0.3, 0.2, 0.2, 0.2, 0.2])
"""Prior of an object found anew: radians, lengths and log-scale about its own start."""
QUARTER_TURNS = [
    np.array([[c, -s, 0, 0], [s, c, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]) for c, s in ((0, 1), (-1, 0), (0, -1))
]
"""About z: what looks nearly the same so, only the finest fit tells apart."""
WIDTH = np.array([0.1, 0.08, 0.08])
"""How far placements are trusted before anything is known of them: radians, query sizes, log-scale."""
LEAST_WIDTH, MOST_WIDTH = 0.003, 0.15
ROUNDS = 3


@dataclass(frozen=True)
class Pose:
    """An object's pose and how sure it is.

    T: float64 [4, 4] similarity. covariance: float64 [7, 7] of (rotation vector, centre, log-scale), radians, metres.
    residual_m: median distance to the measured points. score: misfit. own: found without the prediction. width: how far
    placements of its scene are trusted (standard deviation, query sizes), and turn_width the same in radians; None
    where no other object says how this one is turned.
    """

    T: Floats
    covariance: Floats
    residual_m: float
    score: float
    own: bool = False
    width: float = float(WIDTH[1])
    turn_width: float | None = None


@dataclass(frozen=True)
class Ground:
    """What is known of standing. up: [3] when assets stand upright in it. support: what carries them, where seen."""

    up: Floats | None
    support: Support | None


def place_objects(T_world_group: Floats, parts: Sequence[Part], ground: Ground, check: Check) -> list[Pose]:
    """Poses of all parts, given the group's pose [4, 4]. check: see solver.Check.

    Every object has a Gaussian prior about the placement the group predicts. Its width comes from the scene itself, and
    the group follows its objects, by expectation and maximisation: where placements are exact, objects of which little
    is seen are held by the others.
    """
    T_group, width = T_world_group, WIDTH
    poses: list[Pose] = []
    good: list[int] = []
    for number in range(ROUNDS):
        predicted = [T_group @ part.T_group_asset for part in parts]
        sigma = np.repeat(width * [1, scale_of(T_group), 1], [3, 3, 1])
        begun = [_set_upright(T, ground.up) for T in predicted] if number == 0 else [pose.T for pose in poses]
        stages = STAGES if number == 0 else STAGES[-3:]
        poses = [
            refined(part, T, begun[i], sigma, ground, _others(i, parts, begun) if number else (), stages, check)
            for i, (part, T) in enumerate(zip(parts, predicted, strict=True))
        ]
        good = [i for i, pose in enumerate(poses) if pose.score < CONTRADICTED]
        if len(good) < 2 or number == ROUNDS - 1:
            break
        moves = np.stack([change(poses[i].T, predicted[i]) for i in good])
        T_group = _followed(T_group, parts, poses, good, moves, sigma)
        width = _width(moves, np.stack([np.diag(poses[i].covariance) for i in good]), float(scale_of(T_group)))
    if len(parts) == 1:
        poses = [_turned(parts[0], poses[0], ground, check)]
    if len(good) > 1:
        poses = [replace(pose, width=float(width[1]), turn_width=float(width[0])) for pose in poses]
    axis = ground.up if ground.up is not None else T_group[:3, 2] / scale_of(T_group)
    return [
        pose if pose.score < CONTRADICTED else _found_anew(part, pose, axis, ground, check)
        for part, pose in zip(parts, poses, strict=True)
    ]


def _others(i: int, parts: Sequence[Part], poses: Sequence[Floats]) -> list[tuple[Part, Floats]]:
    return [(part, T) for k, (part, T) in enumerate(zip(parts, poses, strict=True)) if k != i]


def _followed(
    T_group: Floats, parts: Sequence[Part], poses: Sequence[Pose], good: Sequence[int], moves: Floats, sigma: Floats
) -> Floats:
    """The group [4, 4] where its objects' evidence, freed from their priors' pull, wants it."""
    pivot = T_group[:3, 3]
    precision = np.diag(1 / sigma**2)
    hessian, gradient = np.diag(1e-6 / sigma**2), np.zeros(7)
    for i, move in zip(good, moves, strict=True):
        arm = (T_group @ parts[i].T_group_asset)[:3, 3] - pivot
        follows = np.eye(7)  # how the prediction moves with a step of the group about the pivot
        follows[3:6, :3] = np.array([[0, arm[2], -arm[1]], [-arm[2], 0, arm[0]], [arm[1], -arm[0], 0]])
        follows[3:6, 6] = arm
        hessian += follows.T @ (precision - precision @ poses[i].covariance @ precision) @ follows
        gradient += follows.T @ precision @ move
    step = np.asarray(np.linalg.solve(hessian, gradient))
    return stepped(T_group[None], step[None], pivot)[0]


def _width(moves: Floats, variances: Floats, unit: float) -> Floats:
    """Standard deviations [3] of placements (radians, query sizes, log-scale) from moves and their variances [n, 7]."""
    squares = (moves**2 + variances) / np.repeat([1, unit**2, 1], [3, 3, 1])
    mean = np.array([squares[:, :3].mean(), squares[:, 3:6].mean(), squares[:, 6].mean()])
    count = len(moves)
    return np.clip(np.sqrt((count * mean + 0.01**2) / (count + 1)), LEAST_WIDTH, MOST_WIDTH)


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


def refined(
    part: Part,
    T_predicted: Floats,
    T_start: Floats,
    sigma: Floats,
    ground: Ground,
    others: Sequence[tuple[Part, Floats]],
    stages: Sequence[tuple[float, float]],
    check: Check,
) -> Pose:
    """One object's maximum a posteriori pose from T_start, with standard deviations sigma [7] about T_predicted.

    others: parts that it must not reach into, where they stand.
    """
    T, step = T_start, np.zeros(7)
    precision = np.diag(1 / sigma**2)
    for share, outline in stages:
        check()
        centre = T[:3, 3]
        near = part.tolerance(share)
        found = match(T, part, POINTS)
        hessian, gradient = rows(T, part, found, near, outline, POINTS, ground.support, others).equations(centre)
        spread = max(1.48 * float(np.median(np.hypot(found.across, found.beside))), part.evidence.noise)
        worth = INDEPENDENT * (near / spread) ** 2
        upright, lean = _uprightness(T, ground.up)
        total = worth * hessian + precision + upright
        pull = worth * gradient + change(T, T_predicted) / sigma**2 + lean
        step = hurried(bounded(total, pull, unit_of(part.evidence.length)), step, unit_of(part.evidence.length))
        T = stepped(T[None], step[None], centre)[0]
    residual = float(np.median(np.abs(match(T, part, POINTS).across)))
    return Pose(T, np.asarray(np.linalg.inv(total)), residual, misfit(T, part))


def _set_upright(T: Floats, up: Floats | None) -> Floats:
    """A pose [4, 4] with its z axis turned to up [3] where it is nearly there: a start that evidence may leave."""
    z = T[:3, 2] / scale_of(T)
    if up is None or z @ up < SNAP:
        return T
    out = T.copy()
    out[:3, :3] = Rotation.align_vectors([up], [z])[0].as_matrix() @ T[:3, :3]
    return out


def _uprightness(T: Floats, up: Floats | None) -> tuple[Floats, Floats]:
    """Hessian [7, 7] and gradient [7] of the wish to stand upright, which a leaning object does not have."""
    hessian, gradient = np.zeros((7, 7)), np.zeros(7)
    if up is not None:
        lean = np.cross(up, T[:3, 2] / scale_of(T))
        angle = np.arctan2(np.linalg.norm(lean), up @ T[:3, 2])
        weight = 1 / UPRIGHT**2 / (1 + (angle / NEARLY_UPRIGHT) ** 2) ** 2
        hessian[:3, :3] = weight * (np.eye(3) - np.outer(up, up))
        gradient[:3] = weight * lean
    return hessian, gradient


def _found_anew(part: Part, predicted: Pose, up: Floats, ground: Ground, check: Check) -> Pose:
    """The better of the predicted pose and one found from the object's own points, standing upright."""
    single = [Part(part.surface, part.evidence, np.eye(4))]
    starts = refine(candidates(single, upright_rotations(up), check)[0], single, check)
    best = min((_freely(part, start, ground, check) for start in starts), key=lambda pose: pose.score)
    best = _turned(part, best, ground, check)
    if best.score > BETTER * predicted.score:
        return predicted
    return replace(best, own=True)


def _freely(part: Part, start: Floats, ground: Ground, check: Check) -> Pose:
    return refined(part, start, start, FREE * unit_of(part.evidence.length), ground, (), STAGES, check)


def _turned(part: Part, pose: Pose, ground: Ground, check: Check) -> Pose:
    """The pose, or where a quarter turn from it fits better."""
    return min([pose, *(_freely(part, pose.T @ turn, ground, check) for turn in QUARTER_TURNS)], key=lambda p: p.score)
