"""Training: targets agree with the true scene, losses do what they say, a killed run resumes as if it had not been."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from scenegen.generator.structure.readout import (
    ConditionReadout,
    compose_placements,
    yaw_from_logits,
    yaw_targets,
)
from scenegen.render import Camera
from scenegen.scene import InvalidInput
from scenegen.synthetic.rendering import render
from scenegen.synthetic.scenes import camera_path, make_camera, make_scene, true_scene
from scenegen.training.losses import collision_loss, occupancy_loss, placement_loss, voxel_iou
from scenegen.training.samples import Arrays, facing_yaw, mask_box, mirrored_targets, patch_depth, scene_sample
from scenegen.training.shards import SCENES_PER_SHARD, Samples, make_shards
from scenegen.training.structure_vae import StructureVAE, object_grids, unpack_grids

IDENTITY = torch.tensor([0.0, 0, 0, 1, 0, 0, 0, 1])


@pytest.mark.parametrize("seed", [3, 8, 21])
def test_targets_compose_to_the_true_placements(seed: int) -> None:
    scene = make_scene(seed)
    camera = make_camera(np.random.default_rng(seed))
    view = render(scene, camera, camera_path(scene, 1, seed, camera)[0])
    sample = scene_sample(scene, view, image_size=28, geometry_size=28, resolution=8)
    assert sample is not None
    objects = sample[1]
    tensors = [torch.from_numpy(objects[k]).double() for k in ("position", "log_size", "yaw")]
    placed = compose_placements(*tensors, scenes=1).numpy()
    truth = true_scene(scene, view)
    ids = [asset.id for asset in truth.assets]
    areas = {i: int((view.masks == i).sum()) for i in ids}
    order = sorted(ids, key=lambda i: -areas[i])
    query = scene.objects[order[0] - 1].symmetry
    for row, instance in zip(placed, order, strict=True):
        expected = truth.placements[ids.index(instance)]
        assert row[7] == pytest.approx(expected.scale, rel=1e-5)
        # the query's frame is free up to its own yaw symmetry: distance and height are not
        assert np.hypot(row[0], row[2]) == pytest.approx(np.hypot(*expected.translation[[0, 2]]), abs=1e-5)
        assert row[1] == pytest.approx(expected.translation[1], abs=1e-5)
        own = scene.objects[instance - 1].symmetry
        if query and own:
            turn = Rotation.from_quat(row[3:7], scalar_first=True).inv() * Rotation.from_quat(
                expected.rotation_wxyz, scalar_first=True
            )
            step = 2 * np.pi / np.lcm(query, own)
            about_y = turn.as_rotvec()[1]
            assert about_y == pytest.approx(step * round(about_y / step), abs=1e-5)


def test_a_yaw_left_open_by_symmetry_faces_the_camera() -> None:
    assert facing_yaw(1.3, 0) == 0
    assert facing_yaw(3.0, 2) == pytest.approx(3.0 - np.pi)
    assert facing_yaw(1.5, 4) == pytest.approx(1.5 - np.pi / 2)
    assert facing_yaw(2.5, 1) == pytest.approx(2.5)


def test_yaw_bins_round_trip_across_the_wrap() -> None:
    yaw = torch.linspace(-3.1, 3.1, 25)
    back = yaw_from_logits(yaw_targets(yaw, 36).log())
    assert torch.atan2((back - yaw).sin(), (back - yaw).cos()).abs().max() < 0.03


def test_patch_depth_follows_the_letterbox() -> None:
    depth = np.full((60, 80), 2.0, dtype=np.float32)
    depth[:, 40:] = 4.0
    depth[0:30, :10] = 0
    grid = patch_depth(depth, 112)
    assert np.isnan(grid[0]).all() and np.isnan(grid[-1]).all()
    assert grid[4, 1] != grid[4, 1] or np.isfinite(grid[5, 1])
    assert grid[5, 2] == pytest.approx(np.log(2)) and grid[5, 6] == pytest.approx(np.log(4))


def test_mask_box_is_a_share_of_the_frame() -> None:
    mask = np.zeros((10, 20), dtype=bool)
    mask[2:5, 4:10] = True
    assert mask_box(mask) == pytest.approx([0.2, 0.2, 0.5, 0.5])


def test_placement_loss_ignores_the_query_and_the_quaternion_sign() -> None:
    true = torch.stack([IDENTITY, torch.tensor([1.0, 0, 0.5, 0.8, 0, 0.6, 0, 0.7])])
    predicted = true.clone()
    predicted[0] = 5
    predicted[1, 3:7] *= -1
    assert placement_loss(predicted, true, 1) == pytest.approx(0, abs=1e-6)
    predicted[1, 0] += 0.5
    assert placement_loss(predicted, true, 1) > 0.1
    assert placement_loss(predicted[:1], true[:1], 1) == 0


def test_collision_loss_pushes_overlapping_assets_apart() -> None:
    occupancy = torch.ones(2, 1, 8, 8, 8)
    placements = torch.stack([IDENTITY, IDENTITY]).requires_grad_()
    with torch.no_grad():
        placements[1, 0] = 0.6
    noise = torch.Generator().manual_seed(0)
    overlapping = collision_loss(placements, occupancy, 1, 512, noise)
    overlapping.backward()
    assert placements.grad is not None
    assert 0.3 < float(overlapping) < 0.5  # 40% of each cube lies in the other
    assert placements.grad[1, 0] < 0  # moving it away lowers the loss
    placements = torch.stack([IDENTITY, IDENTITY])
    placements[1, :3] = torch.tensor([0.0, 1.3, 0.0])
    assert collision_loss(placements, occupancy, 1, 512, noise) == 0


def test_collision_loss_knows_which_axis_is_up() -> None:
    flat = torch.zeros(2, 1, 8, 8, 8)
    flat[..., 3:5] = 1  # a slab a quarter high, z up
    placements = torch.stack([IDENTITY, IDENTITY])
    noise = torch.Generator().manual_seed(0)
    placements[1, 1] = 0.5  # y is up in placements
    assert collision_loss(placements, flat, 1, 512, noise) == 0
    placements[1, :3] = torch.tensor([0.3, 0.0, 0.3])
    assert collision_loss(placements, flat, 1, 512, noise) > 0.2


def test_occupancy_losses_are_zero_for_the_truth() -> None:
    grid = unpack_grids(object_grids(range(2), 16))
    entropy, dice = occupancy_loss((grid - 0.5) * 60, grid)
    assert float(entropy) < 1e-6 and float(dice) < 1e-3
    assert voxel_iou(grid - 0.5, grid).tolist() == [1.0, 1.0]


def test_standardised_latents_have_unit_deviation_and_decode_the_same() -> None:
    torch.manual_seed(0)
    common = {"latent_channels": 3, "num_res_blocks": 0, "num_res_blocks_middle": 1}
    vae = StructureVAE(
        {"in_channels": 1, "channels": [4, 8], **common}, {"out_channels": 1, "channels": [8, 4], **common}
    ).eval()
    grids = unpack_grids(object_grids(range(6), 16))
    with torch.no_grad():
        before = vae.decoder(vae.encoder(grids))
        vae.standardise(grids)
        assert torch.allclose(vae.encoder(grids).std(dim=(0, 2, 3, 4)), torch.ones(3), atol=1e-4)
        assert torch.allclose(vae.decoder(vae.encoder(grids)), before, atol=1e-4)


def test_a_readout_says_nothing_about_dropped_conditions() -> None:
    torch.manual_seed(0)
    readout = ConditionReadout(channels=12, latent_tokens=8, latent_channels=5, local_tokens=4)
    cond = torch.randn(4, 16, 12)
    cond[1] = 0
    estimate = readout(cond, scenes=2)
    assert estimate.latents.shape == (4, 8, 5) and estimate.placements.shape == (4, 8)
    assert not estimate.latents[1].any() and torch.equal(estimate.placements[1], IDENTITY)
    assert torch.allclose(estimate.placements[2], IDENTITY, atol=1e-6)  # the second scene's query


def test_shards_are_seeded_and_complete(tmp_path: Path) -> None:
    sizes = {"image_size": 28, "geometry_size": 28, "resolution": 8}
    make_shards(tmp_path, 1, first_seed=7, workers=1, **sizes)
    samples = Samples(tmp_path)
    assert len(samples.counts) == SCENES_PER_SHARD
    assert samples.counts.sum() == len(samples.objects["crop"])
    scene = 5
    rows = samples.rows([scene])
    rng = np.random.default_rng((7 + scene, 1))
    camera = make_camera(rng)
    made = make_scene(7 + scene)
    again = scene_sample(made, render(made, camera, camera_path(made, 1, 7 + scene, camera)[0]), **sizes)
    assert again is not None
    for name, value in again[1].items():
        np.testing.assert_array_equal(samples.objects[name][rows], value)
    with pytest.raises(InvalidInput, match="scenegen train data"):
        Samples(tmp_path / "empty")


@pytest.mark.parametrize("seed", range(6))
def test_a_mirrored_picture_has_the_mirrored_targets(seed: int) -> None:
    """Objects set up by the targets of the mirror image are seen where the mirror image shows them."""
    scene = make_scene(seed, families=[("mug", "chair", "steps", "stool", "bed", "shelf")[seed], "mug", "table"])
    camera = Camera.pinhole(320, 240)
    T_world_camera = camera_path(scene, 1, seed, camera)[0]
    view = render(scene, camera, T_world_camera)
    sample = scene_sample(scene, view, image_size=56, geometry_size=84, resolution=16)
    assert sample is not None and len(sample[1]["yaw"]) == len(scene.objects)
    order = np.argsort(-np.bincount(view.masks.ravel(), minlength=len(scene.objects) + 1)[1:], kind="stable")

    def seen(targets: Arrays) -> NDArray[np.int32]:
        """Masks of the scene's objects where the targets say."""
        poses = scene.T_world_object.copy()
        across, along = T_world_camera[:3, 0], np.cross([0, 0, 1], T_world_camera[:3, 0])
        for position, yaw, i in zip(targets["position"], targets["yaw"], order, strict=True):
            x, y, z = position * T_world_camera[2, 3]
            poses[i, :3, 3] = T_world_camera[:3, 3] + x * across + y * along + [0, 0, z]
            turn = yaw + np.arctan2(y, x) + np.arctan2(across[1], across[0])
            poses[i, :3, :3] = Rotation.from_rotvec([0, 0, turn]).as_matrix()
        return render(replace(scene, T_world_object=poses), camera, T_world_camera).masks

    agreed = [(seen(sample[1]) == view.masks).mean(), (seen(mirrored_targets(sample[1])) == view.masks[:, ::-1]).mean()]
    wrong = (seen(sample[1]) == view.masks[:, ::-1]).mean()
    assert 1 - min(agreed) < 0.25 * (1 - wrong), (agreed, wrong)
    np.testing.assert_allclose(sample[1]["box"], np.stack([mask_box(view.masks == i + 1) for i in order]))
    flipped = np.stack([mask_box(view.masks[:, ::-1] == i + 1) for i in order])
    np.testing.assert_allclose(mirrored_targets(sample[1])["box"], flipped, atol=1e-6)
