"""How well place_scene puts generated scenes where they stand: errors, success and time over synthetic scenes.

The generated scene is made from the truth and then corrupted (issue 6):
exact: true meshes and relative placements, in the query asset's frame and unit.
both: placements off by 5 % of the query's size, 5 degrees, 5 % in scale; shapes voxelised at 32^3.
hard: 10 %, 10 degrees, 10 %; shapes stretched by up to 10 % per axis, then voxelised.
rough: like a small generator: 30 % of the query's size, 5 degrees, 15 %, one object turned by 90 degrees; shapes
stretched and voxelised, their surfaces wavy (voxel IoU about 0.65).
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import trimesh
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, gaussian_filter
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation
from skimage.measure import marching_cubes

from scenegen.placement import place_scene
from scenegen.scene import Asset, Floats, PlacedObject, Placement, Scene
from scenegen.synthetic import Camera, SyntheticScene, camera_path, make_scene, render_views, true_scene

MIN_PIXELS = 300
UP = np.array([0.0, 0.0, 1.0])


@dataclass(frozen=True)
class Corruption:
    """Standard deviations of shift (query sizes), rotation (degrees) and log-scale; shape faults; a wrong yaw."""

    shift: float = 0.0
    turn: float = 0.0
    scale: float = 0.0
    stretch: float = 0.0
    voxels: bool = False
    wavy: float = 0.0
    wrong_yaw: bool = False


CORRUPTIONS = {
    "exact": Corruption(),
    "both": Corruption(0.05, 5, 0.05, 0.0, True),
    "hard": Corruption(0.10, 10, 0.10, 0.10, True),
    "rough": Corruption(0.30, 5, 0.15, 0.10, True, 1.5, True),
}


def voxelised(occupancy: NDArray[np.bool_], wavy: float, random: np.random.Generator) -> trimesh.Trimesh:
    """Marching cubes of an occupancy grid over the unit box, as a coarse asset is made; wavy: error in voxels."""
    field = np.pad(occupancy, 2).astype(np.float32)
    if wavy:
        distance = distance_transform_edt(field == 0) - distance_transform_edt(field > 0)
        wave = gaussian_filter(random.normal(size=field.shape), 3)
        field = (distance < wave * (wavy / wave.std())).astype(np.float32)
    vertices, faces, _, _ = marching_cubes(field, 0.5)
    return trimesh.Trimesh((vertices - 1.5) / occupancy.shape[0] - 0.5, faces, process=False)


def generated(truth: SyntheticScene, exact: Scene, kind: Corruption, random: np.random.Generator) -> Scene:
    """The scene an imperfect generator would have made where a perfect one makes `exact`."""
    wrong = random.integers(len(exact.assets)) if kind.wrong_yaw else -1
    assets, placements = [], []
    for k, (asset, placement) in enumerate(zip(exact.assets, exact.placements, strict=True)):
        thing = truth.objects[asset.id - 1]
        mesh = voxelised(thing.occupancy(32), kind.wavy, random) if kind.voxels else asset.mesh
        stretch = 1 + random.uniform(-kind.stretch, kind.stretch, 3)
        mesh = trimesh.Trimesh(mesh.vertices * stretch / stretch.max(), mesh.faces, process=False)
        assets.append(Asset(asset.id, asset.label, mesh))
        if k != exact.query:
            axis = random.normal(size=3)
            turn = Rotation.from_rotvec(axis / np.linalg.norm(axis) * np.deg2rad(kind.turn) * random.normal())
            wrong_yaw = Rotation.from_rotvec([0, np.pi / 2 if k == wrong else 0, 0])
            rotation = Rotation.from_quat(placement.rotation_wxyz, scalar_first=True) * turn * wrong_yaw
            placement = Placement(
                placement.translation + random.normal(size=3) * kind.shift / np.sqrt(3),
                rotation.as_quat(scalar_first=True),
                placement.scale * float(np.exp(random.normal() * kind.scale)),
            )
        placements.append(placement)
    return Scene(tuple(assets), tuple(placements), exact.query)


def rotation_error_deg(R: Floats, R_true: Floats, symmetry: int) -> float:
    """Angle between rotations [3, 3] in degrees, the least over the object's yaw symmetries (0: round)."""
    if symmetry == 0:
        return float(np.rad2deg(np.arccos(np.clip(R[:, 2] @ R_true[:, 2], -1, 1))))
    yaws = Rotation.from_rotvec(np.arange(symmetry)[:, None] * (2 * np.pi / symmetry) * UP).as_matrix()
    return float(np.rad2deg(Rotation.from_matrix(R.T @ R_true @ yaws).magnitude().min()))


