"""Meshing: sparse extraction against a dense evaluation of the same formulas, and each step of finishing an asset.

Both extractions run in processes of their own, one after the other on one thread, on the fields of a sphere at 256^3
as a decoder leaves them: set in the voxels of the surface only, which gives an inner surface too. The asset is a chair
whose fields are made the same way, simplified to 40,000 faces.
"""

from __future__ import annotations

import multiprocessing
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from benchmark.dense_flexicubes import extract_dense
from benchmark.texture_truth import painted_objects, true_fields
from scenegen.generator.latents.fields import GridFields
from scenegen.generator.meshing.edges import Floats, Ints, keep_faces
from scenegen.generator.meshing.flexicubes import extract
from scenegen.generator.meshing.gate import check_shape
from scenegen.generator.meshing.hidden_faces import hidden_faces
from scenegen.generator.meshing.holes import boundary_loops, fill_holes
from scenegen.generator.meshing.simplify import simplify
from scenegen.generator.meshing.tables import CORNERS
from scenegen.generator.meshing.unwrap import unwrap
from scenegen.generator.meshing.visibility import visibility

_FACES = 40_000
_RADIUS = 0.4
_VOXEL = 4
"""Fine voxels along an edge of a voxel of the structure."""


@dataclass(frozen=True)
class Extraction:
    """One way of extracting.

    seconds: of the processor. peak_bytes: most memory of its process while it ran, its input of input_bytes included.
    """

    seconds: float
    peak_bytes: int
    input_bytes: int
    faces: int


def rows(resolution: int = 256, repeats: int = 3) -> list[tuple[str, str]]:
    """For the table. resolution: of the sphere's grid."""
    sparse, dense = (_alone(_extraction, way, resolution, repeats) for way in ("sparse", "dense"))
    assert sparse.faces == dense.faces
    return [
        (
            f"sparse extraction of a sphere, {resolution}^3, {sparse.faces} faces",
            f"{dense.seconds / sparse.seconds:.1f} times as fast as dense "
            f"({dense.seconds:.2f} -> {sparse.seconds:.2f} s of one core)",
        ),
        (
            f"its memory at most, of which input {sparse.input_bytes / 1e6:.0f} MB",
            f"{sparse.peak_bytes / 1e6:.0f} MB, dense {dense.peak_bytes / 1e6:.0f} MB",
        ),
        *_finishing(repeats),
    ]


def sphere_fields(resolution: int) -> GridFields:
    """A ball's fields with random weights, displacements and colours, set in the structure's voxels at its surface."""
    coarse = resolution // _VOXEL
    centre = (np.arange(coarse) + 0.5) / coarse - 0.5
    x, y, z = np.meshgrid(centre, centre, centre, indexing="ij")
    near = np.argwhere(np.abs(np.sqrt(x * x + y * y + z * z) - _RADIUS) < 0.9 / coarse)
    children = np.argwhere(np.ones((_VOXEL,) * 3, dtype=bool))
    voxels = (near[:, None] * _VOXEL + children).reshape(-1, 3)
    features = 0.3 * np.random.default_rng(0).standard_normal((len(voxels), 101), dtype=np.float32)
    for corner, offset in enumerate(CORNERS):
        features[:, corner] = np.linalg.norm((voxels + offset) / resolution - 0.5, axis=1) - _RADIUS
    return GridFields(torch.from_numpy(voxels), torch.from_numpy(features), resolution)


def _extraction(way: str, resolution: int, repeats: int) -> Extraction:
    torch.set_num_threads(1)
    fields = sphere_fields(resolution)
    seconds = []
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    for _ in range(repeats if way == "sparse" else 1):
        began_s = time.process_time()
        faces = len(extract(fields).faces) if way == "sparse" else len(extract_dense(fields)[1])
        seconds.append(time.process_time() - began_s)
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert peak is not None
    return Extraction(median(seconds), 1024 * int(peak[1]), 4 * fields.features.numel(), faces)


def _alone(task: Callable[..., Any], *arguments: object) -> Any:
    """What a task returns in a new process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(task, arguments)


def _finishing(repeats: int) -> list[tuple[str, str]]:
    raw = extract(true_fields(painted_objects(("chair",))[0]))
    box = np.stack([raw.vertices.min(0), raw.vertices.max(0)])
    taken: dict[str, list[float]] = {}

    def timed(step: str, function: Callable[..., Any], *arguments: object) -> Any:
        began_s = time.perf_counter()
        result = function(*arguments)
        taken.setdefault(step, []).append(time.perf_counter() - began_s)
        return result

    for _ in range(repeats):
        vertices, faces = timed("simplification", simplify, raw.vertices, raw.faces, _FACES)
        seen = timed("visibility", visibility, vertices, faces)
        removed = timed("hidden faces", hidden_faces, vertices, faces, seen)
        kept = (vertices, faces) if removed is None else keep_faces(vertices, faces, ~removed)
        holed = _pierced(*kept)
        vertices, faces = timed("holes", fill_holes, *holed)
        timed("gate", check_shape, vertices, faces, box)
        mesh = timed("unwrapping", unwrap, vertices, faces)
    best = {step: min(seconds) for step, seconds in taken.items()}
    loops = sorted(len(loop) for loop in boundary_loops(holed[1]))
    return [
        (f"simplification of a chair, {len(raw.faces)} to {_FACES} faces", f"{best['simplification']:.2f} s"),
        (f"visibility of {_FACES} faces", f"{best['visibility']:.2f} s"),
        (f"hidden faces: {0 if removed is None else int(removed.sum())} of them", f"{best['hidden faces']:.2f} s"),
        (f"{len(loops)} holes of {loops[0]} to {loops[-1]} edges filled", f"{best['holes']:.2f} s"),
        (f"gate and unwrapping of {len(mesh.faces)} faces", f"{best['gate'] + best['unwrapping']:.2f} s"),
        ("an asset's mesh in total", f"{sum(best.values()):.2f} s"),
    ]


def _pierced(vertices: Floats, faces: Ints, holes: int = 10) -> tuple[Floats, Ints]:
    """The mesh without the faces around some of its vertices: holes of a size that is filled."""
    middles = vertices[faces].mean(axis=1)
    for face in np.random.default_rng(0).choice(len(faces), holes, replace=False):
        near = np.linalg.norm(middles - middles[face], axis=1) < 0.015
        faces, middles = faces[~near], middles[~near]
    return vertices, faces


if __name__ == "__main__":
    for what, figure in rows():
        print(f"{what:70s} {figure}")
