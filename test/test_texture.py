"""Textures: each way brings a known colouring back, seams are padded, and what is written can be read again."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from conformance_adapter import build_model
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file

from scenegen.generator.latents.fields import Gaussians
from scenegen.generator.meshing.extracted import ExtractedMesh
from scenegen.generator.meshing.unwrap import UnwrappedMesh, unwrap
from scenegen.generator.texture.bake import covered_texels, paint
from scenegen.generator.texture.cameras import hammersley_cameras
from scenegen.generator.texture.compositor import render_gaussians
from scenegen.generator.texture.rendered import RenderedColours
from scenegen.generator.texture.splats import SplatColours
from scenegen.generator.texture.ways import textured_mesh, with_texture
from scenegen.glb import mesh_from_glb, mesh_to_glb
from scenegen.render import Camera, Renderer, Surface, Texture
from scenegen.scene import InvalidInput

GOLDEN = Path(__file__).parent / "golden" / "texture"
RADIUS = 0.4
SIZE = 256


def colour(points: NDArray) -> NDArray[np.float32]:
    """Smooth, and different on every side."""
    return (0.5 + 0.4 * np.sin(7 * np.asarray(points) + [0, 1, 2])).astype(np.float32)


def decibels(found: NDArray, true: NDArray) -> float:
    return float(-10 * np.log10(((found - true) ** 2).mean()))


def spread(count: int) -> NDArray[np.float64]:
    """Unit vectors evenly over the sphere."""
    height = 1 - 2 * (np.arange(count) + 0.5) / count
    turn = np.arange(count) * np.pi * (3 - np.sqrt(5))
    flat = np.sqrt(1 - height**2)
    return np.stack([flat * np.cos(turn), flat * np.sin(turn), height], axis=1)


@pytest.fixture(scope="module")
def extracted() -> ExtractedMesh:
    ball = trimesh.creation.icosphere(subdivisions=6, radius=RADIUS)
    vertices = ball.vertices.astype(np.float32)
    return ExtractedMesh(vertices, ball.faces, np.hstack([colour(vertices), np.zeros_like(vertices)]))


@pytest.fixture(scope="module")
def gaussians() -> Gaussians:
    """Flat ones on the sphere, and as many a little below it that no picture shows, in a colour that is nowhere."""
    normals = spread(12_000)
    half = np.stack([1 + normals[:, 2], -normals[:, 1], normals[:, 0], 0 * normals[:, 0]], axis=1)
    rotations = half / np.linalg.norm(half, axis=1, keepdims=True)
    scales = np.tile([0.014, 0.014, 9e-4], (len(normals), 1))
    outer, inner = RADIUS * normals, (RADIUS - 0.015) * normals
    parts = [
        np.concatenate([outer, inner]),
        np.concatenate([colour(outer), np.tile([1.0, 0.0, 1.0], (len(inner), 1))]),
        np.concatenate([scales, scales]),
        np.concatenate([rotations, rotations]),
        np.full(2 * len(normals), 0.9),
    ]
    return Gaussians(*(torch.tensor(part, dtype=torch.float32) for part in parts))


@pytest.fixture(scope="module")
def mesh() -> UnwrappedMesh:
    ball = trimesh.creation.icosphere(subdivisions=4, radius=RADIUS)
    return unwrap(ball.vertices, ball.faces)


def surface_error(textured: trimesh.Trimesh) -> float:
    """PSNR of the texture against the colouring at random points of the surface, looked up as a viewer does."""
    points, faces = trimesh.sample.sample_surface(textured, 20_000, seed=0)
    weights = trimesh.triangles.points_to_barycentric(textured.triangles[faces], points)
    uv = (textured.visual.uv[textured.faces[faces]] * weights[..., None]).sum(1).astype(np.float32)
    texture = Surface.from_mesh(textured).texture
    assert texture is not None
    return decibels(texture.sample(uv), colour(points))


@pytest.mark.parametrize(("way", "least_db"), [("decoded", 42), ("gaussians", 40)])
def test_known_colouring_comes_back_through_a_file(
    way: str, least_db: float, mesh: UnwrappedMesh, extracted: ExtractedMesh, gaussians: Gaussians
) -> None:
    made = textured_mesh(mesh, extracted, gaussians, way=way, size=SIZE)
    assert surface_error(mesh_from_glb(mesh_to_glb(made))) > least_db


def test_rendered_colouring_comes_back(mesh: UnwrappedMesh, gaussians: Gaussians) -> None:
    texels = covered_texels(mesh.uv, mesh.faces, SIZE)
    points = texels.mix(mesh.vertices, mesh.faces)
    found = RenderedColours(gaussians, mesh.vertices, mesh.faces, 10, 160)(points)
    assert decibels(found, colour(points)) > 32


def test_without_decoded_colours_the_gaussians_give_them(
    mesh: UnwrappedMesh, extracted: ExtractedMesh, gaussians: Gaussians
) -> None:
    colourless = replace(extracted, attributes=extracted.attributes[:, :0])
    assert surface_error(textured_mesh(mesh, colourless, gaussians, size=SIZE)) > 40
    with pytest.raises(InvalidInput, match="no colours"):
        textured_mesh(mesh, colourless, gaussians, way="decoded")
    with pytest.raises(InvalidInput, match="needs the Gaussians"):
        textured_mesh(mesh, extracted, way="rendered")


def test_far_from_every_gaussian_the_closest_counts(gaussians: Gaussians) -> None:
    points = np.array([[0.5, 0.5, 0.5], [-0.5, 0.0, 0.0]], dtype=np.float32)
    nearest = RADIUS * points / np.linalg.norm(points, axis=1, keepdims=True)
    np.testing.assert_allclose(SplatColours(gaussians)(points), colour(nearest), atol=0.1)


def test_texels_lie_where_their_uv_says() -> None:
    uv = np.array([[0.1, 0.2], [0.9, 0.3], [0.4, 0.8], [0.95, 0.9]], dtype=np.float32)
    faces = np.array([[0, 1, 2], [2, 1, 3]])
    texels = covered_texels(uv, faces, 64)
    row, column = np.divmod(texels.index, 64)
    centres = np.stack([(column + 0.5) / 64, 1 - (row + 0.5) / 64], axis=1)
    np.testing.assert_allclose(texels.mix(uv, faces), centres, atol=1e-5)
    assert texels.weights.min() > -1e-4
    sides = np.stack([uv[faces[:, 1]] - uv[faces[:, 0]], uv[faces[:, 2]] - uv[faces[:, 0]]], axis=1)
    area = 0.5 * np.abs(np.linalg.det(sides)).sum()
    assert len(texels.index) == pytest.approx(area * 64 * 64, rel=0.02)


def test_no_texel_on_the_mesh_is_refused() -> None:
    with pytest.raises(InvalidInput, match="no texel"):
        covered_texels(np.full((3, 2), 2.0, np.float32), np.array([[0, 1, 2]]), 64)


def test_what_lies_around_a_chart_continues_it() -> None:
    uv = np.array([[0.1, 0.1], [0.4, 0.1], [0.1, 0.4], [0.6, 0.9], [0.9, 0.9], [0.9, 0.6]], dtype=np.float32)
    texels = covered_texels(uv, np.array([[0, 1, 2], [3, 5, 4]]), 128)
    red, green = np.array([1.0, 0.0, 0.0]), np.array([0.0, 1.0, 0.0])
    image = paint(texels, np.where(texels.triangle[:, None] == 0, red, green).astype(np.float32))
    assert set(map(tuple, image.reshape(-1, 3))) == {(255, 0, 0), (0, 255, 0)}
    assert tuple(image[-1, 0]) == (255, 0, 0) and tuple(image[0, -1]) == (0, 255, 0)
    edge = np.linspace(uv[0], uv[1], 50, dtype=np.float32)
    np.testing.assert_allclose(Texture(image, uv[None]).sample(edge), np.tile(red, (50, 1)))


def test_the_file_holds_one_png_and_nothing_a_viewer_would_mistake(
    mesh: UnwrappedMesh,
) -> None:
    data = mesh_to_glb(with_texture(mesh, np.full((8, 8, 3), 200, np.uint8)))
    header = json.loads(data[20 : 20 + int.from_bytes(data[12:16], "little")])
    (material,) = header["materials"]
    assert set(material["pbrMetallicRoughness"]) <= {
        "baseColorTexture",
        "baseColorFactor",
        "roughnessFactor",
        "metallicFactor",
    }
    assert material["pbrMetallicRoughness"]["roughnessFactor"] == 1
    assert material["pbrMetallicRoughness"]["metallicFactor"] == 0
    assert [image["mimeType"] for image in header["images"]] == ["image/png"]
    again = mesh_from_glb(data)
    np.testing.assert_array_equal(np.asarray(again.visual.material.baseColorTexture.convert("RGB")), 200)
    np.testing.assert_allclose(again.visual.uv, mesh.uv, atol=1e-6)


@pytest.mark.parametrize("name", ["cameras", "camera_rig", "scene_assembly"])
def test_golden_case(name: str) -> None:
    tensors = load_file(GOLDEN / f"{name}.safetensors")
    model = build_model(json.loads((GOLDEN / f"{name}.json").read_text())["config"])
    outputs = model(**{key[3:]: value for key, value in tensors.items() if key.startswith("in.")})
    for key, expected in tensors.items():
        if key.startswith("out."):
            torch.testing.assert_close(outputs[key[4:]], expected, atol=2e-6, rtol=0)


def test_a_single_gaussian_is_drawn_where_and_as_it_is() -> None:
    one = Gaussians(
        torch.tensor([[0.1, 0.0, 0.2]]), torch.tensor([[1.0, 0.5, 0.25]]), torch.tensor([[0.05, 0.05, 0.05]]),
        torch.tensor([[1.0, 0.0, 0.0, 0.0]]), torch.tensor([0.8]),
    )  # fmt: skip
    T = hammersley_cameras(12)[5]
    picture, coverage = render_gaussians(one, T, 128)
    at = T[:3, :3] @ one.positions[0] + T[:3, 3]
    x, y = (at[:2] / at[2] * 128 * 0.5 / np.tan(np.deg2rad(20)) + 64).tolist()
    row, column = np.unravel_index(coverage.argmax(), coverage.shape)
    assert (row, column) == (int(y), int(x))
    assert coverage.max() == pytest.approx(0.8, abs=0.02)
    np.testing.assert_allclose(picture[row, column] / coverage[row, column], [1.0, 0.5, 0.25], atol=1e-5)
    sigma = 0.05 / float(at[2]) * 128 * 0.5 / np.tan(np.deg2rad(20))
    assert coverage.sum() == pytest.approx(0.8 * 2 * np.pi * sigma**2, rel=0.05)


def test_nearer_gaussians_hide_farther_ones() -> None:
    T = hammersley_cameras(12)[5]
    eye = -(T[:3, :3].T @ T[:3, 3])
    towards = eye / eye.norm()
    two = Gaussians(
        torch.stack([-0.1 * towards, 0.1 * towards]), torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]),
        torch.full((2, 3), 0.05), torch.tensor([[1.0, 0.0, 0.0, 0.0]] * 2), torch.tensor([0.9, 0.75]),
    )  # fmt: skip
    picture, _ = render_gaussians(two, T, 65)
    np.testing.assert_allclose(picture[32, 32], [0.75, 0.25 * 0.9, 0.0], atol=0.02)  # softened by the pixel


def test_the_renderer_draws_a_texture_where_it_belongs() -> None:
    image = np.zeros((2, 2, 3), np.uint8)
    image[0, 1] = [255, 0, 0]
    square = trimesh.Trimesh([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], [[0, 1, 2], [0, 2, 3]], process=False)
    uv = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], dtype=np.float32)
    square.visual = trimesh.visual.TextureVisuals(
        uv, trimesh.visual.material.PBRMaterial(baseColorTexture=Image.open(io.BytesIO(_png(image))))
    )
    T = np.eye(4)
    T[:3, :3] = np.diag([1.0, -1.0, -1.0])
    T[:3, 3] = [0.5, 0.5, 2.0]
    camera = Camera.pinhole(64, 64, 120.0)
    renderer = Renderer([Surface.from_mesh(square)], [np.eye(4)])
    hits = renderer.cast(camera, T)
    met = np.flatnonzero(hits.instance)
    picture = np.zeros((64 * 64, 3), np.float32)
    picture[met] = renderer.base_colours(hits, met)
    picture = picture.reshape(64, 64, 3)
    assert picture[10, 53, 0] == 1 and picture[53, 10, 0] == 0 and picture[10, 10, 0] == 0
    assert picture[32, 32, 0] == pytest.approx(0.25, abs=0.05)


def _png(image: NDArray[np.uint8]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG")
    return stream.getvalue()
