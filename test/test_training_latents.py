"""Training of structured latents: what the stages are taught is true, and a few steps of either teach it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from random_checkpoint import IMAGE_ENCODER

from scenegen.generator.encoders.dinov2 import ImageEncoder
from scenegen.generator.latents.fields import GridFields
from scenegen.generator.latents.flow import SLatFlowModel
from scenegen.generator.latents.normalisation import LatentNormalisation
from scenegen.generator.latents.stand import VOXEL, Stand, completed, stand_of
from scenegen.generator.meshing.flexicubes import extract
from scenegen.generator.structure.surface import corner_distances, surface_voxels
from scenegen.scene import InvalidInput
from scenegen.synthetic.objects import make_object
from scenegen.training import shards
from scenegen.training.initial import start_from_nothing
from scenegen.training.latent_truth import corner_truth, feet, structure_of, views_of
from scenegen.training.latent_vae import LatentVAE, LatentVAEStage, parts_of, voxels_of
from scenegen.training.latents import LatentStage
from scenegen.training.loop import Schedule, run
from scenegen.training.shards import Samples

CONFIG = json.loads((Path(__file__).parents[1] / "model/scenegen/training/configs/tiny.json").read_text())
RESOLUTION = 16
IMAGES = IMAGE_ENCODER | {"image_size": 56}
ENCODER = CONFIG["latent_encoder"] | {"resolution": RESOLUTION, "in_channels": 35, "model_channels": 16}
MESH_DECODER = CONFIG["mesh_decoder"] | {
    "resolution": RESOLUTION,
    "model_channels": 32,
    "num_groups": 2,
    "num_heads": 2,
}
GAUSSIANS = CONFIG["gaussian_decoder"] | {"resolution": RESOLUTION, "model_channels": 16}
FLOW = CONFIG["latent_flow"] | {
    "resolution": RESOLUTION,
    "model_channels": 32,
    "cond_channels": 32,
    "num_blocks": 1,
    "io_block_channels": [8],
}
SEEDS = {"mug": 3, "table": 1, "bowl": 5}


@pytest.fixture(scope="module")
def vae() -> LatentVAE:
    torch.manual_seed(0)
    return LatentVAE(ENCODER, MESH_DECODER, GAUSSIANS, ImageEncoder(IMAGES))


@pytest.mark.parametrize("family", SEEDS)
def test_what_the_structure_and_the_truth_say_makes_the_object(family: str) -> None:
    made = make_object(np.random.default_rng(SEEDS[family]), family)
    chance = structure_of(made, 32, 4.0)
    surface, inside = surface_voxels(chance)
    assert not (surface & inside).any() and (chance[inside] > 0.5).all()
    coords = np.argwhere(surface)
    steps = np.stack(np.meshgrid(*[np.arange(VOXEL)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    fine = (VOXEL * coords[:, None] + steps).reshape(-1, 3)
    distance, colour = corner_truth(made, fine, 128, 32)
    own = corner_distances(chance, fine, VOXEL)
    near = np.abs(distance) < 0.4
    assert np.abs(own - distance)[near].mean() < 0.7 * np.abs(distance)[near].mean(), "the structure knows much of it"

    # a perfect decoder: the correction, and the extraction's own shift
    features = np.zeros((len(fine), 101), np.float32)
    features[:, :8] = distance - own + 1 / 128
    logits = np.log(np.clip(colour, 1e-3, 1 - 1e-3) / (1 - np.clip(colour, 1e-3, 1 - 1e-3)))
    features[:, 53:] = np.concatenate([logits, np.zeros_like(logits)], axis=2).reshape(len(fine), 48)
    stand = Stand(torch.from_numpy(np.pad(coords, ((0, 0), (1, 0)))), chance)
    mesh = extract(completed(GridFields(torch.from_numpy(fine), torch.from_numpy(features), 128), stand))
    off = made.sdf(mesh.vertices.astype(np.float64)) * 128
    assert np.abs(off).mean() < 0.3 and np.quantile(np.abs(off), 0.99) < 2, "fine voxels off the surface"
    assert mesh.resolution == 128
    edges = np.sort(np.concatenate([mesh.faces[:, [0, 1]], mesh.faces[:, [1, 2]], mesh.faces[:, [2, 0]]]), axis=1)
    _, uses = np.unique(edges, axis=0, return_counts=True)
    assert (uses % 2 == 0).all(), "closed, at the border of the box too, and nothing within"
    wrong = np.abs(mesh.attributes[:, :3] - made.colour(mesh.vertices.astype(np.float64)) / 255).max(1) > 0.3
    assert wrong.mean() < 0.1, "colours are the object's, but for where two meet"


def test_a_structure_without_a_surface_has_no_voxels_and_a_shell_keeps_all() -> None:
    empty = torch.full((1, 1, 8, 8, 8), -5.0)
    assert len(stand_of(empty, on_surface=True).voxels) == 0
    ball = empty.clone()
    ball[..., 2:6, 2:6, 2:6] = 5
    assert len(stand_of(ball, on_surface=False).voxels) == 64
    on_surface = stand_of(ball, on_surface=True)
    assert on_surface.chance is not None and len(on_surface.voxels) < 64 + 6 * 16
    assert not (on_surface.voxels[:, 1:] - 3.5).abs().max(1).values.lt(1).any(), "the middle is inside"


def test_views_see_what_faces_them_and_feet_stand_on_the_surface() -> None:
    made = make_object(np.random.default_rng(3), "mug")
    pictures, views = views_of(made, 56, 0.3)
    assert pictures.shape == (4, 56, 56, 3) and (pictures[:, [0, -1]] == 0).all()
    rng = np.random.default_rng(0)
    foot, normal, distance = feet(made, rng.uniform(-0.5, 0.5, (400, 3)))
    assert np.abs(made.sdf(foot)[np.abs(distance) < 0.1]).mean() < 2e-3
    places, seen = views[0].of(foot, 0.03)
    column, row = np.rint(places[seen]).astype(int).T
    assert seen.any() and not seen.all()
    assert (pictures[0][row, column].max(1) > 0).mean() > 0.9


def test_the_autoencoder_is_taught_by_parts_and_judged_by_the_whole(vae: LatentVAE, tmp_path: Path) -> None:
    stage = LatentVAEStage(vae)
    item = vae.random_object(5)
    assert item.features.shape == (len(item.coords), 35)
    part = parts_of(item, np.random.default_rng(0))
    assert 0 < len(part.coords) < len(item.coords)
    before = vae.image_encoder.state_dict()
    schedule = Schedule(steps=6, learning_rate=5e-3, warmup=2, validate_every=6, save_every=6, precision="fp32")
    trained = run(stage, schedule, tmp_path)
    assert isinstance(trained, LatentVAE)
    rows = np.genfromtxt(tmp_path / "log.csv", delimiter=",", names=True)
    assert rows["loss"][-2:].mean() < rows["loss"][:2].mean()
    held_out = np.genfromtxt(tmp_path / "validation.csv", delimiter=",", names=True)
    assert held_out["signs"] > 0.7 and np.isfinite(held_out["splats_off"])
    assert all(
        torch.equal(a, b) for a, b in zip(before.values(), trained.image_encoder.state_dict().values(), strict=True)
    )


def test_the_flow_is_taught_what_the_autoencoder_gives_for_the_same_object(
    vae: LatentVAE, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "SCENES_PER_SHARD", 5)
    (tmp_path / "data").mkdir()
    for first_seed in (7, 12):
        shards._make_shard((tmp_path / "data", first_seed, 56, 28, 8))
    samples = Samples(tmp_path / "data")
    for row in (0, 11, len(samples.objects["crop"]) - 1):
        made = samples.made(row)
        np.testing.assert_array_equal(np.packbits(made.occupancy(8)), samples.objects["occupancy"][row])
    normalisation = LatentNormalisation(*vae.standard())
    torch.manual_seed(0)
    flow = SLatFlowModel(**FLOW)
    start_from_nothing(flow)
    stage = LatentStage(flow, ImageEncoder(IMAGES), vae, normalisation, samples, samples)
    _, coords, target = stage._targets(True, 3)
    assert target.shape == (len(coords), 8) and target.abs().mean() < 3
    assert len(coords) == len(voxels_of([vae.surfaced(samples.made(3), 0.0, 4.0)]))
    schedule = Schedule(steps=4, learning_rate=5e-3, warmup=1, validate_every=4, save_every=4, precision="fp32")
    run(stage, schedule, tmp_path / "latents")
    held_out = np.genfromtxt(tmp_path / "latents/validation.csv", delimiter=",", names=True)
    assert 0 < held_out["error"] < 3 and held_out["colour_of_latents"] < 1

    samples.objects["family"] = samples.objects["family"] * 0 - 1
    with pytest.raises(InvalidInput, match="another version of the synthetic scenes"):
        samples.made(0)
