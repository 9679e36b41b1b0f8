"""Image figures: known values, a scene drawn where the alignment puts it, the command on several methods, networks."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image
from safetensors.torch import save_file
from scipy.linalg import sqrtm
from scipy.ndimage import correlate
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from scenegen.cli import main
from scenegen.evaluation.folders import draw_scene, load_objects
from scenegen.evaluation.images import (
    SAME_DB,
    Picture,
    frechet_distance,
    image_features,
    image_figures,
    objects_on_white,
    psnr,
    set_figures,
    ssim,
)
from scenegen.evaluation.scoring import evaluate_scene, mean_scores
from scenegen.generator.checkpoints import save_image_encoder
from scenegen.generator.encoders.dinov2 import ImageEncoder
from scenegen.glb import meshes_to_glb
from scenegen.render import Camera, Renderer, Surface, look_at
from scenegen.scene import InvalidInput, View
from scenegen.training.inception import Inception
from scenegen.training.judges import ALEXNET, Judges

CAMERA = Camera.pinhole(160, 120, 150.0)
T_WORLD_CAMERA = look_at(np.array([1.2, -3.2, 2.0]), np.array([0.3, 0.0, 0.3]))


COLOURS = ([200, 30, 30], [30, 180, 30], [30, 30, 220])


def furniture(gap: float = 0.5) -> list[trimesh.Trimesh]:
    """A red box, a green one and a blue ball on a floor."""
    meshes = [
        trimesh.creation.box((1.0, 0.6, 0.4)).apply_translation((0, 0, 0.2)),
        trimesh.creation.box((0.3, 0.3, 0.9)).apply_translation((0.65 + gap, 0.2, 0.45)),
        trimesh.creation.icosphere(3, 0.3).apply_translation((0.1, -0.6 - gap, 0.3)),
    ]
    for mesh, colour in zip(meshes, COLOURS, strict=True):
        mesh.visual.vertex_colors = np.tile(np.array([*colour, 255], np.uint8), (len(mesh.vertices), 1))
    return meshes


def write_glb(path: Path, meshes: list[trimesh.Trimesh]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(meshes_to_glb({f"object_{i}": (mesh, np.eye(4)) for i, mesh in enumerate(meshes)}))


def write_input(folder: Path) -> View:
    """The furniture photographed before a grey wall, and its camera."""
    folder.mkdir(parents=True)
    renderer = Renderer([Surface.from_mesh(mesh) for mesh in furniture()], [np.eye(4)] * 3)
    image, _, masks = renderer.render(CAMERA, T_WORLD_CAMERA, background=(90, 90, 90))
    Image.fromarray(image).save(folder / "image.png")
    Image.fromarray(masks.astype(np.uint16)).save(folder / "masks.png")
    camera = {
        "width": CAMERA.width,
        "height": CAMERA.height,
        "intrinsics": CAMERA.intrinsics.tolist(),
        "T_world_camera": T_WORLD_CAMERA.tolist(),
    }
    (folder / "camera.json").write_text(json.dumps(camera))
    return View(image, masks)


def noise(seed: int) -> Picture:
    smooth = np.random.default_rng(seed).integers(0, 256, (9, 12, 3)).astype(np.uint8)
    return np.asarray(Image.fromarray(smooth).resize((96, 72), Image.Resampling.BICUBIC))


def test_psnr_of_a_known_difference() -> None:
    black = np.zeros((20, 30, 3), np.uint8)
    assert psnr(black, black + np.uint8(255)) == pytest.approx(0)
    assert psnr(black, black + np.uint8(51)) == pytest.approx(-20 * np.log10(0.2))
    assert psnr(black, black) == SAME_DB


def test_ssim_is_the_formula_over_gaussian_windows() -> None:
    a, b = noise(1), noise(2)
    offsets = np.arange(-5, 6)
    window = np.exp(-(offsets**2) / (2 * 1.5**2))
    kernel = np.outer(window, window) / window.sum() ** 2
    values = []
    for channel in range(3):
        x, y = a[..., channel] / 255, b[..., channel] / 255
        mean_x, mean_y, xx, yy, xy = (correlate(p, kernel) for p in (x, y, x * x, y * y, x * y))
        top = (2 * mean_x * mean_y + 0.01**2) * (2 * (xy - mean_x * mean_y) + 0.03**2)
        bottom = (mean_x**2 + mean_y**2 + 0.01**2) * (xx - mean_x**2 + yy - mean_y**2 + 0.03**2)
        values.append((top / bottom)[5:-5, 5:-5].mean())
    assert ssim(a, b) == pytest.approx(np.mean(values), abs=1e-6)
    assert ssim(a, a) == pytest.approx(1)
    with pytest.raises(InvalidInput, match="smaller than the window"):
        ssim(a[:8], b[:8])


def test_a_photograph_keeps_its_objects_only(tmp_path: Path) -> None:
    view = write_input(tmp_path / "scene")
    white = objects_on_white(view)
    assert (white[view.masks == 0] == 255).all() and (white[view.masks > 0] == view.image[view.masks > 0]).all()
    assert (objects_on_white(view, [2])[view.masks == 1] == 255).all()


def test_a_scene_is_drawn_where_the_alignment_puts_it(tmp_path: Path) -> None:
    view = write_input(tmp_path / "scene")
    elsewhere = [mesh.copy().apply_scale(2.5).apply_translation((4, -1, 2)) for mesh in furniture()]
    for made, low, high in ((elsewhere, 20, SAME_DB), (furniture(gap=1.2), 0, 17)):
        score = evaluate_scene(made, furniture())
        drawn = draw_scene(tmp_path / "scene", made, furniture(), score)
        assert (drawn[1] == objects_on_white(view)).all() and (drawn[2] == drawn[1]).mean() > 0.99
        figures = image_figures(*drawn, None)
        assert list(figures) == ["psnr_scene", "ssim_scene", "psnr_gt", "ssim_gt"]
        assert low < figures["psnr_gt"] < high and figures["psnr_scene"] == pytest.approx(figures["psnr_gt"], abs=0.1)


def test_evaluate_command_compares_methods_and_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for stem, gap in (("a", 0.5), ("b", 1.0)):
        write_glb(tmp_path / "truth" / f"{stem}.glb", furniture())
        write_glb(tmp_path / "ours" / f"{stem}.glb", furniture())
        write_glb(tmp_path / "theirs" / f"{stem}.glb", furniture(gap))
        write_input(tmp_path / "images" / stem)
    figures = tmp_path / "out" / "scores.json"
    words = ["evaluate", *(str(tmp_path / name) for name in ("ours", "theirs", "truth"))]
    assert main([*words, "--images", str(tmp_path / "images"), "--json", str(figures)]) == 0
    said = capsys.readouterr().out
    assert "PSNR" in said and "GT-Render" in said and "no weights" in said
    ours, theirs = json.loads(figures.read_text()).values()
    assert ours["psnr_gt"] > theirs["psnr_gt"] + 3 and ours["ssim_scene"] > theirs["ssim_scene"]
    with figures.with_suffix(".csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(Path(row["method"]).name, row["scene"]) for row in rows] == [
        ("ours", "a"),
        ("ours", "b"),
        ("theirs", "a"),
        ("theirs", "b"),
    ]
    assert float(rows[3]["psnr_gt"]) < float(rows[2]["psnr_gt"])
    sheet = Image.open(figures.with_suffix(".png"))
    assert sheet.width == 4 * 420  # photograph, truth, both methods


def test_a_scene_without_a_photograph_is_an_error_of_that_scene(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for stem in ("a", "b"):
        write_glb(tmp_path / "truth" / f"{stem}.glb", furniture())
    write_input(tmp_path / "images" / "a")
    words = ["evaluate", str(tmp_path / "truth"), str(tmp_path / "truth"), "--images", str(tmp_path / "images")]
    assert main(words) == 0
    said = capsys.readouterr()
    assert "1 scenes scored, 1 failed" in said.out and "no image*.jpg" in said.err


def test_networks_judge_where_their_weights_are_given(tmp_path: Path) -> None:
    torch.manual_seed(0)
    with pytest.raises(InvalidInput, match="none of lpips/, inception.safetensors"):
        Judges(tmp_path)
    names = ("0", "3", "6", "8", "10")
    alexnet = {"classifier.1.bias": torch.zeros(4)}
    lin = {}
    for index, (name, (i, o, k, _, _)) in enumerate(zip(names, ALEXNET, strict=True)):
        alexnet[f"features.{name}.weight"] = torch.randn(o, i, k, k) / (k * i**0.5)
        alexnet[f"features.{name}.bias"] = torch.zeros(o)
        lin[f"lin{index}.model.1.weight"] = torch.rand(1, o, 1, 1)
    (tmp_path / "lpips").mkdir()
    save_file(alexnet, tmp_path / "lpips/alexnet.safetensors")
    save_file(lin, tmp_path / "lpips/lin.safetensors")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    clip = CLIPVisionConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=28,
        patch_size=14,
        projection_dim=8,
    )
    CLIPVisionModelWithProjection(clip).save_pretrained(tmp_path / "clip")
    save_image_encoder(tmp_path / "dinov2", ImageEncoder({**sizes, "image_size": 28, "patch_size": 14}))
    judges = Judges(tmp_path)
    same, other = judges.compare(noise(1), noise(1)), judges.compare(noise(1), noise(3))
    assert same == pytest.approx({"lpips": 0, "clip_s": 1, "dino_s": 1}, abs=1e-5)
    assert other["lpips"] > 0.01 and other["clip_s"] < 0.9999 and other["dino_s"] < 0.9999
    assert judges.compare(noise(3), noise(1)) == pytest.approx(other, abs=1e-5)
    assert {"lpips_scene", "clip_s_gt"} <= set(image_figures(noise(1), noise(2), noise(3), judges))


def test_frechet_distance_of_known_distributions() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((400, 3)) * [1, 2, 3], rng.standard_normal((500, 3)) + [1, 0, 0]
    roots = sqrtm(np.cov(a.T) @ np.cov(b.T)).real
    offset = a.mean(0) - b.mean(0)
    expected = offset @ offset + np.trace(np.cov(a.T) + np.cov(b.T) - 2 * roots)
    assert frechet_distance(a, b) == pytest.approx(expected)
    few = rng.standard_normal((4, 50))
    assert frechet_distance(few, few) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(few, few + 2) == pytest.approx(200)


def test_fid_is_a_figure_of_the_set(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Inception()
    for parameter in network.parameters():
        if parameter.ndim == 4:
            torch.nn.init.kaiming_normal_(parameter)
    # torchvision's Inception v3 without auxiliary classifier and fc
    assert sum(parameter.numel() for parameter in network.parameters()) == 21_785_568
    published = {"fc.bias": torch.zeros(3), "Conv2d_1a_3x3.bn.num_batches_tracked": torch.tensor(0)}
    save_file(dict(network.state_dict()) | published, tmp_path / "inception.safetensors")
    judges = Judges(tmp_path)
    assert judges.compare(noise(1), noise(2)) == {}
    pictures = [(noise(i), noise(i), noise(i + 5)) for i in range(2)]
    features = [image_features(*three, judges) for three in pictures]
    assert features[0]["gt"].shape == (2048,)
    figures = set_figures(features)
    assert figures["fid_scene"] == pytest.approx(0, abs=1e-6) and figures["fid_gt"] > 1e-4
    assert set_figures(features[:1]) == set_figures([features[0], {}]) == {}
    scores = [replace(evaluate_scene(furniture(), furniture()), features=f) for f in features]
    assert mean_scores(scores)["fid_gt"] == pytest.approx(figures["fid_gt"])


def test_a_damaged_network_is_named(tmp_path: Path) -> None:
    (tmp_path / "clip").mkdir()
    with pytest.raises(InvalidInput, match="no readable transformers folder of CLIP"):
        Judges(tmp_path)


def test_objects_come_in_the_order_of_the_file(tmp_path: Path) -> None:
    meshes = [trimesh.creation.box((1, 1, 1 + i)) for i in range(12)]
    write_glb(tmp_path / "flat.glb", meshes)
    nested = trimesh.Scene()
    parent = "world"
    for i, mesh in enumerate(meshes):
        node = nested.add_geometry(mesh, node_name=f"{(7 * i) % 12}", parent_node_name=parent)
        parent = "world" if i % 3 == 2 else node
    (tmp_path / "nested.glb").write_bytes(nested.export(file_type="glb"))
    heights = [[mesh.extents.max() for mesh in load_objects(tmp_path / f"{kind}.glb")] for kind in ("flat", "nested")]
    assert heights == [[1 + i for i in range(12)]] * 2


def test_objects_keep_their_colours(tmp_path: Path) -> None:
    write_glb(tmp_path / "a.glb", furniture())
    for mesh, colour in zip(load_objects(tmp_path / "a.glb"), COLOURS, strict=True):
        assert np.allclose(Surface.from_mesh(mesh).colours.mean((0, 1)) * 255, colour, atol=2)
