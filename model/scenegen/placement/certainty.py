"""How sure a placed object is: its covariance in the world, and the chance that it stands within 2 cm and 5 degrees.

The chance is a logistic regression on what placing an object leaves behind, fitted on synthetic scenes
(benchmark/placement_calibration.py prints the figures below). Knows nothing about how poses are found.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from scenegen.placement.objects import Pose
from scenegen.placement.search import score
from scenegen.placement.solver import Part, scale_of, settle
from scenegen.placement.surface import COARSE, SPACING, Surface
from scenegen.scene import Floats

YAWS = 24
SETTLING = (0.15, 0.1, 0.1)  # a body does not turn about the middle of its box
SAME = 0.035  # asset units: a turn that moves the surface by less changes nothing that a generator gets right
OFF = 3.0  # ... or by less than so many times what the shape is off where it is seen
AS_GOOD = 0.01  # difference of misfits at which another pose is believed 1 / e times as much
LOG_DEVIATIONS = np.array(
    [
        [2.021, 0.028, 0.024, 0.508, -0.732, -0.066, 0.599, -0.294],
        [1.506, 0.327, -0.567, 0.568, 0.134, 0.166, 0.389, -0.319],
    ]
)
LOG_DEVIATION_RANGE = (-1.0, 3.0)
COEFFICIENTS = np.array([-3.057, -0.932, -0.938, -1.105, 0.0, -0.056, 0.238, 0.006])
NEARBY = 1.5 * 2 * np.pi / YAWS  # yaws nearer than this are what the least-squares covariance is about
BELIEVED = 0.4  # of the doubt about yaws: shapes that are nearly symmetric are often right after all
ENOUGH_READ = 0.2
ROUND_VARIANCE = np.pi**2 / 3  # of a yaw that may be anything


@dataclass(frozen=True)
class Doubt:
    """What a turn of an object about its own z axis would change.

    round: turns change nothing at all. ambiguous: how far other yaws that are not the same are believed, 0..1, and
    variance (rad^2): what that says of the yaw.
    """

    round: bool
    ambiguous: float
    variance: float


def doubt_of(pose: Pose, part: Part) -> Doubt:
    """Try other yaws in place of the one found, as far as the placement the object was generated with allows them."""
    angles: Floats = np.asarray(np.arange(1, YAWS) * (2 * np.pi / YAWS))
    same = _same(part.surface, angles, max(SAME, OFF * pose.residual_m / float(scale_of(pose.T))))
    turned = np.tile(pose.T, (YAWS, 1, 1))
    turned[1:, :3, :3] = pose.T[:3, :3] @ _yaws(angles)
    single = [Part(part.surface, part.evidence, np.eye(4))]
    turned[1:] = settle(turned[1:], single, SETTLING, lambda: None)
    misfits = score(turned, single, points=200)
    angles = np.minimum(angles, 2 * np.pi - angles)
    believed = np.exp(-np.maximum(misfits[1:] - misfits[0], 0) / AS_GOOD) * (~same & (angles > NEARBY))
    if pose.turn_width is not None:
        believed = believed * np.exp(-0.5 * (angles / pose.turn_width) ** 2)
    total = 1 + believed.sum()
    return Doubt(bool(same.all()), float(1 - 1 / total), float((believed * angles**2).sum() / total))


def covariance_of(pose: Pose, doubt: Doubt, values: Floats) -> Floats:
    """Covariance [6, 6] of (x, y, z, rotation about x, y, z) in the world, m^2 and rad^2.

    The least-squares one knows noise and what is unseen, but not that a generated shape is wrong: deviations grow by
    what the features [8] tell of that. A yaw that means nothing, or that nothing showed, is as wide as it may be.
    """
    order = [3, 4, 5, 0, 1, 2]
    factor = np.exp(np.clip(values @ LOG_DEVIATIONS.T, *LOG_DEVIATION_RANGE))
    covariance = pose.covariance[np.ix_(order, order)] * np.outer(np.repeat(factor, 3), np.repeat(factor, 3))
    axis = pose.T[:3, 2] / scale_of(pose.T)
    covariance[3:, 3:] += (ROUND_VARIANCE if doubt.round else doubt.variance) * np.outer(axis, axis)
    return covariance


def features(pose: Pose, part: Part, companions: int) -> Floats:
    """What the chance is computed from: [8]."""
    deviation = np.sqrt(np.diag(pose.covariance))
    evidence = part.evidence
    return np.array(
        [
            1.0,
            np.log(np.linalg.norm(deviation[3:6]) / 0.02),
            np.log(np.linalg.norm(deviation[:3]) / np.deg2rad(5)),
            np.log(pose.score + 0.005),
            np.log((pose.residual_m + 0.0005) / float(scale_of(pose.T))),
            np.log(evidence.pixels / len(evidence.outlines)),
            np.log(pose.width),
            float(pose.own or companions == 1),
        ]
    )


def confidence_of(values: Floats, doubt: Doubt, read: float) -> float:
    """The chance, 0..1, that an object with these features [8] stands within 2 cm and 5 degrees, no other way.

    read: share of its mask that has readings. Few may all be wrong ones.
    """
    return float(
        min(1, read / ENOUGH_READ)
        * (1 - BELIEVED * doubt.ambiguous)
        / (1 + np.exp(-np.clip(values @ COEFFICIENTS, -30, 30)))
    )


def _same(surface: Surface, angles: Floats, most: float) -> NDArray[np.bool_]:
    """Whether turning a surface about z by angles [k] moves it by most (asset units) at the most, bool [k]."""
    coarse = surface.points[:COARSE]
    turned = coarse[:200] @ np.swapaxes(_yaws(angles), -1, -2)
    index = cKDTree(coarse).query(turned)[1]
    offset = turned - coarse[index]
    across = np.abs((offset * surface.normals[index]).sum(-1))
    beside = np.sqrt(np.maximum((offset**2).sum(-1) - across**2, 0))
    return np.asarray((np.quantile(across, 0.9, axis=1) < most) & (np.quantile(beside, 0.9, axis=1) < 2 * SPACING))


def _yaws(angles: Floats) -> Floats:
    return Rotation.from_rotvec(angles[:, None] * np.array([0.0, 0.0, 1.0])).as_matrix()
