"""A miniature of 3D-FUTURE's layout, made from synthetic scenes whose truth is known, and prepared by the commands."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import trimesh
from numpy.typing import NDArray
from PIL import Image
from random_checkpoint import ENCODER, PIPELINE, write_random_checkpoint

from scenegen.cli import main
from scenegen.generator.checkpoints import save_model, save_pipeline
from scenegen.generator.structure.vae import SparseStructureEncoder
from scenegen.render import Camera
from scenegen.scene import ROTATION_YUP_ZUP, View
from scenegen.synthetic import SyntheticScene, camera_path, make_scene, render
from scenegen.training.future3d import OPTICAL_OPENGL

SEEDS = (11, 13)
SIDE = 240
RESOLUTION = 8
CAMERA = Camera.pinhole(SIDE, SIDE, 225.0)


def made(seed: int) -> tuple[SyntheticScene, View]:
    scene = make_scene(seed, count=(3, 3))
    return scene, render(scene, CAMERA, camera_path(scene, 1, seed, CAMERA)[0])


def run_lengths(mask: NDArray[np.bool_]) -> dict[str, Any]:
    flat = np.concatenate([[False], mask.T.ravel()])
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    return {"size": list(mask.shape), "counts": np.diff([0, *edges, mask.size]).tolist()}


def write_layout(root: Path) -> Path:
    """The scenes of SEEDS as 3D-FUTURE lays them out; raw meshes stand beside their origin, as real ones may."""
    images, annotations, categories = [], [], []
    for number, seed in enumerate(SEEDS):
        scene, view = made(seed)
        assert view.T_world_camera is not None
        folder = root / "3D-FUTURE-scene/train/image"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(view.image).save(folder / f"{number:07d}.jpg", quality=97)
        images.append({"id": number, "width": SIDE, "height": SIDE, "file_name": f"{number:07d}"})
        T_opengl_world = np.eye(4)
        T_opengl_world[:3, :3] = OPTICAL_OPENGL
        T_opengl_world = T_opengl_world @ np.linalg.inv(view.T_world_camera)
        for i, item in enumerate(scene.objects):
            model_id = f"model-{seed}-{i}"
            aside = np.array([0.3, -0.2, 0.5])
            mesh = item.mesh()
            raw = trimesh.Trimesh(
                mesh.vertices @ ROTATION_YUP_ZUP.T * scene.size_m[i] + aside, mesh.faces, process=False
            )
            path = root / "3D-FUTURE-model" / model_id / "raw_model.obj"
            path.parent.mkdir(parents=True)
            path.write_text(raw.export(file_type="obj"))
            T = T_opengl_world @ scene.T_world_object[i]
            rotation = T[:3, :3] @ ROTATION_YUP_ZUP.T
            categories.append({"id": len(categories), "category_name": item.family})
            annotations.append(
                {
                    "id": len(annotations),
                    "image_id": number,
                    "category_id": categories[-1]["id"],
                    "model_id": model_id,
                    "segmentation": run_lengths(view.masks == i + 1),
                    "pose": {"rotation": rotation.tolist(), "translation": (T[:3, 3] - rotation @ aside).tolist()},
                    "fov": float(np.degrees(2 * np.arctan(SIDE / 2 / CAMERA.intrinsics[0, 0]))),
                }
            )
    annotations.append(annotations[0] | {"id": len(annotations), "model_id": None})
    annotations.append(annotations[0] | {"id": len(annotations), "model_id": "not-there"})
    gt = root / "3D-FUTURE-scene/GT"
    gt.mkdir(parents=True)
    records = {"images": images, "annotations": annotations, "categories": categories}
    (gt / "train_set.json").write_text(json.dumps(records))
    return root


def prepare(folder: Path, *steps: str) -> Mapping[str, Path]:
    """Take these steps, by the command, on the miniature and a random checkpoint: places of root, out and weights."""
    weights = write_random_checkpoint(folder / "weights")
    torch.manual_seed(0)
    save_model(weights, "ss_enc", SparseStructureEncoder(**ENCODER), ENCODER)
    save_pipeline(weights, PIPELINE | {"models": PIPELINE["models"] | {"sparse_structure_encoder": "ss_enc"}})
    sizes = {"resolution": RESOLUTION, "image_encoder": {"image_size": 28}, "geometry_encoder": {"img_size": 42}}
    (folder / "config.json").write_text(json.dumps(sizes))
    write_layout(folder / "root")
    for step in steps:
        words = ["prepare", step, str(folder / "root"), str(folder / "out"), "--config", str(folder / "config.json")]
        assert main([*words, "--weights", str(weights)]) == 0
    return {name: folder / name for name in ("root", "out", "weights")}
