"""SceneGen with structured latents, from end to end, with random weights (random_checkpoint.py: what is not random)."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import bad_finishers
import numpy as np
import pytest
import torch
from PIL import Image
from random_checkpoint import LATENT_FLOW, LATENT_PIPELINE, drawn_view, write_random_checkpoint
from serving import StubGenerator, running
from trimesh.visual import TextureVisuals

from scenegen.client import SceneClient
from scenegen.files import read_scene, write_scene
from scenegen.generator import SceneGen, finishing
from scenegen.generator.checkpoints import save_pipeline
from scenegen.generator.latents.fields import GridFields
from scenegen.scene import Asset, Cancelled, InvalidInput, Progress, Scene


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_checkpoint(tmp_path_factory.mktemp("weights"), latents=True)


@pytest.fixture(scope="module")
def loaded(folder: Path) -> SceneGen:
    return SceneGen.from_pretrained(folder)


@pytest.fixture
def model(loaded: SceneGen, monkeypatch: pytest.MonkeyPatch) -> SceneGen:
    return with_round_structures(loaded, monkeypatch)


def with_round_structures(model: SceneGen, monkeypatch: pytest.MonkeyPatch) -> SceneGen:
    """With balls for structures, of a size by their latents, and small textures: what random weights give instead is
    noise in space, whose surface is a thousand crumbs."""
    distance = torch.linalg.norm(torch.cartesian_prod(*[torch.arange(8.0) - 3.5] * 3), dim=1).view(1, 1, 8, 8, 8)
    monkeypatch.setattr(model.decoder, "forward", lambda latent: 1.7 + latent.mean().clamp(-0.4, 0.4) - distance)
    monkeypatch.setattr(finishing, "TEXTURE_SIZE", 64)
    return model


def texture(asset: Asset) -> np.ndarray:
    assert isinstance(asset.mesh.visual, TextureVisuals)
    image = asset.mesh.visual.material.baseColorTexture
    assert isinstance(image, Image.Image) and image.mode == "RGB"
    return np.asarray(image)


def test_textured_assets_replace_the_coarse_ones_in_their_boxes(
    model: SceneGen, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[Progress] = []
    scene = model.generate([drawn_view()], on_progress=heard.append)
    assert not caplog.records, "nothing stayed coarse"
    (early,) = [progress.scene for progress in heard if progress.scene is not None]
    assert [a.id for a in early.assets] == [a.id for a in scene.assets] == [3, 5, 8]
    assert scene.placements == early.placements and scene.query == early.query == 1
    assert set(scene.seconds) == {"conditioning", "structure", "assets", "latents", "textures"}
    for coarse, asset in zip(early.assets, scene.assets, strict=True):
        assert (coarse.detail, asset.detail, asset.label) == ("coarse", "textured", coarse.label)
        mesh = asset.mesh
        assert np.abs(mesh.bounds - coarse.mesh.bounds).max() < 1 / 8, "a voxel of the structure"
        assert np.abs(mesh.vertices).max() <= 0.5
        assert len(mesh.visual.uv) == len(mesh.vertices) and mesh.visual.uv.min() >= 0 and mesh.visual.uv.max() <= 1
        assert texture(asset).shape == (finishing.TEXTURE_SIZE, finishing.TEXTURE_SIZE, 3)
        assert texture(asset).std() > 1, "random colours, not one"
        material = mesh.visual.material
        assert (material.roughnessFactor, material.metallicFactor) == (1.0, 0.0)

    told = [(p.asset.id, p.asset.detail) for p in heard if p.asset is not None]
    assert sorted(told[:3]) == [(i, "coarse") for i in (3, 5, 8)], "every coarse one first"
    assert sorted(told[3:]) == [(i, "textured") for i in (3, 5, 8)]
    fractions = [progress.fraction for progress in heard]
    assert fractions == sorted(fractions) and fractions[-1] == pytest.approx(1)
    assert {p.stage for p in heard} == set(scene.seconds)


def test_coarse_is_the_same_scene_without_the_second_half(model: SceneGen) -> None:
    heard: list[Progress] = []
    scene = model.generate([drawn_view()], detail="coarse", on_progress=heard.append)
    early: list[Scene] = []

    def stop() -> bool:
        return bool(early)

    def listen(progress: Progress) -> None:
        if progress.scene is not None:
            early.append(progress.scene)

    with pytest.raises(Cancelled):
        model.generate([drawn_view()], on_progress=listen, cancelled=stop)
    assert {p.stage for p in heard} == {"conditioning", "structure", "assets"}
    assert heard[-1].fraction == pytest.approx(1) and all(p.scene is None for p in heard)
    for a, b in zip(scene.assets, early[0].assets, strict=True):
        assert a.detail == "coarse"
        np.testing.assert_array_equal(a.mesh.vertices, b.mesh.vertices)


def test_same_seed_same_textures_and_an_asset_left_out_does_not_matter_to_the_rest(
    model: SceneGen, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, again = (model.generate([drawn_view()], seed=7, ids=[5, 8]) for _ in range(2))
    for a, b in zip(first.assets, again.assets, strict=True):
        np.testing.assert_array_equal(a.mesh.vertices, b.mesh.vertices)
        np.testing.assert_array_equal(texture(a), texture(b))

    decoded: list[torch.Tensor] = []
    decode = model.decoder.forward

    def empty_second(latent: torch.Tensor) -> torch.Tensor:
        decoded.append(latent)
        return -decode(latent).abs() if len(decoded) == 2 else decode(latent)

    monkeypatch.setattr(model.decoder, "forward", empty_second)
    scene = model.generate([drawn_view()])
    assert [(a.id, a.detail) for a in scene.assets] == [(5, "textured"), (8, "textured")]


@pytest.mark.parametrize("stage", ["latents", "textures"])
def test_cancelling_stops_within_the_stage_and_the_next_scene_is_whole(model: SceneGen, stage: str) -> None:
    heard: list[Progress] = []

    def cancelled() -> bool:
        return bool(heard) and heard[-1].stage == stage

    with pytest.raises(Cancelled):
        model.generate([drawn_view()], on_progress=heard.append, cancelled=cancelled)
    assert heard[-1].stage == stage and len([p for p in heard if p.stage == stage]) <= 2
    assert not any(p.asset.detail == "textured" for p in heard if p.asset is not None)
    assert [a.detail for a in model.generate([drawn_view()], ids=[5]).assets] == ["textured"]


def test_cancelling_ends_processes_that_are_at_work(model: SceneGen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finishing, "finish", bad_finishers.hang)
    heard: list[Progress] = []

    def cancelled() -> bool:
        return bool(model._finishers._busy) and heard[-1].fraction > 0.84  # decoded, and nothing more comes by itself

    with pytest.raises(Cancelled):
        model.generate([drawn_view()], ids=[5], on_progress=heard.append, cancelled=cancelled)
    monkeypatch.undo()
    assert [a.detail for a in model.generate([drawn_view()], ids=[5]).assets] == ["textured"]


def without_numbers(fields: GridFields) -> GridFields:
    return replace(fields, features=torch.full_like(fields.features, float("nan")))


def without_inside(fields: GridFields) -> GridFields:
    return replace(fields, features=fields.features.abs() + 1)


def in_a_corner(fields: GridFields) -> GridFields:
    return replace(fields, coords=fields.coords // 8)


@pytest.mark.parametrize("damage", [without_numbers, without_inside, in_a_corner])
def test_a_damaged_mesh_stays_coarse_and_is_said(
    model: SceneGen,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    damage: Callable[[GridFields], GridFields],
) -> None:
    assert model.latents is not None
    decoder, decode, calls = model.latents.mesh_decoder, model.latents.mesh_decoder.decode, []

    def damaged(latents: torch.Tensor, voxels: Any) -> list[GridFields]:
        calls.append(len(latents))
        return [damage(f) for f in decode(latents, voxels)] if len(calls) == 2 else decode(latents, voxels)

    monkeypatch.setattr(decoder, "decode", damaged)
    with caplog.at_level(logging.WARNING):
        scene = model.generate([drawn_view()])
    assert [(a.id, a.detail) for a in scene.assets] == [(3, "coarse"), (5, "textured"), (8, "textured")]
    (record,) = caplog.records
    assert "object 3 stays coarse" in record.getMessage()


def test_a_process_that_crashes_costs_one_texture(
    model: SceneGen, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(finishing, "finish", bad_finishers.crash)
    scene = model.generate([drawn_view()], ids=[5])
    assert [a.detail for a in scene.assets] == ["coarse"] and "object 5 stays coarse" in caplog.text
    monkeypatch.undo()
    assert [a.detail for a in model.generate([drawn_view()], ids=[5]).assets] == ["textured"]


def test_a_textured_scene_by_a_server_and_on_disk(model: SceneGen, tmp_path: Path) -> None:
    heard: list[Progress] = []
    with running(StubGenerator(), tmp_path / "s", load=lambda: model) as address:
        scene = SceneClient(address).generate([drawn_view()], ids=[5, 8], on_progress=heard.append)
    assert [a.detail for a in scene.assets] == ["textured", "textured"]
    assert [a.detail for p in heard if p.scene for a in p.scene.assets] == ["coarse", "coarse"]
    stored = read_scene(write_scene(tmp_path, scene, None, scene_id="a"))[0]
    direct = model.generate([drawn_view()], ids=[5, 8])
    for a, b in zip(stored.assets, direct.assets, strict=True):
        assert a.detail == "textured"
        np.testing.assert_array_equal(texture(a), texture(b))
        np.testing.assert_allclose(a.mesh.vertices, b.mesh.vertices, atol=1e-6)
        np.testing.assert_allclose(a.mesh.visual.uv, b.mesh.visual.uv, atol=1e-6)


def test_meshes_without_colours_take_those_of_the_gaussians(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = SceneGen.from_pretrained(write_random_checkpoint(tmp_path, latents=True, colours=False))
    (asset,) = with_round_structures(model, monkeypatch).generate([drawn_view()], ids=[5]).assets
    assert asset.detail == "textured" and texture(asset).std() > 1


def test_latents_on_the_surface_of_a_solid_correct_its_own_distances(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    solid = tmp_path / "solid"
    shutil.copytree(folder, solid)
    save_pipeline(solid, LATENT_PIPELINE | {"latent_voxels": "surface"})
    model = with_round_structures(SceneGen.from_pretrained(solid), monkeypatch)
    decode = model.decoder.forward
    monkeypatch.setattr(model.decoder, "forward", lambda latent: 8 * decode(latent))  # as sharp as trained ones
    assert model.latents is not None
    said = model.latents.mesh_decoder.out_layer
    radius = []
    for correction in (0.0, 0.1):  # in voxels, outwards is positive: the surface moves in
        with torch.no_grad():
            said.weight[:53] = 0
            said.bias[:8] = correction + 1 / 32  # which the extraction takes off
        (asset,) = model.generate([drawn_view()], ids=[5]).assets
        assert asset.detail == "textured" and texture(asset).std() > 1
        distances = np.linalg.norm(asset.mesh.vertices, axis=1)
        radius.append(distances.mean())
        assert distances.min() > 0.7 * radius[-1], "nothing within"
    assert 1.2 / 8 < radius[0] < 2.2 / 8, "the structure's own ball"
    assert 0.05 / 8 < radius[0] - radius[1] < 0.4 / 8, "in, and smoothed after, which so small a ball feels"

    save_pipeline(solid, LATENT_PIPELINE | {"latent_voxels": "everywhere"})
    with pytest.raises(InvalidInput, match="latent_voxels 'everywhere' must be"):
        SceneGen.from_pretrained(solid)


def test_latent_models_that_do_not_fit_are_refused(folder: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    for change, message in (
        ({"models": {k: v for k, v in LATENT_PIPELINE["models"].items() if "mesh" not in k}}, "slat_decoder_mesh"),
        ({"slat_normalization": {"mean": [0.0] * 3, "std": [1.0] * 3}}, "slat_normalization"),
        ({"slat_sampler": {"name": "DDIM"}}, "slat_sampler"),
    ):
        save_pipeline(broken, LATENT_PIPELINE | change)
        with pytest.raises(InvalidInput, match=message):
            SceneGen.from_pretrained(broken)
    save_pipeline(broken, LATENT_PIPELINE)
    config = broken / "slat_flow.json"
    config.write_text(json.dumps({"name": "SLatFlowModel", "args": LATENT_FLOW | {"resolution": 16}}))
    with pytest.raises(InvalidInput, match="resolutions .* are 8 and 16: these models were not made for each other"):
        SceneGen.from_pretrained(broken)
