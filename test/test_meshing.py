"""From a raw mesh to an unwrapped one: hidden faces, visibility, holes, charts and the gate."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import trimesh
from conformance_meshing import BUILDERS
from numpy.typing import NDArray
from safetensors.torch import load_file
from scipy import ndimage
from skimage.measure import marching_cubes

from scenegen.evaluation.voxels import voxelise
from scenegen.generator.meshing.edges import keep_faces
from scenegen.generator.meshing.finish import FEWEST_FACES, finish_mesh
from scenegen.generator.meshing.flexicubes import ExtractedMesh
from scenegen.generator.meshing.gate import UnusableMesh, check_shape
from scenegen.generator.meshing.hidden_faces import hidden_faces
from scenegen.generator.meshing.holes import boundary_loops, fill_holes
from scenegen.generator.meshing.simplify import simplify
from scenegen.generator.meshing.smoothing import without_stairs
from scenegen.generator.meshing.unwrap import UnwrappedMesh, unwrap
from scenegen.generator.meshing.visibility import eyes, visibility

GOLDEN = Path(__file__).parent / "golden" / "meshing"
Mesh = tuple[NDArray[np.floating], NDArray[np.int64]]


def ball(radius: float = 0.4, subdivisions: int = 4) -> Mesh:
    mesh = trimesh.creation.icosphere(subdivisions, radius)
    return np.asarray(mesh.vertices), np.asarray(mesh.faces, dtype=np.int64)


def together(*meshes: Mesh) -> Mesh:
    starts = np.cumsum([0, *(len(vertices) for vertices, _ in meshes)])
    faces = [faces + start for (_, faces), start in zip(meshes, starts, strict=False)]
    return np.concatenate([vertices for vertices, _ in meshes]), np.concatenate(faces)


def pierced(mesh: Mesh, *directions: tuple[float, float, float], width: float) -> Mesh:
    """Without the faces nearer than `width` to where the directions leave a ball of radius 0.4."""
    vertices, faces = mesh
    middles = vertices[faces].mean(axis=1)
    for direction in directions:
        near = np.linalg.norm(middles - 0.4 * np.array(direction), axis=1) < width
        faces, middles = faces[~near], middles[~near]
    return vertices, faces


def raw(mesh: Mesh) -> ExtractedMesh:
    return ExtractedMesh(mesh[0].astype(np.float32), mesh[1], np.zeros((len(mesh[0]), 0), np.float32))


@pytest.mark.parametrize("name", ["fill_holes_0", "fill_holes_1", "fill_holes_2"])
def test_the_published_faces_are_kept_and_their_holes_closed(name: str) -> None:
    config = json.loads((GOLDEN / f"{name}.json").read_text())["config"]
    tensors = load_file(GOLDEN / f"{name}.safetensors")
    inputs = {key[3:]: value for key, value in tensors.items() if key.startswith("in.")}
    outputs = BUILDERS[config["kind"]](**config["args"])(**inputs)
    for key in ("kept_vertices", "kept_faces"):
        np.testing.assert_array_equal(outputs[key], tensors[f"out.{key}"])
    mesh = trimesh.Trimesh(
        *fill_holes(outputs["kept_vertices"].numpy(), outputs["kept_faces"].numpy(), config["args"]["max_hole_nbe"]),
        process=False,
    )
    published = trimesh.Trimesh(tensors["out.aux_filled_vertices"], tensors["out.aux_filled_faces"], process=False)
    assert mesh.is_watertight and mesh.volume == pytest.approx(published.volume, rel=1e-5)


def test_no_face_is_hidden_when_all_are_seen() -> None:
    vertices, faces = ball(subdivisions=2)
    assert hidden_faces(vertices, faces, np.full(len(faces), 0.01)) is None


def test_a_ball_inside_a_ball_is_not_seen_and_goes() -> None:
    outside, inside = ball(0.4), ball(0.3, 3)
    vertices, faces = together(outside, inside)
    seen = visibility(vertices, faces)
    count = len(outside[1])
    assert (seen[count:] == 0).all() and (seen[:count] > 0.3).all() and seen[:count].mean() < 0.5
    removed = hidden_faces(vertices, faces, seen)
    assert removed is not None and removed[count:].all() and not removed[:count].any()


def test_what_a_wide_hole_shows_stays() -> None:
    vertices, faces = together(pierced(ball(0.4), (0, 0, 1), width=0.25), ball(0.2, 3))
    seen = visibility(vertices, faces)
    inside = np.linalg.norm(vertices[faces].mean(axis=1), axis=1) < 0.25
    assert (seen[inside] > 0).mean() > 0.2
    removed = hidden_faces(vertices, faces, seen)
    assert removed is None or not removed[~inside].any()


def test_inner_walls_behind_a_slit_are_cut_off_and_the_slit_is_closed() -> None:
    vertices, faces = pierced(ball(0.4, 5), (0, 0, 1), width=0.03)
    (rim,) = boundary_loops(faces)
    inner = rim + len(vertices)
    throat = np.stack([rim, np.roll(rim, -1), np.roll(inner, -1), inner], axis=1)
    walls = [faces, faces[:, ::-1] + len(vertices), throat[:, [0, 1, 2]], throat[:, [0, 2, 3]]]
    vertices, faces = np.concatenate([vertices, 0.9 * vertices]), np.concatenate(walls)
    assert trimesh.Trimesh(vertices, faces, process=False).is_watertight
    removed = hidden_faces(vertices, faces, visibility(vertices, faces))
    assert removed is not None
    kept = trimesh.Trimesh(*fill_holes(*keep_faces(vertices, faces, ~removed)), process=False)
    assert kept.is_watertight and kept.volume == pytest.approx(4 / 3 * np.pi * 0.4**3, rel=0.02)


def test_holes_are_closed_as_finely_as_their_surroundings_and_long_ones_left() -> None:
    whole = ball()
    vertices, faces = pierced(whole, (1, 0, 0), (0, 1, 0), (0, 0, 1), width=0.1)
    assert [len(loop) for loop in boundary_loops(faces)] == [24] * 3
    points, corners = fill_holes(vertices, faces)
    mesh = trimesh.Trimesh(points, corners, process=False)
    assert mesh.is_watertight and mesh.is_winding_consistent
    assert mesh.volume == pytest.approx(trimesh.Trimesh(*whole).volume, rel=0.01)
    np.testing.assert_array_equal(corners[: len(faces)], faces)
    areas = mesh.area_faces
    assert 0.5 < areas[len(faces) :].mean() / areas[: len(faces)].mean() < 2
    assert len(boundary_loops(fill_holes(vertices, faces, longest=23)[1])) == 3


def test_loops_that_touch_in_a_vertex_are_two() -> None:
    vertices, faces = ball(subdivisions=2)
    at = faces[0, 0]
    around = np.flatnonzero((faces == at).any(axis=1))
    opposite = next(f for f in around if set(faces[f]) & set(faces[around[0]]) == {at})
    loops = boundary_loops(np.delete(faces, [around[0], opposite], axis=0))
    assert sorted(len(loop) for loop in loops) == [3, 3]
    closed = fill_holes(vertices, np.delete(faces, [around[0], opposite], axis=0))
    assert trimesh.Trimesh(*closed, process=False).is_watertight


def test_simplified_is_the_same_shape() -> None:
    vertices, faces = ball(subdivisions=5)
    mesh = trimesh.Trimesh(*simplify(vertices, faces, 2000), process=False)
    assert len(mesh.faces) == pytest.approx(2000, abs=2) and mesh.is_watertight
    assert mesh.volume == pytest.approx(4 / 3 * np.pi * 0.4**3, rel=0.01)
    assert simplify(vertices, faces, len(faces))[1] is faces


def stairs_of(inside: NDArray[np.bool_]) -> Mesh:
    """The surface of cubic voxels bool [R, R, R] in the unit box, as sharp as they are."""
    vertices, faces, _, _ = marching_cubes(np.pad(inside, 1).astype(np.float32), 0.5, gradient_direction="ascent")
    return (vertices - 0.5) / len(inside) - 0.5, faces.astype(np.int64)


def test_stairs_of_a_cone_melt_and_its_flat_top_and_place_stay() -> None:
    x, y, z = np.stack(np.meshgrid(*[(np.arange(32) + 0.5) / 32 - 0.5] * 3, indexing="ij"))
    vertices, faces = stairs_of((np.hypot(x, y) < 0.25 - 0.3 * z) & (np.abs(z) < 0.4))
    smooth = without_stairs(vertices, faces, 1 / 32)
    assert np.abs(smooth - vertices).max() < 0.5 / 32
    up = np.array([1.0, 1.0, 0.3]) / np.hypot(1, 0.3)

    def off(points: NDArray[np.floating]) -> float:
        """Mean angle of the normals to the cone's, degrees, away from its ends."""
        mesh = trimesh.Trimesh(points, faces, process=False)
        middles = mesh.triangles_center
        side = np.abs(middles[:, 2]) < 0.3
        outwards = middles[side] * [1, 1, 0]
        outwards /= np.linalg.norm(outwards, axis=1)[:, None]
        normals = outwards * up[0] + [0, 0, up[2]]
        cosine = (mesh.face_normals[side] * normals).sum(axis=1).clip(-1, 1)
        return float(np.average(np.degrees(np.arccos(cosine)), weights=mesh.area_faces[side]))

    assert off(smooth) < 0.5 * off(vertices)
    before, after = (trimesh.Trimesh(points, faces, process=False) for points in (vertices, smooth))
    assert after.volume == pytest.approx(before.volume, rel=0.1)
    middles = after.triangles_center
    top = after.face_normals[(middles[:, 2] > 0.3) & (np.hypot(*middles[:, :2].T) < 2 / 32)]
    assert len(top) and top[:, 2].mean() > 0.9


