"""How well, and how fast, each way of texturing brings known colours back: `python -m benchmark.texture`.

Synthetic objects, plain and striped, are turned into what perfect decoders would give (texture_truth), extracted,
simplified to 40,000 faces, unwrapped and textured each way at 1024^2, written as GLB, read back and drawn from 8 views
beside the truth. PSNR is of the surfaces' own colours (no light) where either picture shows the object, over a white
background. Writes docs/texture.png; prints the table of docs/texture.md.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from benchmark.texture_truth import GRID, PaintedObject, painted_objects, true_fields, true_gaussians
from scenegen.generator.latents.fields import Gaussians
from scenegen.generator.meshing.extracted import ExtractedMesh
from scenegen.generator.meshing.flexicubes import extract
from scenegen.generator.meshing.simplify import simplify
from scenegen.generator.meshing.unwrap import UnwrappedMesh, unwrap
from scenegen.generator.texture.ways import Way, textured_mesh
from scenegen.glb import mesh_from_glb, mesh_to_glb
from scenegen.render import Camera, Hits, Renderer, Surface, look_at, to_bytes

Floats = NDArray[np.float64]
Floats32 = NDArray[np.float32]
Picture = tuple[Floats32, Floats32]
"""RGB 0..1 [H, W, 3] on white, and which share of a pixel shows the object, [H, W]."""

WAYS: tuple[Way, ...] = get_args(Way)
FAMILIES = ("bottle", "chair")
_FACES = 40_000
_VIEWS = 8
_CAMERA = Camera.pinhole(512, 512, 720.0)
_SAMPLES = 2
"""Rays per pixel along either axis."""
_SHOWN = (112, 60, 416, 490)
"""Left, top, right, bottom of what is kept of a picture for the documentation."""
_PICTURE = Path(__file__).resolve().parents[1] / "docs" / "texture.png"


@dataclass(frozen=True)
class Prepared:
    """An object with all that texturing it takes."""

    painted: PaintedObject
    extracted: ExtractedMesh
    gaussians: Gaussians
    mesh: UnwrappedMesh

    @cached_property
    def truth(self) -> list[Picture]:
        """The true colours, asked for where each ray meets the surface as it was extracted."""
        return self._in_true_colours(self.extracted.vertices[self.extracted.faces])

    @cached_property
    def best_db(self) -> float:
        """What a perfect texture on the simplified mesh would reach: the rest is lost to its shape."""
        return self.psnr_db(self._in_true_colours(self.mesh.vertices[self.mesh.faces]))

    def psnr_db(self, pictures: Sequence[Picture]) -> float:
        """Of pictures of the views against the truth, where either shows the object."""
        error, area = 0.0, 0.0
        for (picture, shown), (truth, shown_truth) in zip(pictures, self.truth, strict=True):
            on = np.maximum(shown, shown_truth) > 0
            error += float(((picture - truth)[on] ** 2).mean(-1).sum())
            area += float(on.sum())
        return float(-10 * np.log10(error / area))

    def _in_true_colours(self, corners: Floats32) -> list[Picture]:
        renderer = Renderer([Surface(corners, np.zeros_like(corners), corners)], [np.eye(4)])

        def colours(hits: Hits, pixels: NDArray[np.intp]) -> Floats32:
            points = hits.points(pixels, hits.depth_m.reshape(-1)[pixels])
            return self.painted.colour(points.astype(np.float64)).astype(np.float32)

        return [_picture(renderer, T, colours) for T in _around()]


@dataclass(frozen=True)
class Result:
    """Of one object and way. psnr_db: over all views. seconds: of processor time. picture: of one view, uint8."""

    psnr_db: float
    seconds: float
    picture: NDArray[np.uint8]


def prepare(painted: PaintedObject) -> Prepared:
    """Decoder outputs of an object, and its mesh. The inner side of the voxel shell is known here, and left out."""
    extracted = extract(true_fields(painted))
    shown = np.abs(painted.shape.sdf(extracted.vertices.astype(np.float64))) < 1.2 / GRID
    number = np.cumsum(shown) - 1
    faces = number[extracted.faces[shown[extracted.faces].all(1)]]
    extracted = ExtractedMesh(extracted.vertices[shown], faces, extracted.attributes[shown])
    gaussians = true_gaussians(painted, np.random.default_rng(0))
    return Prepared(painted, extracted, gaussians, unwrap(*simplify(extracted.vertices, extracted.faces, _FACES)))


def measure(prepared: Prepared, way: Way) -> Result:
    """Textures an object one way, there and back through a file, and compares it with the truth."""
    began_s = time.process_time()
    mesh = textured_mesh(prepared.mesh, prepared.extracted, prepared.gaussians, way=way)
    seconds = time.process_time() - began_s
    renderer = Renderer([Surface.from_mesh(mesh_from_glb(mesh_to_glb(mesh)))], [np.eye(4)])
    pictures = [_picture(renderer, T, renderer.base_colours) for T in _around()]
    return Result(prepared.psnr_db(pictures), seconds, to_bytes(pictures[1][0]))


def _around() -> list[Floats]:
    """T_world_camera of the views, around the unit box, in turn from below and from above."""
    turns = 0.4 + np.arange(_VIEWS) * (2 * np.pi / _VIEWS)
    heights = np.where(np.arange(_VIEWS) % 2, 1.0, -0.5)
    return [
        look_at(np.array([1.7 * np.cos(t), 1.7 * np.sin(t), h]), np.zeros(3))
        for t, h in zip(turns, heights, strict=True)
    ]


def _picture(renderer: Renderer, T: Floats, colours: Callable[[Hits, NDArray[np.intp]], Floats32]) -> Picture:
    hits = renderer.cast(_CAMERA.finer(_SAMPLES), T)
    met = np.flatnonzero(hits.instance)
    layers = np.concatenate([np.ones((*hits.instance.shape, 3)), np.zeros((*hits.instance.shape, 1))], axis=2)
    layers = layers.astype(np.float32).reshape(-1, 4)
    layers[met, :3], layers[met, 3] = colours(hits, met), 1
    layers = layers.reshape(_CAMERA.height, _SAMPLES, _CAMERA.width, _SAMPLES, 4).mean((1, 3))
    return layers[..., :3], layers[..., 3]


def draw(path: Path, rows: Sequence[tuple[Prepared, dict[Way, Result]]]) -> None:
    """One row per object: the truth, then each way; the middle of the pictures, where the object is."""
    left, top, right, bottom = _SHOWN
    wide, tall, band = right - left, bottom - top, 18
    sheet = Image.new("RGB", (wide * (1 + len(WAYS)), band + tall * len(rows)), "white")
    pen = ImageDraw.Draw(sheet)
    for column, name in enumerate(("truth", *WAYS)):
        pen.text((column * wide + 8, 3), name, fill="black")
    for number, (prepared, results) in enumerate(rows):
        pictures = [to_bytes(prepared.truth[1][0]), *(results[way].picture for way in WAYS)]
        for column, picture in enumerate(pictures):
            sheet.paste(Image.fromarray(picture).crop(_SHOWN), (column * wide, band + number * tall))
    sheet.save(path, optimize=True)


def main() -> None:
    """Prints a line for each object and their medians; --quick takes one object, two ways, and writes nothing."""
    parser = argparse.ArgumentParser(prog="python -m benchmark.texture", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one object, without `rendered`; writes nothing")
    quick: bool = parser.parse_args().quick
    ways = WAYS[:2] if quick else WAYS
    print("| object | best possible, dB | " + " | ".join(f"`{way}`, dB | s | ratio" for way in ways) + " |")
    print("| --- " * (2 + 3 * len(ways)) + "|")
    rows: list[tuple[Prepared, dict[Way, Result]]] = []
    for painted in painted_objects(FAMILIES)[-1:] if quick else painted_objects(FAMILIES):
        prepared = prepare(painted)
        rows.append((prepared, {way: measure(prepared, way) for way in ways}))
        print(_row(painted.name, prepared.best_db, _figures(rows[-1][1])), flush=True)
    figures = np.median([_figures(results) for _, results in rows], axis=0).tolist()
    print(_row("median", float(np.median([prepared.best_db for prepared, _ in rows])), figures))
    if not quick:
        draw(_PICTURE, rows[1::2])


def run(quick: bool) -> list[tuple[str, str]]:
    """For the table of `make benchmark`: one striped object, the ways side by side (without `rendered` if quick)."""
    prepared = prepare(painted_objects(FAMILIES[:1])[1])
    results = {way: measure(prepared, way) for way in (WAYS[:2] if quick else WAYS)}
    return [
        (f"`{way}`", f"{ratio:.1f} times as long as `decoded` ({seconds:.2f} s of processor time), {db:.1f} dB")
        for way, (db, seconds, ratio) in zip(results, _figures(results), strict=True)
    ]


def _figures(results: dict[Way, Result]) -> list[tuple[float, float, float]]:
    least = results["decoded"].seconds
    return [(result.psnr_db, result.seconds, result.seconds / least) for result in results.values()]


def _row(name: str, best_db: float, figures: Sequence[Sequence[float]]) -> str:
    return (
        f"| {name} | {best_db:.1f} | "
        + " | ".join(f"{db:.1f} | {s:.2f} | {ratio:.1f}" for db, s, ratio in figures)
        + " |"
    )


if __name__ == "__main__":
    main()
