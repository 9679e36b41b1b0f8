"""Convex pieces of meshes, for what only collides with convex shapes: cut by coacd, once per mesh.

Pieces are kept on disk by the mesh's hash, for the same scene goes into several formats. What is convex already needs
no cutting: a whole mesh, or closed parts of one, as the seat and the legs of a stool. Knows nothing about units, poses
or file formats.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import trimesh

from scenegen.export.physics import is_solid
from scenegen.scene import Cancelled, InvalidInput

PRESET: dict[str, float] = {
    "threshold": 0.1,
    "max_convex_hull": 16,
    "mcts_nodes": 10,
    "mcts_iterations": 50,
    "resolution": 1000,
    "preprocess_resolution": 30,
}
"""DESIGN section 7: a tenth of the time that coacd's defaults take."""
CONVEX_SHARE = 0.95
"""A solid that fills so much of its convex hull is not cut."""
MOST_PARTS = 16
"""A mesh of more parts is cut as a whole: then they are debris rather than legs."""
LIMIT_S = 300.0
_POLL_S = 0.1
_PROGRAM = Path(__file__).with_name("coacd_process.py")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cut:
    """The pieces of a mesh, in its units. source: "coacd"; or "hull": the convex hull of the mesh, or of each part."""

    pieces: tuple[trimesh.Trimesh, ...]
    source: str


def convex_pieces(
    meshes: Sequence[trimesh.Trimesh],
    processes: int | None = None,
    *,
    cancelled: Callable[[], bool] = lambda: False,
) -> list[Cut]:
    """Each mesh's pieces, in their order, several meshes at a time (as many as there are processors, without a number).

    Where coacd crashes, or takes longer than LIMIT_S, the convex hull stands in and the log says so. InvalidInput when
    coacd is not installed. cancelled: polled all along; ends what runs, with Cancelled. No process outlives the call.
    """
    failed = threading.Event()
    with ThreadPoolExecutor(processes or max(1, len(os.sched_getaffinity(0)))) as pool:
        try:
            return list(pool.map(partial(_cut, cancelled=lambda: failed.is_set() or cancelled()), meshes))
        except BaseException:  # an interrupt among them
            failed.set()
            raise


def check_coacd() -> str:
    """The version of coacd. InvalidInput when it is not installed."""
    try:
        return version("coacd")
    except PackageNotFoundError as error:
        raise InvalidInput("convex pieces are cut by coacd, which is not installed: pip install coacd") from error


def _cut(mesh: trimesh.Trimesh, cancelled: Callable[[], bool]) -> Cut:
    parts = list(mesh.split(only_watertight=False))
    if not 1 < len(parts) <= MOST_PARTS or not all(part.is_volume for part in parts):
        return _cut_part(mesh, cancelled)
    cuts = [_cut_part(part, cancelled) for part in parts]
    source = "coacd" if any(cut.source == "coacd" for cut in cuts) else "hull"
    return Cut(tuple(piece for cut in cuts for piece in cut.pieces), source)


def _cut_part(mesh: trimesh.Trimesh, cancelled: Callable[[], bool]) -> Cut:
    if cancelled():
        raise Cancelled
    hull = mesh.convex_hull
    if is_solid(mesh) and mesh.volume >= CONVEX_SHARE * hull.volume:
        return Cut((hull,), "hull")
    kept = _cache() / f"{_key(mesh)}.npz"
    try:
        if not kept.is_file():
            _log.info("cutting a mesh of %d faces into convex pieces", len(mesh.faces))
            _run(mesh, kept, cancelled)
        return Cut(_read(kept), "coacd")
    except (OSError, ValueError, KeyError, subprocess.SubprocessError) as error:
        _log.warning("a mesh of %d faces could not be cut (%s): its convex hull stands in", len(mesh.faces), error)
        return Cut((hull,), "hull")


def _run(mesh: trimesh.Trimesh, target: Path, cancelled: Callable[[], bool]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        given, made = Path(scratch) / "mesh.npz", Path(scratch) / "pieces.npz"
        np.savez(given, vertices=mesh.vertices, faces=mesh.faces, preset=json.dumps(PRESET))
        environment = os.environ | {"OMP_NUM_THREADS": "1"}  # there is a process per mesh already
        command = [sys.executable, str(_PROGRAM), str(given), str(made)]
        _wait(subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL), cancelled)
        _read(made)
        made.replace(target)


def _wait(process: subprocess.Popen[bytes], cancelled: Callable[[], bool]) -> None:
    """For its good end. subprocess.SubprocessError when it fails or takes too long; Cancelled; then it is killed."""
    began_s = time.monotonic()
    try:
        while (code := process.poll()) is None:
            if cancelled():
                raise Cancelled
            if time.monotonic() - began_s > LIMIT_S:
                raise subprocess.TimeoutExpired(process.args, LIMIT_S)
            with suppress(subprocess.TimeoutExpired):
                process.wait(_POLL_S)
    finally:
        process.kill()
        process.wait()
    if code != 0:
        raise subprocess.CalledProcessError(code, process.args)


def _read(file: Path) -> tuple[trimesh.Trimesh, ...]:
    """Hulls of what coacd gave: the same shapes, closed and with outward normals for certain."""
    with np.load(file) as arrays:
        points = [arrays[f"vertices_{i}"] for i in range(len(arrays.files) // 2)]
    if not points:
        raise ValueError("no pieces")
    return tuple(trimesh.convex.convex_hull(cloud) for cloud in points)


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "scenegen" / "convex"


def _key(mesh: trimesh.Trimesh) -> str:
    digest = hashlib.sha256(json.dumps([check_coacd(), PRESET]).encode())
    digest.update(np.ascontiguousarray(mesh.vertices, "<f8").tobytes())
    digest.update(np.ascontiguousarray(mesh.faces, "<i8").tobytes())
    return digest.hexdigest()
