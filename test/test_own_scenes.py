"""A user's own scenes as training data: rows are those of the synthetic scenes that the folders were written from."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
from random_checkpoint import GEOMETRY_ENCODER, IMAGE_ENCODER, READOUT

from scenegen.cli import main
from scenegen.evaluation.metrics import voxel_iou
from scenegen.generator.conditioning import Conditioner
from scenegen.generator.encoders.dinov2 import ImageEncoder
from scenegen.generator.encoders.vggt import VGGTAggregator
from scenegen.generator.structure.readout import ConditionReadout
from scenegen.glb import T_YUP_ZUP, meshes_to_glb
from scenegen.images import read_views, write_views
from scenegen.scene import Floats, InvalidInput, View
from scenegen.synthetic import SyntheticScene, make_scene, synthesize
from scenegen.synthetic.dataset import view_of_all
from scenegen.training import shards
from scenegen.training.encoders import EncoderPretraining, EncoderStage
from scenegen.training.loop import Schedule, run
from scenegen.training.own_scenes import read_objects, write_own_shards
from scenegen.training.samples import facing_yaw, scene_sample
from scenegen.training.shards import Samples
from scenegen.training.structure_vae import StructureVAE

SEED, SCENES = 5, 4
SIZES = {"image_size": 28, "geometry_size": 42, "resolution": 16}
VAE = {"latent_channels": 4, "num_res_blocks": 0, "num_res_blocks_middle": 1}
ENCODER = VAE | {"in_channels": 1, "channels": [4, 8, 16]}
DECODER = VAE | {"out_channels": 1, "channels": [16, 8, 4]}


def made(number: int) -> tuple[SyntheticScene, View]:
    """The scene that `synthesize` writes as scene_<number>."""
    scene = make_scene(int(np.random.SeedSequence([SEED, number]).generate_state(1)[0]))
    return scene, view_of_all(scene)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("own")
    synthesize(SEED, SCENES, root)
    return root


@pytest.fixture
def own(written: Path, tmp_path: Path) -> Path:
    """A copy of the scenes, to be spoilt."""
    return Path(shutil.copytree(written, tmp_path / "own"))


@pytest.fixture(scope="module")
def runs(written: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Their shards, by the command."""
    folder = tmp_path_factory.mktemp("runs")
    config = {"resolution": 16, "image_encoder": {"image_size": 28}, "geometry_encoder": {"img_size": 42}}
    (folder / "config.json").write_text(json.dumps(config))
    words = ["train", "data", "--from", str(written), "--runs", str(folder), "--config", str(folder / "config.json")]
    assert main(words) == 0
    return folder


