"""How well place_scene puts generated scenes where they stand: errors, success and time over synthetic scenes.

One row of the table in docs/placement.md a call, as JSON: errors of place_scene, and under scaled_icp and cpd those of
registering every object's points with its mesh. benchmark/placement_scenes.py says what the shapes are and what was
sensed. The same seed gives the same scenes and poses; seconds are this thread's CPU time for one scene.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import trimesh
from scipy.spatial import cKDTree

from benchmark.placement_baselines import cpd, measured, scaled_icp
from benchmark.placement_scenes import SHAPES, Case, make_case
from scenegen.evaluation.symmetry import rotation_error_deg
from scenegen.placement import place_scene
from scenegen.scene import Floats

UP = np.array([0.0, 0.0, 1.0])
NEAR_M, NEAR_DEG, NEAR_ADD_S = 0.02, 5.0, 0.03
BINS = np.linspace(0, 1, 11)
Report = dict[str, object]


@dataclass
class Errors:
    """One method's errors, a number for each object (seconds: for each scene)."""

    position_m: list[float] = field(default_factory=list)
    rotation_deg: list[float] = field(default_factory=list)
    size_ratio: list[float] = field(default_factory=list)
    add_s: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def add(self, case: Case, k: int, T_world_asset: Floats) -> None:
        """Score the similarity [4, 4] of the scene's asset k."""
        index = case.visible[k]
        thing, T_true, size = case.truth.objects[index], case.truth.T_world_object[index], case.truth.size_m[index]
        scale = float(np.cbrt(np.linalg.det(T_world_asset[:3, :3])))
        R, mesh = T_world_asset[:3, :3] / scale, case.scene.assets[k].mesh
        ratio = scale * float(mesh.extents.max()) / (float(thing.mesh().extents.max()) * size)
        self.position_m.append(float(np.linalg.norm(T_world_asset[:3, 3] - T_true[:3, 3])))
        self.rotation_deg.append(float(rotation_error_deg(R, T_true[:3, :3], thing.symmetry)))
        self.size_ratio.append(max(ratio, 1 / ratio))
        truth = _samples(case, k, True) * size
        in_asset = (truth @ T_true[:3, :3].T + T_true[:3, 3] - T_world_asset[:3, 3]) @ R / scale
        distance = cKDTree(_samples(case, k, False)).query(in_asset)[0] * scale
        self.add_s.append(float(distance.mean() / np.linalg.norm(np.ptp(truth, axis=0))))

    def near(self) -> Floats:
        """Whether each object stands within 2 cm and 5 degrees, 0 or 1 [n]."""
        return ((np.array(self.position_m) < NEAR_M) & (np.array(self.rotation_deg) < NEAR_DEG)).astype(float)

    def report(self) -> Report:
        """Medians, 95th percentiles and shares."""
        within = float(np.mean(np.array(self.add_s) < NEAR_ADD_S))
        return {
            "position_m": _summary(self.position_m),
            "rotation_deg": _summary(self.rotation_deg),
            "size_ratio": _summary(self.size_ratio),
            "add_s": {**_summary(self.add_s), "within_3_percent": within},
            "success": float(self.near().mean()),
            "seconds": float(np.median(self.seconds)),
            "seconds_p95": float(np.percentile(self.seconds, 95)),
        }


@lru_cache(maxsize=32)
def _samples(case: Case, k: int, true: bool) -> Floats:
    """Points [n, 3] on the true or the generated mesh of a case's asset k, in the asset's frame."""
    mesh = case.truth.objects[case.visible[k]].mesh() if true else case.scene.assets[k].mesh
    return np.asarray(trimesh.sample.sample_surface(mesh, 500 if true else 4000, seed=int(true))[0])