def test_thin_parts_stay_when_stairs_melt() -> None:
    inside = np.zeros((32, 32, 32), dtype=bool)
    inside[15:17, 15:17, 4:28] = True
    vertices, faces = stairs_of(inside)
    before, after = (
        trimesh.Trimesh(points, faces, process=False) for points in (vertices, without_stairs(vertices, faces, 1 / 32))
    )
    assert after.volume > 0.5 * before.volume
    assert np.abs(after.bounds - before.bounds).max() < 0.5 / 32


def test_voxels_keep_what_they_were_when_bumps_melt() -> None:
    points = np.stack(np.meshgrid(*[np.arange(129) / 128 - 0.5] * 3, indexing="ij"), axis=-1)
    slab = np.maximum(np.abs(points @ [0.60, 0.50, 0.62]) - 0.04, np.linalg.norm(points, axis=-1) - 0.4)
    bumps = ndimage.zoom(np.random.default_rng(0).normal(0, 0.3 / 32, (33, 33, 33)), 129 / 33, order=1)
    vertices, faces, _, _ = marching_cubes(-(slab + bumps), 0.0, gradient_direction="descent")
    vertices = vertices / 128 - 0.5
    before, after = (
        voxelise(trimesh.Trimesh(at, faces, process=False))
        for at in (vertices, without_stairs(vertices, faces, 1 / 32))
    )
    assert before.sum() > 1000
    assert (before != after).sum() < 0.012 * before.sum()  # 0.024 where vertices may pass the middles of voxels