def rewrite(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a JSON file in place."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def replace_objects(folder: Path, number: int, turned: Callable[[Floats], Floats]) -> None:
    """Write truth.glb again with every object's pose (scale included) changed."""
    scene, _ = made(number)
    nodes = {}
    for i, item in enumerate(scene.objects):
        T = scene.T_world_object[i].copy()
        T[:3, :3] *= scene.size_m[i]
        nodes[f"object_{i + 1}"] = (item.mesh(), turned(T))
    (folder / "truth.glb").write_bytes(meshes_to_glb(nodes))


@pytest.mark.parametrize("number", range(SCENES))
def test_rows_are_those_of_the_synthetic_scene(runs: Path, number: int) -> None:
    samples = Samples(runs / ("data" if number else "held_out"))
    assert len(samples.counts) == (SCENES - 1 if number else 1)
    place = max(0, number - 1)
    expected = scene_sample(*made(number), **SIZES)
    assert expected is not None
    rows = samples.rows([place])
    assert set(samples.objects) == set(expected[1]) and set(samples.scene) == set(expected[0])
    for name in expected[0]:
        np.testing.assert_allclose(samples.scene[name][place], expected[0][name], atol=2e-3)
    for name in set(expected[1]) - {"occupancy", "yaw"}:
        np.testing.assert_allclose(samples.objects[name][rows], expected[1][name], atol=2e-3, err_msg=name)
    for mine, true, symmetry in zip(
        samples.objects["yaw"][rows], expected[1]["yaw"], expected[1]["symmetry"], strict=True
    ):
        assert facing_yaw(float(mine - true), int(symmetry)) == pytest.approx(0, abs=1e-4)
    occupied = np.unpackbits(expected[1]["occupancy"].astype(np.uint8), axis=1).reshape(-1, 16, 16, 16) > 0
    for mine, true in zip(samples.occupancy(rows)[:, 0] > 0, occupied, strict=True):
        assert voxel_iou(mine, true) > 0.9


def test_depth_that_is_not_there_is_that_of_the_meshes(own: Path, tmp_path: Path) -> None:
    for path in own.glob("*/depth.png"):
        path.unlink()
    write_own_shards(own, tmp_path / "runs", **SIZES)
    expected = scene_sample(*made(0), **SIZES)
    assert expected is not None
    mine = Samples(tmp_path / "runs/held_out").scene["depth"][0]
    known = np.isfinite(mine)
    assert known.any() and np.nanmedian(np.abs(mine - expected[0]["depth"])[known]) < 0.02


def test_an_object_in_any_units_comes_to_its_box(own: Path) -> None:
    """Parts below a node that is stretched, meshes of other units beside their origins."""
    scene, _ = made(1)
    glb = trimesh.Scene()
    for i, item in enumerate(scene.objects):
        T = scene.T_world_object[i].copy()
        T[:3, :3] *= scene.size_m[i] * np.array([0.01, 0.02, 0.03])  # as Blender writes an object that was stretched
        mesh = item.mesh()
        mesh.vertices /= [0.01, 0.02, 0.03]
        T[:3, 3] -= T[:3, :3] @ [7.0, 0.0, -3.0]
        mesh.vertices += [7.0, 0.0, -3.0]
        pieces = mesh.split(only_watertight=False)
        glb.graph.update(frame_to=f"object_{i + 1}", frame_from="world", matrix=T_YUP_ZUP @ T @ T_YUP_ZUP.T)
        for k, piece in enumerate(pieces):
            name = f"part_{i}_{k}"
            glb.add_geometry(piece.apply_transform(T_YUP_ZUP), node_name=name, parent_node_name=f"object_{i + 1}")
    (own / "scene_0001/truth.glb").write_bytes(glb.export(file_type="glb"))
    (own / "scene_0001/truth.json").unlink()
    for i, item in enumerate(read_objects(own / "scene_0001", 16)):
        assert item.instance == i + 1 and item.symmetry == 1
        assert item.size_m == pytest.approx(scene.size_m[i], rel=5e-3)
        np.testing.assert_allclose(item.T_world_asset[:3, 3], scene.T_world_object[i, :3, 3], atol=1e-3)
        rotation = item.T_world_asset[:3, :3] / item.size_m
        np.testing.assert_allclose(rotation, scene.T_world_object[i, :3, :3], atol=1e-5)
        assert voxel_iou(item.occupancy(16), scene.objects[i].occupancy(16)) > 0.9


def test_an_object_on_another_ones_node_is_not_part_of_it(own: Path) -> None:
    glb = trimesh.Scene()
    up = trimesh.transformations.translation_matrix([0, 0.6, 0])
    glb.add_geometry(trimesh.creation.box((1, 1, 1)), node_name="object_1")
    glb.add_geometry(
        trimesh.creation.box((0.2, 0.2, 0.2)), node_name="object_2", parent_node_name="object_1", transform=up
    )
    (own / "scene_0001/truth.glb").write_bytes(glb.export(file_type="glb"))
    table, cup = read_objects(own / "scene_0001", 8)
    assert table.size_m == pytest.approx(1) and cup.size_m == pytest.approx(0.2)
    assert cup.T_world_asset[:3, 3] == pytest.approx([0, 0, 0.6])


def test_a_mesh_may_be_open(own: Path) -> None:
    box = trimesh.creation.box((1, 0.5, 0.5))
    box.update_faces(box.face_normals[:, 2] > -0.5)  # as a scan has it that never saw the underside
    (own / "scene_0001/truth.glb").write_bytes(meshes_to_glb({"object_1": (box, np.eye(4))}))
    (item,) = read_objects(own / "scene_0001", 8)
    assert not item.asset.is_watertight and item.grid[:, 2:6, 2:6].all() and item.grid.sum() == 8 * 4 * 4


def test_what_is_thinner_than_a_voxel_is_not_lost(own: Path) -> None:
    sheet = trimesh.creation.box((1, 1, 0.001))
    (own / "scene_0001/truth.glb").write_bytes(meshes_to_glb({"object_1": (sheet, np.eye(4))}))
    (sheet_read,) = read_objects(own / "scene_0001", 8)
    assert sheet_read.grid.any(axis=2).all() and sheet_read.grid.sum() <= 2 * 64


def test_every_view_of_a_folder_is_a_row(own: Path, tmp_path: Path) -> None:
    folder = own / "scene_0000"
    views = read_views(folder) * 2
    for name in ("image.png", "masks.png", "depth.png", "camera.json"):
        (folder / name).unlink()
    write_views(folder, views)
    counted = write_own_shards(own, tmp_path / "runs", **SIZES)
    assert (counted.data, counted.held_out, dict(counted.left_out)) == (3, 2, {})


def tilt(T: Floats) -> Floats:
    return T @ trimesh.transformations.rotation_matrix(0.2, [1, 0, 0])


def mirror(T: Floats) -> Floats:
    return T @ np.diag([-1.0, 1.0, 1.0, 1.0])


def elsewhere(T: Floats) -> Floats:
    return trimesh.transformations.rotation_matrix(1.5, [0, 0, 1], [0.5, 0.5, 0]) @ T


BAD = {
    "masks.png does not exist": lambda f: (f / "masks.png").unlink(),
    "has no image": lambda f: (f / "image.png").unlink(),
    "without camera.json": lambda f: (f / "camera.json").unlink(),
    "lacks intrinsics or pose": lambda f: rewrite(f / "camera.json", lambda c: c.update(T_world_camera=None)),
    "truth.glb is missing": lambda f: (f / "truth.glb").unlink(),
    "is not a readable GLB": lambda f: (f / "truth.glb").write_bytes((f / "truth.glb").read_bytes()[:900]),
    "truth.json cannot be read": lambda f: (f / "truth.json").write_text("{}"),
    "a negative yaw_symmetry": lambda f: rewrite(f / "truth.json", lambda t: t["objects"][0].update(yaw_symmetry=-1)),
    "is tilted": lambda f: replace_objects(f, 1, tilt),
    "is mirrored": lambda f: replace_objects(f, 1, mirror),
    "pixels only: correct the camera's pose": lambda f: replace_objects(f, 1, elsewhere),
    "everything is above the camera": lambda f: rewrite(
        f / "camera.json", lambda c: c["T_world_camera"][2].__setitem__(3, -1.0)
    ),
    "no node named object_<id>": lambda f: (f / "truth.glb").write_bytes(
        meshes_to_glb({"mug": (trimesh.creation.box(), np.eye(4))})
    ),
    "has no object_2": lambda f: (f / "truth.glb").write_bytes(
        meshes_to_glb({"object_1": (trimesh.creation.box(), np.eye(4))})
    ),
    "no depth where it is looked at": lambda f: shutil.copy(f / "blank.png", f / "depth.png"),
}


@pytest.mark.parametrize("why", list(BAD))
def test_a_bad_scene_is_named_and_counted(
    own: Path, tmp_path: Path, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder = own / "scene_0001"
    view = read_views(folder)[0]
    assert view.depth_m is not None
    (tmp_path / "blank").mkdir()
    write_views(tmp_path / "blank", [View(view.image, view.masks, np.zeros_like(view.depth_m))])
    shutil.copy(tmp_path / "blank/depth_000.png", folder / "blank.png")
    BAD[why](folder)
    counted = write_own_shards(own, tmp_path / "runs", **SIZES)
    assert sum(counted.left_out.values()) == 1 and counted.data + counted.held_out == SCENES - 1
    assert why in caplog.text and "scene_0001" in caplog.text


def test_the_command_says_what_it_left_out(own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(own / "scene_0003", own / "scene_0004")
    (own / "scene_0002/truth.glb").unlink()
    runs = tmp_path / "runs"
    words = ["train", "data", "--from", str(own), "--runs", str(runs)]
    assert main(words) == 0
    said = capsys.readouterr()
    assert "left out: 1 scenes without usable objects" in said.err
    assert f"3 views to {runs / 'data'}, 1 to {runs / 'held_out'}" in said.out
    assert (runs / "held_out/scenes.txt").read_text() == f"{own / 'scene_0000'}\n"
    assert main(words) == 2
    assert "delete them, or choose other --runs" in capsys.readouterr().err
    assert main(["train", "encoders", "--from", str(own), "--runs", str(runs)]) == 2
    assert "--from is for the stage data" in capsys.readouterr().err


def test_nothing_usable_is_said_with_what_to_do(own: Path, tmp_path: Path) -> None:
    for path in own.glob("*/truth.glb"):
        path.unlink()
    with pytest.raises(InvalidInput, match="0 of 4 scenes .*4 scenes without usable objects.*scenegen synthesize"):
        write_own_shards(own, tmp_path / "runs", **SIZES)
    assert not list((tmp_path / "runs").glob("*/*"))
    with pytest.raises(InvalidInput, match="give the folder of your scenes"):
        write_own_shards(own / "scene_0000", tmp_path / "runs", **SIZES)


def test_encoders_train_on_own_scenes_and_textures_say_why_not(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, held_out = Samples(runs / "data"), Samples(runs / "held_out")
    torch.manual_seed(0)
    conditioner = Conditioner(ImageEncoder(IMAGE_ENCODER), VGGTAggregator(**GEOMETRY_ENCODER))
    model = EncoderPretraining(conditioner, ConditionReadout(**READOUT))
    stage = EncoderStage(model, StructureVAE(ENCODER, DECODER), train, held_out, patch=2, resolution=4)
    schedule = Schedule(steps=2, learning_rate=1e-3, warmup=1, validate_every=2, save_every=2, precision="fp32")
    run(stage, schedule, tmp_path / "encoders")
    rows = np.genfromtxt(tmp_path / "encoders/log.csv", delimiter=",", names=True)
    assert len(rows) == 2 and np.isfinite(rows["loss"]).all()
    asked: list[bool] = []
    plain = train.targets
    monkeypatch.setattr(train, "targets", lambda rows, mirror=False: asked.append(mirror) or plain(rows, mirror))
    for seed in range(4):
        stage.object_terms(np.arange(4), np.random.default_rng(seed))
        stage.scene_terms(np.arange(2), np.random.default_rng(seed))
    assert len(asked) >= 8 and not any(asked), "own objects need not be their own mirror images"
    with pytest.raises(InvalidInput, match="textures are taught on synthetic objects only"):
        train.made(0)


def test_shards_say_whether_their_objects_are_procedural(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "SCENES_PER_SHARD", 2)
    shards._make_shard((tmp_path, 7, *SIZES.values()))
    assert Samples(tmp_path).procedural and not Samples(runs / "data").procedural
    shutil.copy(next((runs / "data").glob("given_*")), tmp_path)
    mixed = Samples(tmp_path)
    assert not mixed.procedural and len(mixed.counts) == 2 + SCENES - 1
