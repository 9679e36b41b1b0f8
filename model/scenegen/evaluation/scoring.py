"""Scores of one generated scene against its truth, and their means over a set (Table 1, geometry).

spec/evaluation.md to the letter, with two readings where it leaves room: object metrics take each object's points as
they stand in the normalised scene, before the scene's alignment; and means are over objects for object metrics and
IoU-B, over scenes for scene metrics. Beside them ``iou_b_icp``, IoU-B after a further plain ICP: the protocol's
alignment has one wide, fixed sigma, which leaves even a perfect scene a few percent off; its IoU-B is about 0.82.

Knows nothing about placements, voxels or how a scene was generated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import trimesh

from scenegen.evaluation.images import set_figures
from scenegen.evaluation.metrics import (
    box_iou,
    chamfer,
    f_score,
    nearest_distances,
    neighbour_tree,
    normalise_object,
    normalise_scene,
    sample_surface,
    scene_normalisation,
)
from scenegen.evaluation.registration import RigidMotion, closest_point_refinement, filterreg
from scenegen.scene import Floats, InvalidInput


@dataclass(frozen=True)
class SceneScore:
    """One scene's figures by their JSON names. of_scene: one value. of_objects: a value for each object, in order.

    T_truth_generated: float64 [4, 4], the scene-level alignment (a similarity: the two scenes are normalised apart).
    features: of the scene's pictures, for figures of whole sets (images.image_features).
    """

    of_scene: Mapping[str, float]
    of_objects: Mapping[str, Floats] = field(default_factory=dict)
    T_truth_generated: Floats = field(default_factory=lambda: np.eye(4))
    features: Mapping[str, Floats] = field(default_factory=dict)

    def row(self) -> dict[str, float]:
        """One flat row: the scene's values and the means of its objects' (NaN where none is defined)."""
        return dict(self.of_scene) | {name: _mean(values) for name, values in self.of_objects.items()}


def evaluate_scene(generated: Sequence[trimesh.Trimesh], truth: Sequence[trimesh.Trimesh]) -> SceneScore:
    """Score meshes with their world transforms applied; the i-th object of one is compared with the i-th of the other.

    Both scenes stand in the query asset's frame (any scale, any offset). InvalidInput when the counts differ.
    """
    if len(generated) != len(truth) or not truth:
        raise InvalidInput(
            f"{len(generated)} generated objects, {len(truth)} true ones: the i-th is compared with the i-th, "
            "so both scenes need the same, at least one"
        )
    return evaluate_points(
        [sample_surface(mesh, seed=2 * i) for i, mesh in enumerate(generated)],
        [sample_surface(mesh, seed=2 * i + 1) for i, mesh in enumerate(truth)],
    )


def evaluate_points(generated: Sequence[Floats], truth: Sequence[Floats]) -> SceneScore:
    """The same from each object's surface points [N, 3]."""
    to_normalised, to_normalised_truth = scene_normalisation(generated), scene_normalisation(truth)
    generated, truth = normalise_scene(generated), normalise_scene(truth)
    of_scene, iou_b, iou_b_icp, aligned = _scene_level(generated, truth)
    of_objects = [_object_level(g, t) for g, t in zip(generated, truth, strict=True)]
    return SceneScore(
        of_scene,
        {
            "cd_o": np.array([cd for cd, _ in of_objects]),
            "f_o": np.array([f for _, f in of_objects]),
            "iou_b": iou_b,
            "iou_b_icp": iou_b_icp,
        },
        np.linalg.inv(to_normalised_truth) @ aligned.matrix @ to_normalised,
    )


def mean_scores(scores: Sequence[SceneScore]) -> dict[str, float]:
    """Table values: means over all scenes, and over all objects of all scenes; undefined (NaN) entries don't count."""
    names = dict.fromkeys(name for score in scores for name in score.of_scene)
    table = {name: _mean([score.of_scene.get(name, float("nan")) for score in scores]) for name in names}
    table |= set_figures([score.features for score in scores])
    return table | {
        name: _mean(np.concatenate([score.of_objects[name] for score in scores])) for name in scores[0].of_objects
    }


def _scene_level(generated: list[Floats], truth: list[Floats]) -> tuple[dict[str, float], Floats, Floats, RigidMotion]:
    """CD-S and F-Score-S; IoU-B of each object [n], the same after ICP [n]; the alignment."""
    merged, true_merged = np.concatenate(generated), np.concatenate(truth)
    tree = neighbour_tree(true_merged)
    aligned = filterreg(merged, true_merged)
    moved = aligned.apply(merged)
    refined = closest_point_refinement(moved, true_merged, tree).after(aligned)
    distances = nearest_distances(moved, true_merged, tree)
    boxes = [
        np.array([box_iou(motion.apply(g), t) for g, t in zip(generated, truth, strict=True)])
        for motion in (aligned, refined)
    ]
    return {"cd_s": chamfer(*distances), "f_s": f_score(*distances)}, boxes[0], boxes[1], aligned


def _object_level(generated: Floats, truth: Floats) -> tuple[float, float]:
    """CD-O and F-Score-O."""
    generated, truth = normalise_object(generated), normalise_object(truth)
    distances = nearest_distances(filterreg(generated, truth).apply(generated), truth)
    return chamfer(*distances), f_score(*distances)


def _mean(values: Sequence[float] | Floats) -> float:
    known = np.asarray(values, dtype=np.float64)
    known = known[~np.isnan(known)]
    return float(known.mean()) if len(known) else float("nan")
