"""The contact sheet: best, median and worst scene, generated beside true. Knows how to draw, not how to judge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import trimesh
from PIL import Image, ImageDraw

from scenegen.evaluation.images import Picture, draw
from scenegen.evaluation.metrics import scene_normalisation
from scenegen.render import Camera, look_at

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


def draw_normalised(meshes: Sequence[trimesh.Trimesh]) -> Picture:
    """A scene of z-up meshes, centred and scaled, seen from the front, a little above."""
    T = scene_normalisation([mesh.bounds for mesh in meshes])
    eye = np.array([1.5, -3.0, 1.9])
    return draw(meshes, [T] * len(meshes), Camera.pinhole(480, 480, 600.0), look_at(eye, np.zeros(3)))