def covered(mesh: UnwrappedMesh, size: int = 512) -> NDArray[np.int32]:
    """How many faces cover each texel's middle, [size, size]."""
    count = np.zeros((size, size), dtype=np.int32)
    shift = 8
    for triangle in np.rint((mesh.uv[mesh.faces] * size - 0.5) * (1 << shift)).astype(np.int32):
        low, high = (triangle.min(0) >> shift), (triangle.max(0) >> shift) + 2
        canvas = np.zeros((*(high - low)[::-1],), dtype=np.uint8)
        grown = np.zeros_like(canvas)
        cv2.fillConvexPoly(grown, triangle - (low << shift), 1, cv2.LINE_8, shift)
        canvas[1:-1, 1:-1] = cv2.erode(np.pad(grown, 1), np.ones((3, 3), np.uint8))[2:-2, 2:-2]
        left, top = np.maximum(low, 0)
        window = count[top : high[1], left : high[0]]
        window += canvas[top - low[1] :, left - low[0] :][: window.shape[0], : window.shape[1]]
    return count


def ramp() -> Mesh:
    """A strip that winds up twice around the z axis: seen from above, half of it lies under the other half."""
    turn, radius = np.linspace(0, 4 * np.pi, 81)[:, None], np.linspace(0.2, 0.45, 6)
    vertices = np.stack([radius * np.cos(turn), radius * np.sin(turn), 0.03 * turn + 0 * radius], axis=-1)
    index = np.arange(81 * 6).reshape(81, 6)
    quads = np.stack([index[:-1, :-1], index[:-1, 1:], index[1:, 1:], index[1:, :-1]], axis=-1).reshape(-1, 4)
    return vertices.reshape(-1, 3), np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])


