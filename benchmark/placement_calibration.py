"""Fits the figures of scenegen.placement.certainty: what a confidence is, and how far covariances are to be trusted.

Places synthetic scenes of every kind, also what the packaged weights generate (which needs torch), and prints the
coefficients of a logistic regression of "within 2 cm and 5 degrees" on what placing leaves behind, and of the factors
on deviations at which errors are as large as they say. Seeds are far from those of benchmark.placement.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from unittest.mock import patch

import numpy as np
from scipy.optimize import minimize

import scenegen.placement.place as place
from benchmark.placement import Errors
from benchmark.placement_scenes import Case, make_case
from scenegen.placement.certainty import BELIEVED, Doubt
from scenegen.scene import Floats

SEED = 6000
MIX = (
    ("exact", 1, 2),
    ("both", 1, 2),
    ("hard", 1, 2),
    ("rough", 1, 2),
    ("hard", 4, 2),
    ("exact", 1, 1),
    ("hard", 1, 1),
    ("generated", 1, 2),
    ("generated", 4, 2),
)
"""Shapes, views and the least number of objects of the scenes to learn from."""
WORRIES = (1, 2, 3, 4)  # deviations, misfit, residual: the larger, the less sure
FREEDOM = 5
PULL = 2.0  # towards zero, on standardised features


def gather(cases: Iterable[Case]) -> tuple[Floats, Floats, Errors]:
    """Features [n, k] of every object placed, how ambiguous it is [n], and its errors."""
    rows: list[Floats] = []
    ambiguous: list[float] = []
    errors = Errors()
    original = place.confidence_of

    def recorded(values: Floats, doubt: Doubt, read: float) -> float:
        rows.append(values)
        ambiguous.append(doubt.ambiguous)
        return original(values, doubt, read)

    with patch.object(place, "confidence_of", recorded):
        for case in cases:
            before = len(rows)
            placed = place.place_scene(case.scene, case.views)
            if len(rows) - before != len(placed):  # an object without readings has no features
                del rows[before:], ambiguous[before:]
                continue
            for k, found in enumerate(placed):
                errors.add(case, k, found.T_world_asset)
    return np.stack(rows), np.array(ambiguous), errors


def chance(rows: Floats, ambiguous: Floats, near: Floats) -> Floats:
    """Coefficients [k] of the logistic regression; the first feature is the constant."""

    def loss(z: Floats) -> float:
        right = np.clip((1 - BELIEVED * ambiguous) / (1 + np.exp(-z)), 1e-9, 1 - 1e-9)
        return -float((near * np.log(right) + (1 - near) * np.log1p(-right)).sum())

    return _fitted(rows, loss, falling=WORRIES)


def growth(rows: Floats, expected: Floats, error: Floats) -> Floats:
    """Coefficients [k] of the logarithm of the factor on expected deviations [n] that makes errors [n] most likely.

    By Student's t in three dimensions, for which gross errors are no reason to doubt everything.
    """

    def loss(z: Floats) -> float:
        squares = 3 * (error / (expected * np.exp(z))) ** 2
        return float((3 * z + (FREEDOM + 3) / 2 * np.log1p(squares / FREEDOM)).sum())

    return _fitted(rows, loss)


def _fitted(rows: Floats, loss: Callable[[Floats], float], falling: Sequence[int] = ()) -> Floats:
    mean, spread = rows.mean(axis=0), rows.std(axis=0) + 1e-9
    mean[0], spread[0] = 0, 1
    scaled = (rows - mean) / spread

    def penalised(weights: Floats) -> float:
        return loss(scaled @ weights) + PULL * float((weights[1:] ** 2).sum())

    bounds = [(None, 0 if k in falling else None) for k in range(rows.shape[1])]
    weights = minimize(penalised, np.zeros(rows.shape[1]), method="L-BFGS-B", bounds=bounds).x / spread
    weights[0] -= weights[1:] @ mean[1:]
    return np.asarray(weights)


def report(rows: Floats, ambiguous: Floats, errors: Errors) -> None:
    """Fit and print."""
    near, position = errors.near(), np.array(errors.position_m)
    turn = np.deg2rad(errors.rotation_deg)
    right = turn < np.deg2rad(20)  # what is turned the wrong way says nothing of how far right ones are off
    by_position = growth(rows, np.exp(rows[:, 1]) * 0.02, position)
    by_turn = growth(rows[right], np.exp(rows[right, 2]) * np.deg2rad(5), turn[right])
    print(f"{len(near)} objects, {near.mean():.3f} within 2 cm and 5 degrees")
    print("COEFFICIENTS =", np.round(chance(rows, ambiguous, near), 3).tolist())
    print("LOG_DEVIATIONS =", [np.round(by_position, 3).tolist(), np.round(by_turn, 3).tolist()])


def main() -> None:
    """Place the scenes, fit and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=40, help="of each kind")
    scenes = parser.parse_args().scenes
    kinds = [
        (SEED + n, views, shapes, (least, 5 if least > 1 else 1)) for shapes, views, least in MIX for n in range(scenes)
    ]
    report(*gather(case for kind in kinds if (case := make_case(*kind)) is not None))


if __name__ == "__main__":
    main()
