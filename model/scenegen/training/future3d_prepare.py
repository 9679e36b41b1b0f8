"""Prepares 3D-FUTURE for training, one step after the other, each resumable: what is there already is kept.

metadata   scenes.jsonl, one line a scene with a row for every asset (spec/structure.md section 8); and for evaluation
           views/SCENE/{image, masks, camera} and truth/SCENE.glb, in the frame of the query asset
voxels     voxels/MODEL.safetensors: the occupancy of every mesh in its unit box
latents    latents/MODEL.safetensors: its structure latent, by the structure encoder of a checkpoint
structured structured/MODEL.safetensors: its structured latent, by the image encoder and the latent encoder
features   features/SCENE.safetensors: geometry tokens of every photograph, by the geometry encoder of a checkpoint
samples    data/given_*.safetensors: the rows that `scenegen train` takes for small models

Voxels are those that the surface runs through, as TRELLIS' structures are; `solid` adds the inside, which is what the
synthetic objects and so small models have. The paper's filter by aesthetic score is not applied: its scores are not in
the dataset. The encoders that a published `pipeline.json` does not name have to be added to its models, as
sparse_structure_encoder and slat_encoder.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.numpy import load_file, save_file
from safetensors.torch import save_file as save_tensors
from tqdm import tqdm

from scenegen.evaluation.voxels import surface_voxels, voxelise
from scenegen.generator.checkpoints import (
    find_encoder,
    find_model,
    load_model,
    load_pipeline,
    open_aggregator,
    open_image_encoder,
)
from scenegen.generator.conditioning import image_tensor
from scenegen.generator.latents.encoder import SLatEncoder
from scenegen.generator.structure.vae import SparseStructureEncoder
from scenegen.glb import meshes_to_glb
from scenegen.scene import InvalidInput
from scenegen.training.future3d import OPTICAL_OPENGL, Future3D, FutureModel, FutureScene, T_opengl_asset, asset_row
from scenegen.training.future3d_upright import upright_scene
from scenegen.training.future3d_voxels import VIEWS, structured_latents
from scenegen.training.samples import Arrays, scene_sample
from scenegen.training.shards import GivenShards
from scenegen.weights import find_weights

Grid = NDArray[np.bool_]


def write_metadata(dataset: Future3D, out: Path) -> None:
    """Step `metadata`. scenes.jsonl is written last, whole."""
    lines = []
    for scene in tqdm(dataset.scenes(), desc="metadata", unit="scene"):
        with dataset.leaving_out("scenes with an unreadable mesh or mask"):
            models = [dataset.model(item.model_id, looks=True) for item in scene.objects]
            masks = scene.masks()
            row = _row(scene, models, masks)
            query = int(np.argmax([asset["pixels"] for asset in row["assets"]]))
            _write_for_evaluation(scene, models, masks, query, out)
            lines.append(row)
    with _whole(out / "scenes.jsonl") as path:
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def write_voxels(dataset: Future3D, out: Path, resolution: int, solid: bool) -> None:
    """Step `voxels`."""
    for model_id in _new(_model_ids(dataset), out / "voxels", "voxels"):
        with dataset.leaving_out("unreadable meshes"):
            asset = dataset.model(model_id).asset()
            grid = surface_voxels(asset, resolution)
            if solid:
                grid |= voxelise(asset, resolution)
            arrays: Arrays = {"occupancy": np.packbits(grid), "extents": np.asarray(asset.extents, np.float32)}
            with _whole(_file(out / "voxels", model_id)) as path:
                save_file(arrays, path)


def write_latents(dataset: Future3D, out: Path, weights: str, device: str) -> None:
    """Step `latents`, of the voxels. A checkpoint without a structure encoder is InvalidInput."""
    folder = find_weights(weights)
    encoder = load_model(_encoder(folder, "sparse_structure_encoder"), SparseStructureEncoder).eval().to(device)
    for model_id in _new(_model_ids(dataset), out / "latents", "latents"):
        with dataset.leaving_out("meshes without voxels"), torch.inference_mode():
            grid = torch.from_numpy(read_voxels(out, model_id)[None, None].astype(np.float32)).to(device)
            tensors = {"mean": encoder(grid)[0].float().cpu().contiguous()}
            with _whole(_file(out / "latents", model_id)) as path:
                save_tensors(tensors, path)


def write_structured(dataset: Future3D, out: Path, weights: str, device: str, views: int = VIEWS) -> None:
    """Step `structured`, of the voxels and the meshes with their textures, seen from so many views."""
    folder = find_weights(weights)
    encoder = load_model(_encoder(folder, "slat_encoder"), SLatEncoder).eval().to(device)
    images = open_image_encoder(find_encoder(folder, str(load_pipeline(folder)["image_cond_model"]))).load(device)
    for model_id in _new(_model_ids(dataset), out / "structured", "structured"):
        with dataset.leaving_out("meshes without voxels"):
            asset = dataset.model(model_id, looks=True).asset()
            tensors = structured_latents(asset, read_voxels(out, model_id), images, encoder, views)
            with _whole(_file(out / "structured", model_id)) as path:
                save_tensors(tensors, path)


def write_features(dataset: Future3D, out: Path, weights: str, device: str) -> None:
    """Step `features`: [P, 2C] in bfloat16 of photographs cut as VGGT's own preprocessing does (section 8)."""
    folder = find_weights(weights)
    encoder = open_aggregator(find_encoder(folder, str(load_pipeline(folder)["vggt_model"]))).load(device)
    scenes = {scene.scene_id: scene for scene in dataset.scenes()}
    for scene_id in _new(scenes, out / "features", "features"):
        image = cropped_image(scenes[scene_id].view().image, encoder.image_size, encoder.patch_size)
        with torch.inference_mode(), torch.autocast(torch.device(device).type, torch.bfloat16):
            tokens = encoder(image_tensor(image)[None, None].to(device))[0][0, 0]
        tensors = {"tokens": tokens.to("cpu", torch.bfloat16).contiguous()}
        with _whole(_file(out / "features", scene_id)) as path:
            save_tensors(tensors, path)


