"""Any method's GLB scenes scored against true ones: two folders of files with the same names.

Knows GLB scene graphs and where the input photographs lie. The files hold scenes already moved into the query asset's
frame (spec/evaluation.md, Input); only centring and scale are done here, which changes nothing for files that have
them.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import trimesh

from scenegen.evaluation.images import Judge, Picture, camera_of, draw, image_features, image_figures, objects_on_white
from scenegen.evaluation.scoring import SceneScore, evaluate_scene, mean_scores
from scenegen.glb import T_YUP_ZUP, vertex_colours_as_such
from scenegen.images import read_views
from scenegen.scene import InvalidInput


@dataclass(frozen=True)
class FolderScores:
    """scores: by file stem. errors: why a scene has no score, by stem; every true scene is in one of the two."""

    scores: Mapping[str, SceneScore]
    errors: Mapping[str, str]

    def table(self) -> dict[str, float]:
        """Mean figures, with how many scenes were scored and how many failed."""
        means = mean_scores(list(self.scores.values())) if self.scores else {}
        return {"scenes": len(self.scores), "errors": len(self.errors), **means}


def evaluate_folders(
    generated: Path,
    truth: Path,
    *,
    images: Path | None = None,
    judge: Judge | None = None,
    on_scene: Callable[[str], None] | None = None,
) -> FolderScores:
    """Score every ``*.glb`` of the truth's folder against the generated file of the same name.

    images: a folder with the input of each scene, as `read_views` takes it, in a folder of the scene's name; the camera
    stands in the frame of the true GLB (z-up). With it there are image figures too. on_scene is called with each stem
    when it is done. A missing or unreadable file or another number of objects is an error of that scene. InvalidInput
    when the truth's folder holds no GLB.
    """
    stems = scene_stems(truth)
    scores: dict[str, SceneScore] = {}
    errors: dict[str, str] = {}
    for stem in stems:
        try:
            made, true = load_objects(generated / f"{stem}.glb"), load_objects(truth / f"{stem}.glb")
            score = evaluate_scene(made, true)
            if images:
                pictures = draw_scene(images / stem, made, true, score)
                of_scene = {**score.of_scene, **image_figures(*pictures, judge)}
                score = replace(score, of_scene=of_scene, features=image_features(*pictures, judge))
            scores[stem] = score
        except InvalidInput as error:
            errors[stem] = str(error)
        if on_scene:
            on_scene(stem)
    return FolderScores(scores, errors)


def draw_scene(
    folder: Path, generated: Sequence[trimesh.Trimesh], truth: Sequence[trimesh.Trimesh], score: SceneScore
) -> tuple[Picture, Picture, Picture]:
    """What is compared: the aligned scene as the input camera sees it, the objects of its photograph, the true scene.

    folder: the input of the scene, of which the first view counts. InvalidInput when there is none or it has no camera.
    """
    view = read_views(folder)[0]
    camera = camera_of(view)
    aligned = draw(generated, [score.T_truth_generated] * len(generated), *camera)
    return aligned, objects_on_white(view), draw(truth, [np.eye(4)] * len(truth), *camera)


def scene_stems(folder: Path) -> list[str]:
    """Names of the folder's GLB files without their ending, sorted. InvalidInput when there is none."""
    stems = sorted(path.stem for path in folder.glob("*.glb"))
    if not stems:
        raise InvalidInput(f"{folder} holds no .glb file: give the folder of the true scenes, one GLB for each")
    return stems


def load_objects(path: Path) -> list[trimesh.Trimesh]:
    """Every geometry node of a GLB with its world transform applied, in the file's order, z-up.

    InvalidInput naming the file when it is missing, damaged or holds no triangles.
    """
    if not path.is_file():
        raise InvalidInput(f"{path} is missing: every true scene needs a generated one of the same name")
    try:
        scene = trimesh.load_scene(path, process=False)
        meshes = []
        for geometry in scene.geometry.values():
            if isinstance(geometry, trimesh.Trimesh):
                vertex_colours_as_such(geometry)
        for node in _geometry_nodes(scene):
            T_world_node, name = scene.graph[node]
            if isinstance(scene.geometry[name], trimesh.Trimesh):
                meshes.append(scene.geometry[name].copy().apply_transform(T_YUP_ZUP.T @ T_world_node))
    except Exception as error:  # trimesh raises whatever its parser met
        raise InvalidInput(f"{path} is not a readable GLB ({error!r}): make it again") from error
    if not meshes or not all(len(mesh.faces) and np.isfinite(mesh.vertices).all() for mesh in meshes):
        raise InvalidInput(f"{path} holds an object without usable triangles: make it again")
    return meshes


def _geometry_nodes(scene: trimesh.Scene) -> list[Hashable]:
    """Nodes with geometry as the file lists them, children after their parents.

    trimesh reads the children of a node last to first, so its own list of them would compare the i-th object of a flat
    file with another one of a file with a hierarchy.
    """
    children = scene.graph.transforms.children
    nodes, waiting = [], [scene.graph.base_frame]
    while waiting:
        node = waiting.pop()
        if scene.graph[node][1] is not None:
            nodes.append(node)
        waiting += children.get(node, [])
    return nodes
