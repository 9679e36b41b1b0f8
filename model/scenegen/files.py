"""Scenes on disk: `<root>/<scene id>/{scene.glb, objects/<id>.glb, scene.json}`, whole or not there at all.

A scene is written under a temporary name beside its place and renamed when every byte is on the disk. A preliminary
scene, whose textured meshes are still being made, has `objects/<id>.coarse.glb`; these stay when it is refined, for
readers that hold on to them. GLB files are y-up; scene.json is z-up. Knows nothing about ROS, markers or how a scene
was made.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scenegen.glb import mesh_from_glb, mesh_to_glb, meshes_to_glb
from scenegen.scene import Asset, Floats, InvalidInput, PlacedObject, Scene, View
from scenegen.scene_json import (
    FORMAT,
    camera_entry,
    mesh_name,
    placed_object_of,
    placement_of,
    pose_entry,
    scene_entries,
)

_UNFINISHED = ".unfinished-"
_UNFINISHED_AGE_S = 3600.0
_SCENE_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")


class SceneNotStored(Exception):
    """The scene could not be written; nothing of it is left on the disk. The message says what to do."""


def new_scene_id(stamp_ns: int | None = None) -> str:
    """A name for a scene that sorts by time and is not used twice: RViz caches meshes by their URI (spec/ros.md 5)."""
    now_ns = time.time_ns()
    day = time.strftime("%Y%m%d-%H%M%S", time.gmtime((now_ns if stamp_ns is None else stamp_ns) / 1e9))
    return f"{day}-{now_ns % 10**9:09d}-{os.urandom(3).hex()}"


def require_writable(folder: str | Path) -> None:
    """Raise SceneNotStored when a folder cannot be written to, or made where it is to be; asked before long work.

    Nothing is made.
    """
    folder = Path(folder).expanduser().absolute()
    try:
        with tempfile.TemporaryFile(dir=next(path for path in (folder, *folder.parents) if path.exists())):
            pass
    except OSError as error:
        raise SceneNotStored(f"cannot write to {folder}: {_reason(error, folder)}") from error


def write_scene(
    root: str | Path,
    scene: Scene,
    placed: Sequence[PlacedObject] | None,
    *,
    scene_id: str,
    views: Sequence[View] | None = None,
    frame_id: str = "",
    stamp_ns: int = 0,
    preliminary: bool = False,
) -> Path:
    """Write a scene and return its folder, once all of it is on the disk.

    placed: in the order of scene.assets; without it the scene stands in the query asset's frame, not metric.
    views: their cameras are recorded, so that the scene can be drawn from where it was seen. frame_id, stamp_ns: the
    frame of T_world_object and the capture time. preliminary: refine_scene is to follow. InvalidInput on a bad or used
    scene_id; SceneNotStored when the disk refuses (full, read-only, gone).
    """
    root = Path(root).expanduser().absolute()
    if not _SCENE_ID.fullmatch(scene_id):
        raise InvalidInput(f"scene id {scene_id!r} must be letters, digits, '_', '.' or '-', at most 100 of them")
    folder, unfinished = root / scene_id, root / f"{_UNFINISHED}{scene_id}-{os.getpid()}"
    if folder.exists():
        raise InvalidInput(f"{folder} is there already: every scene needs an id of its own")
    try:
        root.mkdir(parents=True, exist_ok=True)
        _remove_unfinished(root)
        (unfinished / "objects").mkdir(parents=True)
        for asset in scene.assets:
            _write(unfinished / mesh_name(asset.id, preliminary), mesh_to_glb(asset.mesh))
        _write(unfinished / "scene.glb", _whole_glb(scene, placed))
        description = {
            "format": FORMAT,
            "id": scene_id,
            "frame_id": frame_id,
            "stamp_ns": int(stamp_ns),
            "views": [camera_entry(view) for view in views or ()],
        }
        description |= scene_entries(scene, placed, preliminary)
        _write(unfinished / "scene.json", _json(description))
        _sync_folder(unfinished / "objects")
        _sync_folder(unfinished)
        unfinished.rename(folder)
        _sync_folder(root)
    except OSError as error:
        raise SceneNotStored(f"cannot write scene {scene_id} to {root}: {_reason(error, root)}") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def refine_scene(folder: Path, scene: Scene, placed: Sequence[PlacedObject] | None) -> None:
    """Give a preliminary scene on disk its final meshes, under names of their own. scene.json turns last, and at once.

    Whenever this ends, the folder holds a whole scene: the preliminary one when it raises. placed: as in write_scene.
    InvalidInput when folder holds no scene; SceneNotStored when the disk refuses.
    """
    meta = _read_meta(folder)
    meta.pop("settled", None)  # by the shapes that now go
    files = {mesh_name(asset.id): mesh_to_glb(asset.mesh) for asset in scene.assets}
    files["scene.glb"] = _whole_glb(scene, placed)
    files["scene.json"] = _json(meta | scene_entries(scene, placed, preliminary=False))
    try:
        _replace(folder, files)
    except OSError as error:
        raise SceneNotStored(f"cannot refine {folder}: {_reason(error, folder)}") from error


def write_settled(folder: Path, poses: Mapping[int, Floats], about: Mapping[str, Any]) -> None:
    """Add settled poses to a scene on disk, beside the measured ones, or replace those of an earlier settling.

    poses: T_world_object float64 [4, 4] by id, rigid, metres, z up: `settled` of each object. about: what they were
    settled with, in JSON's types: `settled` of the scene. InvalidInput when folder holds no scene or one with other
    ids; SceneNotStored when the disk refuses.
    """
    meta = _read_meta(folder)
    if {entry["id"] for entry in meta["objects"]} != set(poses):
        raise InvalidInput(f"{folder} has changed while it was being settled: settle it again")
    for entry in meta["objects"]:
        entry["settled"] = pose_entry(poses[entry["id"]])
    try:
        _replace(folder, {"scene.json": _json(meta | {"settled": dict(about)})})
    except OSError as error:
        raise SceneNotStored(f"cannot write to {folder}: {_reason(error, folder)}") from error


def read_scene(folder: str | Path) -> tuple[Scene, tuple[PlacedObject, ...] | None, dict[str, Any]]:
    """A scene that write_scene wrote: the scene, its placed objects (None if it had none), and scene.json itself.

    InvalidInput naming the file when something is missing or damaged.
    """
    folder = Path(folder)
    try:
        meta = _read_meta(folder)
        assets, placements, placed = [], [], []
        for entry in meta["objects"]:
            mesh_file = folder / mesh_name(int(entry["id"]), meta.get("preliminary", False))
            mesh = mesh_from_glb(mesh_file.read_bytes(), str(mesh_file))
            assets.append(Asset(int(entry["id"]), entry["label"], mesh, entry["detail"]))
            placements.append(placement_of(entry["placement"]))
            if meta["placed"]:
                placed.append(placed_object_of(entry, assets[-1]))
        scene = Scene(tuple(assets), tuple(placements), meta["query"], meta["seconds"])
    except InvalidInput:
        raise
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise _damaged(folder, error) from error
    return scene, tuple(placed) if meta["placed"] else None, meta


def list_scenes(root: str | Path) -> list[Path]:
    """Folders of the finished scenes under root, the newest first; empty when root is not there."""
    root = Path(root).expanduser().absolute()
    if not root.is_dir():
        return []
    scenes = [path for path in root.iterdir() if _SCENE_ID.fullmatch(path.name) and (path / "scene.json").is_file()]
    return sorted(scenes, key=lambda path: ((path / "scene.json").stat().st_mtime_ns, path.name), reverse=True)


def _read_meta(folder: Path) -> dict[str, Any]:
    try:
        meta: dict[str, Any] = json.loads((folder / "scene.json").read_bytes())
        if meta["format"] != FORMAT:
            raise InvalidInput(f"{folder} has format {meta['format']}, this version reads {FORMAT}: write it again")
    except InvalidInput:
        raise
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InvalidInput(
            f"{folder} is not a readable scene (no scene.json): give one that `scenegen generate` or the node wrote"
        ) from error
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise _damaged(folder, error) from error
    return meta


def _damaged(folder: Path, error: Exception) -> InvalidInput:
    return InvalidInput(f"{folder} is not a readable scene ({error!r}): it is incomplete or damaged")


def _T_world_asset(scene: Scene, placed: Sequence[PlacedObject] | None, i: int) -> Floats:
    """Asset units to world, scale included: float64 [4, 4]."""
    return scene.T_query_asset(i) if placed is None else placed[i].T_world_asset


def _whole_glb(scene: Scene, placed: Sequence[PlacedObject] | None) -> bytes:
    poses = [_T_world_asset(scene, placed, i) for i in range(len(scene.assets))]
    return meshes_to_glb({f"object_{asset.id}": (asset.mesh, T) for asset, T in zip(scene.assets, poses, strict=True)})


def _json(description: Mapping[str, Any]) -> bytes:
    return json.dumps(description, indent=1, allow_nan=False).encode()


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _replace(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files of a scene's folder, by name, and let them take their places in this order once all are written."""
    parts = {folder / name: folder / f"{name}.part" for name in files}
    try:
        for part, data in zip(parts.values(), files.values(), strict=True):
            _write(part, data)
        for place, part in parts.items():
            part.replace(place)
        _sync_folder(folder / "objects")
        _sync_folder(folder)
    finally:
        for part in parts.values():
            part.unlink(missing_ok=True)


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_unfinished(root: Path) -> None:
    """Clear away what a process left that died while writing; no write that is still alive is an hour old."""
    for path in root.glob(f"{_UNFINISHED}*"):
        if time.time() - path.stat().st_mtime > _UNFINISHED_AGE_S:
            shutil.rmtree(path, ignore_errors=True)


def _reason(error: OSError, root: Path) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full ({error.strerror}). Free some space or choose another folder"
    return f"{error.strerror or error}. Choose a folder that can be written"
