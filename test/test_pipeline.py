"""SceneGen from end to end, with random weights: to coarse assets. test_textured.py goes on from there."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from random_checkpoint import PIPELINE, drawn_view, write_random_checkpoint

from scenegen.generator import SceneGen
from scenegen.generator.checkpoints import save_pipeline
from scenegen.generator.pipeline import GenerationError, views_and_ids
from scenegen.scene import Cancelled, InvalidInput, Progress, Scene, View


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_checkpoint(tmp_path_factory.mktemp("weights"))


@pytest.fixture
def model(folder: Path) -> SceneGen:
    return SceneGen.from_pretrained(folder)


def vertices(scene: Scene) -> list[np.ndarray]:
    return [np.asarray(asset.mesh.vertices) for asset in scene.assets]


def set_decoder_bias(model: SceneGen, bias: float) -> None:
    convolution = model.decoder.out_layer[2]
    assert isinstance(convolution, torch.nn.Conv3d) and convolution.bias is not None
    torch.nn.init.constant_(convolution.bias, bias)


def test_every_object_becomes_an_asset_with_a_placement(model: SceneGen) -> None:
    scene = model.generate([drawn_view()])
    assert [asset.id for asset in scene.assets] == [3, 5, 8]
    assert [asset.label for asset in scene.assets] == ["object_3", "object_5", "object_8"]
    assert scene.query == 1
    assert (scene.T_query_asset(1) == np.eye(4)).all()
    assert set(scene.seconds) == {"conditioning", "structure", "assets"}
    for i, asset in enumerate(scene.assets):
        assert asset.detail == "coarse" and asset.mesh.is_watertight and asset.mesh.volume > 0
        assert np.abs(asset.mesh.vertices).max() <= 0.5 and np.isfinite(scene.T_query_asset(i)).all()
    assert np.asarray(scene.assets[0].mesh.visual.vertex_colors)[0].tolist() == [200, 30, 30, 255]


def test_same_seed_same_scene_other_seed_other_scene(model: SceneGen) -> None:
    first, again, other = (model.generate([drawn_view()], seed=seed) for seed in (7, 7, 8))
    assert all((a == b).all() for a, b in zip(vertices(first), vertices(again), strict=True))
    assert any(a.shape != b.shape or (a != b).any() for a, b in zip(vertices(first), vertices(other), strict=True))


def test_only_the_ids_asked_for_are_generated(model: SceneGen) -> None:
    scene = model.generate([drawn_view()], ids=[8, 3])
    assert [asset.id for asset in scene.assets] == [3, 8] and scene.query == 0


def test_a_second_view_changes_the_scene_and_joint_differs_from_published(model: SceneGen, folder: Path) -> None:
    views = [drawn_view(), drawn_view(shift=7)]
    one, two = model.generate(views[:1]), model.generate(views)
    assert any(a.shape != b.shape or (a != b).any() for a, b in zip(vertices(one), vertices(two), strict=True))
    ids = [5, 3, 8]
    published, joint = (model.conditioner.encode(views, ids, how) for how in ("published", "joint"))
    image_tokens = 3 * model.conditioner.image_encoder.num_tokens
    assert (
        published.shape == joint.shape == (2, 3, image_tokens + 2 * model.conditioner.geometry_encoder.num_tokens, 32)
    )
    torch.testing.assert_close(published[:, :, :image_tokens], joint[:, :, :image_tokens])
    assert (published - joint)[1, 0, image_tokens:].abs().max() > 1e-4


def test_progress_rises_to_one_and_hands_out_every_asset(model: SceneGen) -> None:
    heard: list[Progress] = []
    scene = model.generate([drawn_view()], on_progress=heard.append)
    fractions = [progress.fraction for progress in heard]
    assert fractions == sorted(fractions) and fractions[0] == 0 and fractions[-1] == pytest.approx(1)
    assert [progress.stage for progress in heard if progress.stage == "structure"] == ["structure"] * (2 + 3)
    assert {progress.asset.id for progress in heard if progress.asset} == {asset.id for asset in scene.assets}


@pytest.mark.parametrize("stage", ["conditioning", "structure", "assets"])
def test_cancelling_stops_within_the_stage(model: SceneGen, stage: str) -> None:
    heard: list[Progress] = []

    def cancelled() -> bool:
        return bool(heard) and heard[-1].stage == stage

    with pytest.raises(Cancelled):
        model.generate([drawn_view()], on_progress=heard.append, cancelled=cancelled)
    assert heard[-1].stage == stage
    assert len([progress for progress in heard if progress.stage == stage]) <= 2
    assert len(model.generate([drawn_view()]).assets) == 3


def test_an_object_that_comes_out_empty_is_left_out_and_said(
    model: SceneGen, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[torch.Tensor] = []

    def decode(latent: torch.Tensor) -> torch.Tensor:
        decoded.append(latent)
        return torch.full((1, 1, 8, 8, 8), -1.0 if len(decoded) == 2 else 1.0)

    monkeypatch.setattr(model.decoder, "forward", decode)
    with caplog.at_level(logging.WARNING):
        scene = model.generate([drawn_view()])
    assert [asset.id for asset in scene.assets] == [5, 8] and scene.query == 0
    assert "object 3" in caplog.text


def test_an_empty_query_asset_is_an_error_that_names_it(model: SceneGen) -> None:
    set_decoder_bias(model, -1e6)
    with pytest.raises(GenerationError, match="object 5"):
        model.generate([drawn_view()])


def test_damaged_weights_do_not_pass_as_a_scene(model: SceneGen) -> None:
    with torch.no_grad():
        model.flow.out_layer.bias.fill_(float("nan"))
    with pytest.raises(GenerationError, match="weights"):
        model.generate([drawn_view()])


def test_a_detail_that_is_none_is_refused(model: SceneGen) -> None:
    with pytest.raises(InvalidInput, match="detail is 'fine', it must be one of: coarse, textured"):
        model.generate([drawn_view()], detail="fine")  # type: ignore[arg-type]


def test_unusable_views_and_ids_are_refused() -> None:
    view = drawn_view()
    empty = replace(view, masks=np.zeros_like(view.masks))
    for views, ids, message in (
        ([], None, "no views"),
        ([empty], None, "no object"),
        ([view], [], "no object"),
        ([view], [3, 3], "once"),
        ([view], [0, 3], "above 0"),
        ([view, empty], [3, 4], "no view sees"),
    ):
        with pytest.raises(InvalidInput, match=message):
            views_and_ids(views, ids)


def test_views_that_miss_an_object_are_not_used_and_the_largest_mask_leads() -> None:
    view = drawn_view()
    without_8 = replace(view, masks=np.where(view.masks == 8, 0, view.masks))
    used, ids = views_and_ids([without_8, view], [3, 5, 8])
    assert len(used) == 1 and used[0] is view and ids == [5, 3, 8]
    used, ids = views_and_ids([without_8, view], None)
    assert len(used) == 2 and ids == [5, 3]


def test_ties_in_area_keep_the_order_asked_for() -> None:
    masks = np.array([[1, 2], [1, 2]], dtype=np.int32)
    view = View(np.zeros((2, 2, 3), dtype=np.uint8), masks)
    assert views_and_ids([view], [2, 1])[1] == [2, 1]


def test_a_missing_role_or_unknown_multiview_is_named(folder: Path, tmp_path: Path) -> None:
    for change, message in (({"vggt_model": None}, "vggt_model"), ({"multiview": "both"}, "joint")):
        save_pipeline(tmp_path, PIPELINE | change)
        with pytest.raises(InvalidInput, match=message):
            SceneGen.from_pretrained(tmp_path)


def test_models_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    write_random_checkpoint(tmp_path)
    config = tmp_path / "ss_flow.json"
    content = json.loads(config.read_text())
    content["args"]["local_tokens"] = 1374
    config.write_text(json.dumps(content))
    with pytest.raises(InvalidInput, match="local_tokens.* 9 and 1374"):
        SceneGen.from_pretrained(tmp_path)