@pytest.mark.parametrize("shape", ["balls", "ramp"])
def test_charts_hold_every_face_once_and_do_not_overlap(shape: str) -> None:
    vertices, faces = ramp() if shape == "ramp" else together(ball(0.4, 3), ball(0.3, 3))
    mesh = unwrap(vertices, faces)
    np.testing.assert_array_equal(mesh.source[mesh.faces], faces)
    np.testing.assert_array_equal(mesh.vertices, vertices[mesh.source].astype(np.float32))
    assert (mesh.uv >= 0).all() and (mesh.uv <= 1).all() and len(mesh.vertices) < 2 * len(vertices)
    corners = mesh.uv[mesh.faces]
    areas = 0.5 * np.abs(_cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]))
    texels = areas / trimesh.Trimesh(vertices, faces, process=False).area_faces
    assert areas.sum() > 0.3 and texels.min() > 0.3 * np.median(texels)
    assert not (covered(mesh) > 1).any()


def _cross(a: NDArray[np.floating], b: NDArray[np.floating]) -> NDArray[np.floating]:
    return a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]


def test_a_raw_mesh_becomes_one_ready_for_texture() -> None:
    mesh = finish_mesh(raw(together(ball(0.4, 5), ball(0.3, 4))), np.array([[-0.4] * 3, [0.4] * 3]))
    assert 0.7 * FEWEST_FACES < len(mesh.faces) < FEWEST_FACES and (np.abs(mesh.uv - 0.5) <= 0.5).all()
    assert np.linalg.norm(mesh.vertices, axis=1) == pytest.approx(0.4, abs=0.01)


@pytest.mark.parametrize("count", [40])
def test_the_eyes_are_those_of_the_published_views(count: int) -> None:
    looking = eyes(count)
    assert np.linalg.norm(looking, axis=1) == pytest.approx(2)
    assert looking[0] == pytest.approx([0, 0, -2]) and np.abs(looking.mean(axis=0)).max() < 0.1


@pytest.mark.parametrize(
    ("broken", "reason"),
    [("empty", "no faces"), ("nan", "not numbers"), ("crumbs", "1500 pieces"), ("far", "along z"), ("small", "box")],
)
def test_the_gate_says_what_is_wrong(broken: str, reason: str) -> None:
    vertices, faces = ball(0.4, 3)
    box = np.array([[-0.4] * 3, [0.4] * 3])
    if broken == "empty":
        faces = faces[:0]
    elif broken == "nan":
        vertices[3] = np.nan
    elif broken == "crumbs":
        crumb = np.array([[0, 0, 0], [1e-3, 0, 0], [0, 1e-3, 0]])
        places = np.random.default_rng(0).uniform(-0.4, 0.4, (1500, 1, 3))
        vertices, faces = (places + crumb).reshape(-1, 3), np.arange(4500).reshape(-1, 3)
    elif broken == "far":
        vertices[:, 2] += 0.15
    else:
        vertices *= 0.5
    with pytest.raises(UnusableMesh, match=reason):
        check_shape(vertices, faces, box)
    with pytest.raises(UnusableMesh):
        finish_mesh(raw((vertices, faces)), box)
