"""Fits the figures of scenegen.placement.certainty: what a confidence is, and how far covariances are to be trusted.

Places synthetic scenes of every kind and prints the coefficients of a logistic regression of "within 2 cm and 5
degrees" on what placing leaves behind, and the factor on the covariances at which errors are as large as they say.
Seeds are far from those of benchmark.placement.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from unittest.mock import patch

import numpy as np
from scipy.optimize import minimize

import scenegen.placement.place as place
from benchmark.placement import Errors
from benchmark.placement_scenes import Case, make_case
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
)
"""Shapes, views and the least number of objects of the scenes to learn from."""
PULL = 0.5  # towards zero, on standardised features


def gather(cases: Sequence[Case]) -> tuple[Floats, Floats, Floats]:
    """Features [n, k], success [n] (0 or 1), and squared errors over what the covariance expects, [n, 2]."""
    rows: list[Floats] = []
    ratios: list[list[float]] = []
    errors = Errors()
    original = place.features

    def recorded(*given: object) -> Floats:
        rows.append(original(*given))  # type: ignore[arg-type]
        return rows[-1]

    with patch.object(place, "features", recorded):
        for case in cases:
            before = len(rows)
            placed = place.place_scene(case.scene, case.views)
            if len(rows) - before != len(placed):  # an object without readings has no features
                del rows[before:]
                continue
            for k, found in enumerate(placed):
                T = found.T_world_object.copy()
                T[:3, :3] *= found.scale_m
                errors.add(case, k, T)
                deviation = np.diag(found.covariance)
                turn = np.deg2rad(errors.rotation_deg[-1])
                ratios.append([errors.position_m[-1] ** 2 / deviation[:3].sum(), turn**2 / deviation[3:].sum()])
    return np.stack(rows), errors.near(), np.array(ratios)


def fit(rows: Floats, near: Floats) -> Floats:
    """Coefficients [k] of the logistic regression; the first feature is the constant."""
    mean, spread = rows.mean(axis=0), rows.std(axis=0) + 1e-9
    mean[0], spread[0] = 0, 1
    scaled = (rows - mean) / spread

    def loss(weights: Floats) -> float:
        z = scaled @ weights
        return float(np.logaddexp(0, z).sum() - near @ z + PULL * (weights[1:] ** 2).sum())

    weights = minimize(loss, np.zeros(rows.shape[1])).x / spread
    weights[0] -= weights[1:] @ mean[1:]
    return np.asarray(weights)


def main() -> None:
    """Place the scenes, fit and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=40, help="of each kind")
    scenes = parser.parse_args().scenes
    kinds = [
        (SEED + n, views, shapes, (least, 5 if least > 1 else 1)) for shapes, views, least in MIX for n in range(scenes)
    ]
    rows, near, ratios = gather([case for kind in kinds if (case := make_case(*kind)) is not None])
    print(f"{len(near)} objects, {near.mean():.3f} within 2 cm and 5 degrees")
    print("COEFFICIENTS =", np.round(fit(rows, near), 3).tolist())
    print("INFLATION (position, rotation): medians of squared error over variance", np.median(ratios, axis=0).round(2))


if __name__ == "__main__":
    main()
