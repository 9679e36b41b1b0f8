"""3D-FUTURE, on a miniature of its layout made from synthetic scenes whose truth is known."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
from miniature_future import CAMERA, RESOLUTION, SEEDS, made, prepare, run_lengths, write_layout
from PIL import Image
from random_checkpoint import DECODER, ENCODER, FLOW, PIPELINE, write_random_checkpoint
from safetensors.numpy import load_file

from scenegen.cli import main
from scenegen.evaluation.folders import load_objects
from scenegen.evaluation.images import camera_of, draw
from scenegen.evaluation.metrics import voxel_iou
from scenegen.evaluation.voxels import surface_voxels
from scenegen.generator.checkpoints import save_model, save_pipeline
from scenegen.generator.encoders.vit import ImageNorm
from scenegen.generator.latents.encoder import SLatEncoder
from scenegen.generator.pipeline import SceneGen
from scenegen.generator.structure.flow import SparseStructureFlowModel
from scenegen.generator.structure.readout import compose_placements
from scenegen.images import read_views
from scenegen.render import Surface
from scenegen.scene import InvalidInput
from scenegen.synthetic import true_scene
from scenegen.training.future3d import Future3D, decode_mask
from scenegen.training.future3d_prepare import cropped_image, read_voxels
from scenegen.training.future3d_rows import PreparedScenes, released_crop
from scenegen.training.future3d_voxels import structured_latents, voxel_features
from scenegen.training.released import relative_placements
from scenegen.training.samples import scene_sample
from scenegen.training.shards import Samples
from scenegen.training.structure import StructureStage
from scenegen.training.structure_vae import StructureVAE


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """Every step, by the command, on the miniature and a random checkpoint."""
    return prepare(tmp_path_factory.mktemp("future"), "metadata", "voxels", "latents", "features", "samples")


SLAT_ENCODER = {"in_channels": 32, "model_channels": 32, "latent_channels": 8, "num_blocks": 1, "num_heads": 2}


def rows_of(prepared: Mapping[str, Path]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (prepared["out"] / "scenes.jsonl").read_text().splitlines()]


def test_the_reader_knows_masks_camera_and_what_it_left_out(prepared: Mapping[str, Path]) -> None:
    dataset = Future3D(prepared["root"])
    scenes = list(dataset.scenes())
    assert [scene.scene_id for scene in scenes] == ["0000000", "0000001"]
    for scene, seed in zip(scenes, SEEDS, strict=True):
        _, view = made(seed)
        assert (scene.masks() == view.masks).all()
        assert np.allclose(scene.intrinsics, CAMERA.intrinsics)
        assert np.abs(scene.view().image.astype(int) - view.image).mean() < 4
    assert sum(dataset.left_out.values()) == 2 and len(dataset.left_out) == 2
    with pytest.raises(InvalidInput, match="give the folder that holds 3D-FUTURE-scene"):
        Future3D(prepared["root"], "test")


def test_masks_are_run_lengths_or_polygons() -> None:
    mask = np.zeros((5, 7), dtype=bool)
    mask[1:4, 2:6] = True
    assert (decode_mask(run_lengths(mask), 5, 7) == mask).all()
    assert (decode_mask([[2, 1, 5, 1, 5, 3, 2, 3]], 5, 7) == mask).all()
    with pytest.raises(InvalidInput, match="add up to 35"):
        decode_mask(run_lengths(mask), 5, 8)
    with pytest.raises(InvalidInput, match="compressed"):
        decode_mask({"counts": "abc"}, 5, 7)


def test_rows_give_the_true_placements(prepared: Mapping[str, Path]) -> None:
    for row, seed in zip(rows_of(prepared), SEEDS, strict=True):
        scene, view = made(seed)
        truth = true_scene(scene, view)
        order = [truth.query, *(i for i in range(len(truth.assets)) if i != truth.query)]
        columns = (np.array([asset[k] for asset in row["assets"]]) for k in ("translation", "rotation", "scale"))
        targets = relative_placements(*columns, [truth.assets[i].id - 1 for i in order])
        for target, i in zip(targets, order, strict=True):
            placement = truth.placements[i]
            assert target[:3] == pytest.approx(placement.translation, abs=1e-4)
            assert abs(target[3:7] @ placement.rotation_wxyz) == pytest.approx(1, abs=1e-6)
            assert target[7] == pytest.approx(placement.scale, rel=1e-4)


def test_the_true_scene_is_seen_where_the_photograph_shows_it(prepared: Mapping[str, Path]) -> None:
    for row in rows_of(prepared):
        view = read_views(prepared["out"] / "views" / row["scene_id"])[0]
        meshes = load_objects(prepared["out"] / "truth" / f"{row['scene_id']}.glb")
        drawn = draw(meshes, [np.eye(4)] * len(meshes), *camera_of(view))
        covered = (drawn < 250).any(-1)
        assert (covered == (view.masks > 0)).mean() > 0.99
        query = int(np.argmax([asset["pixels"] for asset in row["assets"]]))
        assert np.abs(meshes[query].bounds.mean(0)).max() < 1e-6


def test_voxels_are_those_of_the_objects(prepared: Mapping[str, Path]) -> None:
    scene, _ = made(SEEDS[0])
    for i, item in enumerate(scene.objects):
        grid = read_voxels(prepared["out"], f"model-{SEEDS[0]}-{i}")
        occupied = item.occupancy(RESOLUTION)
        # voxels that the surface only grazes count too
        assert (grid | ~occupied).all() and voxel_iou(grid, occupied) > 0.2
    shell = surface_voxels(trimesh.creation.box((1, 1, 1)), 16)
    assert shell[0].all() and shell[:, :, -1].all() and not shell[1:-1, 1:-1, 1:-1].any()
    with pytest.raises(InvalidInput, match="make the step `voxels` first"):
        read_voxels(prepared["out"], "another")


def test_samples_are_those_of_the_synthetic_scenes(prepared: Mapping[str, Path]) -> None:
    samples = Samples(prepared["out"] / "data")
    assert samples.counts.tolist() == [3, 3]
    for number, seed in enumerate(SEEDS):
        scene, view = made(seed)
        expected = scene_sample(scene, view, image_size=28, geometry_size=42, resolution=RESOLUTION)
        assert expected is not None
        rows = samples.rows([number])
        for name in ("position", "log_size", "extents", "box"):
            np.testing.assert_allclose(samples.objects[name][rows], expected[1][name], atol=2e-4)
        np.testing.assert_array_equal(samples.objects["mask"][rows], expected[1]["mask"])
        assert np.abs(samples.objects["crop"][rows].astype(int) - expected[1]["crop"]).mean() < 5
        np.testing.assert_allclose(samples.scene["camera"][number], expected[0]["camera"], atol=2e-4)
        mine, depth = samples.scene["depth"][number], expected[0]["depth"]
        known = np.isfinite(mine)
        assert known.any() and np.nanmedian(np.abs(mine - depth)) < 0.02


def test_samples_and_rows_agree_about_placements(prepared: Mapping[str, Path]) -> None:
    samples = Samples(prepared["out"] / "data")
    for number, row in enumerate(rows_of(prepared)):
        rows = samples.rows([number])
        parts = [torch.from_numpy(samples.objects[k][rows]).double() for k in ("position", "log_size", "yaw")]
        composed = compose_placements(*parts, scenes=1).numpy()
        order = np.argsort([-asset["pixels"] for asset in row["assets"]], kind="stable")
        columns = (np.array([asset[k] for asset in row["assets"]]) for k in ("translation", "rotation", "scale"))
        targets = relative_placements(*columns, order)
        np.testing.assert_allclose(composed[:, [0, 1, 2, 7]], targets[:, [0, 1, 2, 7]], atol=2e-4)
        assert np.abs((composed[:, 3:7] * targets[:, 3:7]).sum(1)) == pytest.approx(np.ones(3), abs=1e-5)


def test_the_structure_stage_takes_the_samples(prepared: Mapping[str, Path]) -> None:
    samples = Samples(prepared["out"] / "data")
    vae = StructureVAE(ENCODER, DECODER)
    conditioner = SceneGen.from_pretrained(prepared["weights"]).conditioner
    stage = StructureStage(SparseStructureFlowModel(**FLOW), conditioner, vae, samples, samples)
    terms = stage.loss(np.random.default_rng(0), torch.Generator().manual_seed(0))
    assert all(torch.isfinite(value) for value in terms.values()) and terms["placement"] > 0


def test_instances_are_drawn_as_released(prepared: Mapping[str, Path]) -> None:
    scenes = PreparedScenes(prepared["out"], image_size=28)
    assert len(scenes.instances) == 6
    instance = scenes.instance(1, np.random.default_rng(0))
    assert instance.assets.shape == (3, 28, 28, 3) and instance.masks.shape == (3, 28, 28, 3)
    assert instance.latents.shape == (3, 4, 4, 4, 4) and instance.geometry.shape == (14, 64)
    assert instance.geometry.dtype == torch.bfloat16
    assert instance.placements[0].tolist() == [0, 0, 0, 1, 0, 0, 0, 1]
    row = rows_of(prepared)[0]["assets"]
    scales = np.array([asset["scale"] for asset in row])
    assert sorted(instance.placements[1:, 7]) == pytest.approx(sorted(scales[[0, 2]] / scales[1]))
    latent = load_file(prepared["out"] / "latents" / f"{row[1]['model_id']}.safetensors")["mean"]
    np.testing.assert_array_equal(instance.latents[0].numpy(), latent)
    with pytest.raises(InvalidInput, match="make the step `metadata` first"):
        PreparedScenes(prepared["weights"], 28)


def test_the_released_crop_is_centred_and_black_around() -> None:
    image = np.full((50, 60, 3), 200, dtype=np.uint8)
    mask = np.zeros((50, 60), dtype=bool)
    mask[10:31, 20:41] = True
    crop = released_crop(image, mask, 24)
    assert crop.dtype == np.float32 and (crop[2:23, 2:23] == np.float32(200 / 255)).all()
    crop[2:23, 2:23] = 0
    assert not crop.any()


def test_a_tall_photograph_is_cut_for_geometry_tokens() -> None:
    image = np.zeros((300, 100, 3), dtype=np.uint8)
    image[140:160] = 255
    cut = cropped_image(image, 42, 14)
    assert cut.shape == (42, 42, 3) and cut[21].min() > 200 and cut[0].max() < 50
    assert cropped_image(image[:50], 42, 14).shape == (28, 42, 3)


def test_what_is_there_is_not_made_again(prepared: Mapping[str, Path]) -> None:
    files = sorted((prepared["out"] / "latents").iterdir())
    stamps = [path.stat().st_mtime_ns for path in files[1:]]
    files[0].unlink()
    words = ["prepare", "latents", str(prepared["root"]), str(prepared["out"]), "--weights", str(prepared["weights"])]
    assert main(words) == 0
    assert files[0].is_file() and [path.stat().st_mtime_ns for path in files[1:]] == stamps


def test_one_broken_mesh_costs_its_scene_and_not_the_run(
    prepared: Mapping[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_layout(tmp_path / "root")
    (root / f"3D-FUTURE-model/model-{SEEDS[0]}-1/raw_model.obj").write_text("no mesh")
    assert main(["prepare", "metadata", str(root), str(tmp_path / "out")]) == 0
    assert "left out: 1 scenes with an unreadable mesh or mask" in capsys.readouterr().err
    lines = (tmp_path / "out/scenes.jsonl").read_text().splitlines()
    assert [json.loads(line)["scene_id"] for line in lines] == ["0000001"]
    assert main(["prepare", "samples", str(root), str(tmp_path / "out")]) == 2
    assert "no scene could be sampled" in capsys.readouterr().err


def test_structured_latents_are_made_of_the_voxels(prepared: Mapping[str, Path], tmp_path: Path) -> None:
    args = SLAT_ENCODER | {"resolution": RESOLUTION, "window_size": 4}
    weights = write_random_checkpoint(tmp_path / "weights")
    save_model(weights, "slat_enc", SLatEncoder(**args), args)
    save_pipeline(weights, PIPELINE | {"models": PIPELINE["models"] | {"slat_encoder": "slat_enc"}})
    words = ["prepare", "structured", str(prepared["root"]), str(prepared["out"]), "--weights", str(weights)]
    assert main([*words, "--views", "2"]) == 0
    model_id = f"model-{SEEDS[0]}-0"
    latent = load_file(prepared["out"] / "structured" / f"{model_id}.safetensors")
    grid = read_voxels(prepared["out"], model_id)
    assert (latent["coords"] == np.argwhere(grid)).all() and latent["mean"].shape == (grid.sum(), 8)
    with pytest.raises(InvalidInput, match="resolution 4 cannot be encoded"):
        structured_latents(trimesh.creation.box(), np.ones((4, 4, 4), bool), None, SLatEncoder(**args))
    assert main([*words[:-1], str(prepared["weights"])]) == 2


class MeanColours(torch.nn.Module):
    """An image encoder whose tokens are the mean colours of the patches, after a class token."""

    image_size, patch_size = 112, 7

    def __init__(self) -> None:
        super().__init__()
        self.norm = ImageNorm()
        self.config = SimpleNamespace(hidden_size=3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        patches = torch.nn.functional.avg_pool2d(images, self.patch_size).flatten(2).transpose(1, 2)
        return torch.cat([torch.zeros(len(images), 1, 3), patches], dim=1)


def test_voxels_have_the_features_of_where_they_are_seen() -> None:
    balls = []
    for axis, colour in enumerate(([255, 0, 0, 255], [0, 255, 0, 255], [0, 0, 255, 255])):
        ball = trimesh.creation.icosphere(2, 0.15).apply_translation(0.35 * np.eye(3)[axis])
        ball.visual.vertex_colors = np.tile(np.array(colour, np.uint8), (len(ball.vertices), 1))
        balls.append(ball)
    asset = trimesh.util.concatenate(balls)
    coords = torch.tensor([[27, 16, 16], [16, 27, 16], [16, 16, 27], [4, 4, 4]])
    features = voxel_features(asset, coords, 32, MeanColours(), views=16)
    assert (features[:3].argmax(1) == torch.arange(3)).all()
    assert (features[:3].amax(1) > 3 * features[:3].median(1).values).all() and features[3].max() < 0.1


def test_a_mesh_comes_with_its_texture(tmp_path: Path) -> None:
    root = write_layout(tmp_path)
    folder = root / "3D-FUTURE-model" / f"model-{SEEDS[0]}-0"
    (folder / "raw_model.obj").write_text(
        "mtllib model.mtl\nv 0 0 0\nv 1 0 0\nv 0 1 0\nvt 0 0\nvt 1 0\nvt 0 1\nusemtl m\nf 1/1 2/2 3/3\n"
    )
    (folder / "model.mtl").write_text("newmtl m\nmap_Kd texture.png\n")
    Image.new("RGB", (4, 4), (10, 200, 30)).save(folder / "texture.png")
    surface = Surface.from_mesh(Future3D(root).model(folder.name, looks=True).asset())
    assert surface.texture is not None and surface.texture.image[0, 0].tolist() == [10, 200, 30]
    assert main(["prepare", "metadata", str(root), str(tmp_path / "out")]) == 0
    stored = Surface.from_mesh(load_objects(tmp_path / "out/truth/0000000.glb")[0])
    assert stored.texture is not None and stored.texture.image[0, 0].tolist() == [10, 200, 30]