def write_samples(dataset: Future3D, out: Path, *, image_size: int, geometry_size: int, resolution: int) -> None:
    """Step `samples`, of the voxels: shards for `Samples` in out/data. InvalidInput when no scene gives any."""
    given = GivenShards(out / "data")
    families = sorted(set(dataset.categories.values()))
    sizes = {"image_size": image_size, "geometry_size": geometry_size, "resolution": resolution}
    for scene in tqdm(dataset.scenes(), desc="samples", unit="scene"):
        with dataset.leaving_out("scenes that cannot be sampled"):
            grids = {item.model_id: read_voxels(out, item.model_id) for item in scene.objects}
            upright = upright_scene(scene, [dataset.model(item.model_id) for item in scene.objects], grids, families)
            sample = scene_sample(upright[0], upright[1], **sizes)
            if sample is None:
                raise InvalidInput(f"scene {scene.scene_id} shows no object large enough")
            given.add(sample)
    given.finish()
    if not given.count:
        raise InvalidInput("no scene could be sampled, see the warnings: make the step `voxels` first")


def read_voxels(out: Path, model_id: str) -> Grid:
    """Stored occupancy bool [R, R, R]. InvalidInput when the step `voxels` was not made for the model."""
    path = _file(out / "voxels", model_id)
    if not path.is_file():
        raise InvalidInput(f"{path} is not there: make the step `voxels` first")
    bits = np.unpackbits(load_file(path)["occupancy"])
    side = round(len(bits) ** (1 / 3))
    return bits.reshape(side, side, side).astype(bool)


def cropped_image(image: NDArray[np.uint8], size: int, patch: int) -> NDArray[np.uint8]:
    """VGGT's own way: width `size`, height a multiple of the patch, the middle of what is taller than wide."""
    height = max(patch, round(image.shape[0] * size / image.shape[1] / patch) * patch)
    resized = np.array(Image.fromarray(image).resize((size, height), Image.Resampling.BICUBIC))
    top = max(0, (height - size) // 2)
    return resized[top : top + size]


def _encoder(folder: Path, role: str) -> Path:
    name = load_pipeline(folder)["models"].get(role)
    if not isinstance(name, str):
        raise InvalidInput(f"{folder / 'pipeline.json'} has no {role}: name it among the models, or use other weights")
    return find_model(folder, name)


def _row(scene: FutureScene, models: Sequence[FutureModel], masks: NDArray[np.int32]) -> dict[str, Any]:
    """What scenes.jsonl says about a scene."""
    areas = np.bincount(masks.ravel(), minlength=1 + max(item.instance for item in scene.objects))
    assets = [
        {"instance": o.instance, "model_id": o.model_id, "category": o.category, "pixels": int(areas[o.instance])}
        | asset_row(o, model)
        for o, model in zip(scene.objects, models, strict=True)
    ]
    size = {"width": scene.width, "height": scene.height, "fov_deg": scene.fov_deg}
    return {"scene_id": scene.scene_id, **size, "assets": assets}


def _write_for_evaluation(
    scene: FutureScene, models: Sequence[FutureModel], masks: NDArray[np.int32], query: int, out: Path
) -> None:
    """The input as `read_views` reads it and the true scene, in a z-up frame at the query, metres."""
    folder, truth = out / "views" / scene.scene_id, out / "truth" / f"{scene.scene_id}.glb"
    if truth.exists():
        return
    objects = [T_opengl_asset(o, m) for o, m in zip(scene.objects, models, strict=True)]
    T_opengl_world = objects[query].copy()
    T_opengl_world[:3, :3] /= models[query].scale
    T_world_opengl = np.linalg.inv(T_opengl_world)
    T_world_camera = T_world_opengl.copy()
    T_world_camera[:3, :3] = T_world_opengl[:3, :3] @ OPTICAL_OPENGL
    folder.mkdir(parents=True, exist_ok=True)
    truth.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(scene.image, folder / f"image{scene.image.suffix}")
    Image.fromarray(masks.astype(np.uint16)).save(folder / "masks.png")
    camera = {"width": scene.width, "height": scene.height, "intrinsics": scene.intrinsics.tolist()}
    (folder / "camera.json").write_text(json.dumps(camera | {"T_world_camera": T_world_camera.tolist()}))
    nodes = {
        f"object_{item.instance}": (model.asset(), T_world_opengl @ T)
        for item, model, T in zip(scene.objects, models, objects, strict=True)
    }
    with _whole(truth) as path:
        path.write_bytes(meshes_to_glb(nodes))


def _model_ids(dataset: Future3D) -> list[str]:
    return sorted({item.model_id for scene in dataset.scenes() for item in scene.objects})


def _new(names: Iterable[str], folder: Path, step: str) -> Iterator[str]:
    """Those of the names that folder has no file of, with a progress bar over all."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in tqdm(list(names), desc=step, unit="file"):
        if not _file(folder, name).exists():
            yield name


def _file(folder: Path, name: str) -> Path:
    return folder / f"{name}.safetensors"


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """A place to write a file to, which gets its name when it is done: a reader never sees half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    yield part
    part.replace(path)