def run(
    seed: int,
    scenes: int,
    views: int,
    shapes: str,
    gravity: bool,
    count: tuple[int, int] = (2, 5),
    verbose: bool = False,
) -> Report:
    """One row: scenes seed, seed + 1, ... of count[0]..count[1] objects."""
    ours, icp, drift = Errors(), Errors(), Errors()
    confidence: list[float] = []
    for number in range(seed, seed + scenes):
        case = make_case(number, views, shapes, count)
        if case is None:
            continue
        began = time.process_time()
        placed = place_scene(case.scene, case.views, gravity=UP if gravity else None)
        ours.seconds.append(time.process_time() - began)
        for k, found in enumerate(placed):
            ours.add(case, k, found.T_world_asset)
            confidence.append(found.confidence)
            if verbose:
                index = case.visible[k]
                deviation = np.sqrt(np.diag(found.covariance))
                print(
                    f"{number:6d}.{k} {case.truth.objects[index].family:8s}"
                    f" {(case.views[0].masks == index + 1).sum():6d} px"
                    f" {1e3 * ours.position_m[-1]:6.1f} ({1e3 * np.linalg.norm(deviation[:3]):5.1f}) mm"
                    f" {ours.rotation_deg[-1]:5.1f} ({np.rad2deg(np.linalg.norm(deviation[3:])):5.1f}) deg"
                    f" size {100 * (ours.size_ratio[-1] - 1):5.1f} % ADD-S {100 * ours.add_s[-1]:4.1f} %"
                    f" confidence {found.confidence:4.2f} residual {1e3 * found.residual_m:4.1f} mm"
                    + ("" if ours.near()[-1] else "  <--"),
                    flush=True,
                )
        _baseline(icp, case, scaled_icp, number)
        _baseline(drift, case, cpd, number)
    return {
        **{"seed": seed, "scenes": scenes, "views": views, "shapes": shapes, "gravity": gravity, "count": list(count)},
        "objects": len(confidence),
        **ours.report(),
        "calibration": _calibration(np.array(confidence), ours.near()),
        "scaled_icp": icp.report(),
        "cpd": drift.report(),
        "each": {
            **{key: np.round(getattr(ours, key), 5).tolist() for key in ("position_m", "rotation_deg", "add_s")},
            "confidence": np.round(confidence, 3).tolist(),
        },
    }


def _baseline(
    errors: Errors, case: Case, register: Callable[[Floats, Floats, np.random.Generator], Floats], seed: int
) -> None:
    random = np.random.default_rng(seed)
    clouds = [measured(case.views, asset.id) for asset in case.scene.assets]
    models = [_samples(case, k, False) for k in range(len(clouds))]
    began = time.process_time()
    found = [register(model, points, random) for model, points in zip(models, clouds, strict=True)]
    errors.seconds.append(time.process_time() - began)
    for k, T in enumerate(found):
        errors.add(case, k, T)


def _summary(values: list[float]) -> dict[str, float]:
    return {"median": float(np.median(values)), "p95": float(np.percentile(values, 95))}


def _calibration(confidence: Floats, near: Floats) -> Report:
    """Per tenth of confidence how many objects, their mean confidence and success; their expected difference."""
    which = np.clip(np.digitize(confidence, BINS) - 1, 0, len(BINS) - 2)
    bins = [
        {"count": int(mine.sum()), "confidence": float(confidence[mine].mean()), "success": float(near[mine].mean())}
        for mine in (which == b for b in range(len(BINS) - 1))
        if mine.any()
    ]
    error = sum(b["count"] * abs(b["confidence"] - b["success"]) for b in bins) / len(confidence)
    return {"expected_error": float(error), "bins": bins}


def main() -> None:
    """Measure one row and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1000, help="first scene's seed; scenes count up from it")
    parser.add_argument("--scenes", type=int, default=200)
    parser.add_argument("--views", type=int, default=1)
    parser.add_argument("--shapes", choices=SHAPES, default="exact")
    parser.add_argument("--gravity", choices=("yes", "no"), default="no")
    parser.add_argument("--single", action="store_true", help="one object in a scene, in place of 2 to 5")
    parser.add_argument("--json", type=Path, help="where to write the result")
    parser.add_argument("--verbose", action="store_true", help="print a line per object")
    given = parser.parse_args()
    count = (1, 1) if given.single else (2, 5)
    result = run(given.seed, given.scenes, given.views, given.shapes, given.gravity == "yes", count, given.verbose)
    print(json.dumps({key: value for key, value in result.items() if key not in ("each", "calibration")}, indent=2))
    if given.json:
        given.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
