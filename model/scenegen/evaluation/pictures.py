"""The contact sheet: best, median and worst scene, generated beside true. Knows how to draw, not how to judge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import trimesh
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from scenegen.evaluation.benchmark import SceneResult
from scenegen.evaluation.metrics import SCENE_HALF_SIDE
from scenegen.render import Camera, Renderer, Surface, look_at
from scenegen.scene import Floats, Scene

Picture = NDArray[np.uint8]

_TILE_WIDTH = 420
_LABEL_HEIGHT = 22


def best_median_worst(values: Mapping[str, float]) -> dict[str, str]:
    """Keys of the highest, middle and lowest value, under "best", "median" and "worst"."""
    order = sorted(values, key=lambda key: -values[key])
    return {"best": order[0], "median": order[len(order) // 2], "worst": order[-1]}


def write_contact_sheet(path: Path, rows: Mapping[str, Sequence[Picture]]) -> None:
    """Rows of pictures uint8 [H, W, 3], each under its label, as a PNG."""
    strips = []
    for label, pictures in rows.items():
        tiles = [Image.fromarray(picture) for picture in pictures]
        height = max(round(tile.height * _TILE_WIDTH / tile.width) for tile in tiles)
        strip = Image.new("RGB", (_TILE_WIDTH * len(tiles), height + _LABEL_HEIGHT), "white")
        for i, tile in enumerate(tiles):
            size = (_TILE_WIDTH, round(tile.height * _TILE_WIDTH / tile.width))
            strip.paste(tile.resize(size), (i * _TILE_WIDTH, _LABEL_HEIGHT))
        ImageDraw.Draw(strip).text((6, 4), label, fill="black")
        strips.append(np.asarray(strip))
    width = max(strip.shape[1] for strip in strips)
    padded = [np.pad(s, ((0, 0), (0, width - s.shape[1]), (0, 0)), constant_values=255) for s in strips]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(padded)).save(path)


def draw_from_camera(result: SceneResult) -> list[Picture]:
    """Input image, truth, and what was generated, the last two drawn from the first view's camera."""
    question = result.question
    view = question.views[0]
    assert view.intrinsics is not None and view.T_world_camera is not None
    camera = Camera(view.image.shape[1], view.image.shape[0], view.intrinsics)
    query = question.truth.query
    made = question.ids[query] - 1
    T_world_query = question.made.T_world_object[made].copy()
    T_world_query[:3, :3] *= question.made.size_m[made]
    pictures = [view.image, _draw(question.truth, T_world_query, camera, view.T_world_camera)]
    if result.answer is not None:
        # the query of the answer may be another asset; the turn is one that leaves the true query as it is
        T_query_generated = np.linalg.inv(result.T_turn) @ np.linalg.inv(result.answer.T_query_asset(query))
        pictures.append(_draw(result.answer, T_world_query @ T_query_generated, camera, view.T_world_camera))
    return pictures


def draw_normalised(meshes: Sequence[trimesh.Trimesh]) -> Picture:
    """A scene of z-up meshes, centred and scaled, seen from the front, a little above."""
    bounds = np.stack([mesh.bounds for mesh in meshes])
    low, high = bounds[:, 0].min(0), bounds[:, 1].max(0)
    scale = 2 * SCENE_HALF_SIDE / float((high - low).max())
    T = np.diag([scale, scale, scale, 1.0])
    T[:3, 3] = -scale * (low + high) / 2
    renderer = Renderer([Surface.from_mesh(mesh) for mesh in meshes], [T] * len(meshes))
    eye = np.array([1.5, -3.0, 1.9])
    picture, _, _ = renderer.render(Camera.pinhole(480, 480, 600.0), look_at(eye, np.zeros(3)))
    return picture


def _draw(scene: Scene, T_world_query: Floats, camera: Camera, T_world_camera: Floats) -> Picture:
    renderer = Renderer(
        [Surface.from_mesh(asset.mesh) for asset in scene.assets],
        [T_world_query @ scene.T_query_asset(i) for i in range(len(scene.assets))],
    )
    return renderer.render(camera, T_world_camera)[0]
