"""What a generator must beat: guesses that know nothing of the shape, or nothing of the placement.

Each replaces exactly one thing of the model's own answer (see ``Baselines``). Averages come from the
first scenes of the training set. Knows nothing about networks.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import trimesh
from skimage.measure import marching_cubes

from scenegen.evaluation.metrics import Grid, sample_surface, voxel_iou
from scenegen.evaluation.voxels import RESOLUTION
from scenegen.scene import Floats
from scenegen.synthetic import Camera, camera_path, make_scene, render, true_scene

TRAINING_SCENES = 100
_TRAINING_SEED = 1_000_000
"""The first scenes that the packaged weights were trained on."""
_CUTS = np.linspace(0.05, 0.5, 10)
_SMALL_CAMERA = Camera.pinhole(160, 120, 150.0)
"""Only tells which object is largest in the picture."""


@dataclass(frozen=True)
class Guess:
    """One answer to one scene, object by object.

    points: surface points [N, 3] of each asset in its unit box. voxels: its occupancy [R, R, R].
    T_query_asset: float64 [n, 4, 4], z-up, scale included.
    """

    points: tuple[Floats, ...]
    voxels: tuple[Grid, ...]
    T_query_asset: Floats


class Baselines:
    """The three trivial answers.

    mean_shape: the model's placements; every shape is the mean of the training objects (their occupancies averaged,
    and cut where the result's mean voxel IoU with them is best: at one half hardly anything is left).
    box: the model's placements; every shape is the filled unit box.
    constant_placement: the model's shapes; every object but the query has the median translation and median scale of
    the training objects relative to their query, unturned.
    """

    def __init__(self, scenes: int = TRAINING_SCENES) -> None:
        grids, translations, scales = [], [], []
        for seed in range(_TRAINING_SEED, _TRAINING_SEED + scenes):
            scene = make_scene(seed)
            view = render(scene, _SMALL_CAMERA, camera_path(scene, 1, seed, _SMALL_CAMERA)[0])
            truth = true_scene(scene, view)
            for i in range(len(truth.assets)):
                T = truth.T_query_asset(i)
                if i != truth.query:
                    translations.append(T[:3, 3])
                    scales.append(truth.placements[i].scale)
            grids += [made.occupancy(RESOLUTION) for made in scene.objects]
        mean = np.mean(grids, axis=0)
        cuts = [mean > level for level in _CUTS]
        self.mean_voxels: Grid = max(cuts, key=lambda cut: np.mean([voxel_iou(cut, grid) for grid in grids]))
        self.mean_points = sample_surface(_surface(self.mean_voxels))
        self.box_voxels: Grid = np.ones((RESOLUTION,) * 3, dtype=bool)
        self.box_points = sample_surface(trimesh.creation.box((1.0, 1.0, 1.0)))
        self.T_query_constant = np.diag([*[np.median(scales)] * 3, 1.0])
        self.T_query_constant[:3, 3] = np.median(translations, axis=0)

    def of(self, answer: Guess, query: int) -> dict[str, Guess]:
        """The baselines beside a model's answer, by name."""
        n = len(answer.points)
        constant = np.tile(self.T_query_constant, (n, 1, 1))
        constant[query] = np.eye(4)
        return {
            "mean_shape": replace(answer, points=(self.mean_points,) * n, voxels=(self.mean_voxels,) * n),
            "box": replace(answer, points=(self.box_points,) * n, voxels=(self.box_voxels,) * n),
            "constant_placement": replace(answer, T_query_asset=constant),
        }


def _surface(voxels: Grid) -> trimesh.Trimesh:
    """The surface of a bool grid [R, R, R], in the unit box."""
    vertices, faces, _, _ = marching_cubes(np.pad(voxels, 1).astype(np.float32), 0.5)
    return trimesh.Trimesh((vertices - 0.5) / len(voxels) - 0.5, faces, process=False)