def add_s(placed: PlacedObject, points: Floats, T_world_true: Floats, size: float) -> float:
    """Mean distance from the true surface [n, 3] (asset frame) to the placed one, as a share of the true diameter."""
    truth = points @ T_world_true[:3, :3].T * size + T_world_true[:3, 3]
    surface = trimesh.sample.sample_surface(placed.asset.mesh, 3000, seed=0)[0] * placed.scale_m
    surface = surface @ placed.T_world_object[:3, :3].T + placed.T_world_object[:3, 3]
    diameter = size * float(np.linalg.norm(np.ptp(points, axis=0)))
    return float(cKDTree(surface).query(truth)[0].mean()) / diameter


def run(seed: int, scenes: int, views: int, shapes: str, gravity: bool, verbose: bool = False) -> dict[str, object]:
    """Errors over scenes of 2-5 objects ; objects under MIN_PIXELS in the first view are left out."""
    rows: dict[str, list[float]] = {k: [] for k in ("position", "rotation", "size", "add_s", "confidence", "seconds")}
    for number in range(scenes):
        truth = make_scene(seed + number)
        cameras = camera_path(truth, views, seed + number)
        random = np.random.default_rng(seed + number)
        taken = render_views(truth, Camera.pinhole(), cameras, random)
        visible = [i for i in taken[0].instance_ids if (taken[0].masks == i).sum() >= MIN_PIXELS]
        if not visible:
            continue
        scene = generated(truth, true_scene(truth, taken[0], visible), CORRUPTIONS[shapes], random)
        began = time.process_time()
        placed = place_scene(scene, taken, gravity=UP if gravity else None)
        rows["seconds"].append(time.process_time() - began)
        for found, index in zip(placed, (i - 1 for i in visible), strict=True):
            thing, T_true, size = truth.objects[index], truth.T_world_object[index], float(truth.size_m[index])
            points = trimesh.sample.sample_surface(thing.mesh(), 1000, seed=1)[0]
            extent = float(thing.mesh().extents.max()) * size
            rows["position"].append(float(np.linalg.norm(found.T_world_object[:3, 3] - T_true[:3, 3])))
            rows["rotation"].append(rotation_error_deg(found.T_world_object[:3, :3], T_true[:3, :3], thing.symmetry))
            rows["size"].append(float(found.size_m.max() / extent))
            rows["add_s"].append(add_s(found, points, T_true, size))
            rows["confidence"].append(found.confidence)
            if verbose:
                print(
                    f"{seed + number:5d} {thing.family:10s} px {(taken[0].masks == index + 1).sum():6d} "
                    f"pos {1e3 * rows['position'][-1]:7.1f} mm rot {rows['rotation'][-1]:6.1f} "
                    f"size {rows['size'][-1]:5.2f} adds {rows['add_s'][-1]:6.3f} conf {found.confidence:4.2f} "
                    f"res {1e3 * found.residual_m:5.1f} mm"
                )
    position, rotation = np.array(rows["position"]), np.array(rows["rotation"])
    return {
        "seed": seed,
        "scenes": scenes,
        "views": views,
        "shapes": shapes,
        "gravity": gravity,
        "objects": len(position),
        "position_m": _summary(position),
        "rotation_deg": _summary(rotation),
        "size_ratio": _summary(np.exp(np.abs(np.log(rows["size"])))),
        "add_s": {
            "within_3_percent": float(np.mean(np.array(rows["add_s"]) < 0.03)),
            **_summary(np.array(rows["add_s"])),
        },
        "success": float(np.mean((position < 0.02) & (rotation < 5))),
        "seconds": _summary(np.array(rows["seconds"])),
    }


def _summary(values: Floats) -> dict[str, float]:
    return {"median": float(np.median(values)), "p95": float(np.percentile(values, 95))}


def main() -> None:
    """Run one cell of the table and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1000, help="first scene's seed; scenes count up from it")
    parser.add_argument("--scenes", type=int, default=200)
    parser.add_argument("--views", type=int, default=1)
    parser.add_argument("--shapes", choices=sorted(CORRUPTIONS), default="exact")
    parser.add_argument("--gravity", choices=("yes", "no"), default="no")
    parser.add_argument("--json", type=Path, help="where to write the result")
    parser.add_argument("--verbose", action="store_true", help="print a line per object")
    given = parser.parse_args()
    result = run(given.seed, given.scenes, given.views, given.shapes, given.gravity == "yes", given.verbose)
    text = json.dumps(result, indent=2)
    print(text)
    if given.json:
        given.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
