"""Stored scenes as files for simulators and planners: GLB, USD, Habitat, MuJoCo, URDF, SDFormat.

One reader (bodies.py) gives every writer the same objects in metres with poses, convex pieces, masses and inertias; a
writer knows its format only. Knows nothing about torch, ROS, or how a scene was made.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scenegen.export import glb, habitat, mujoco, sdf, urdf, usd
from scenegen.export.bodies import Bodies, Body, Floor, read_bodies
from scenegen.files import SceneNotStored
from scenegen.scene import InvalidInput

Writer = Callable[[Bodies, Path], Path]
FORMATS: dict[str, Writer] = {
    "glb": glb.write,
    "usd": usd.write,
    "habitat": habitat.write,
    "mujoco": mujoco.write,
    "urdf": urdf.write,
    "sdf": sdf.write,
}
"""Name -> what writes a scene into an empty folder and returns the file to open."""
NO_PHYSICS = frozenset({"glb"})
"""Formats for which nothing need be cut into convex pieces."""
__all__ = ["FORMATS", "NO_PHYSICS", "Bodies", "Body", "Floor", "Writer", "export_scene", "read_bodies", "write_bodies"]


def export_scene(
    folder: str | Path,
    format: str,
    out: str | Path,
    *,
    scale_m: float | None = None,
    level: bool = False,
    floor: bool = True,
    settled: bool = False,
) -> Path:
    """Write the scene of a folder into another, new or empty, which appears whole or not at all.

    scale_m, level, floor, settled: as read_bodies. Returns the file to open; export.json beside it says what was
    assumed.
    InvalidInput on an unknown format, a folder that is in use, a scene that cannot be read or is not metric.
    SceneNotStored when the disk refuses.
    """
    check_format(format)
    check_free(Path(out))
    cut = format not in NO_PHYSICS
    scene = read_bodies(folder, scale_m=scale_m, level=level, floor=floor, cut=cut, settled=settled)
    return write_bodies(scene, format, out)


def write_bodies(scene: Bodies, format: str, out: str | Path, writer: Writer | None = None) -> Path:
    """Write a scene that was read. writer: in place of the format's own, with options of its own."""
    check_format(format)
    out = Path(out).expanduser().absolute()
    check_free(out)
    unfinished = out.with_name(f".unfinished-{out.name}-{os.getpid()}")
    try:
        unfinished.mkdir(parents=True)
        main = (writer or FORMATS[format])(scene, unfinished)
        (unfinished / "export.json").write_text(json.dumps(_describe(scene, format, main.name), indent=1) + "\n")
        unfinished.replace(out)
    except OSError as error:
        raise SceneNotStored(f"cannot export to {out}: {error.strerror or error}. Choose another folder") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return out / main.name


def check_format(format: str) -> None:
    """InvalidInput when there is no such format."""
    if format not in FORMATS:
        raise InvalidInput(f"there is no format '{format}': choose one of {', '.join(FORMATS)}")


def check_free(out: Path) -> None:
    """InvalidInput when something stands where an export is to go."""
    out = out.expanduser().absolute()
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise InvalidInput(f"{out} is there already and not empty: choose a new folder")


def _describe(scene: Bodies, format: str, main: str) -> dict[str, Any]:
    """What was written and what was assumed. World z-up, metres, wxyz, whatever the format says."""
    return {
        "format": format,
        "file": main,
        "scene": scene.name,
        "frame_id": scene.frame_id,
        "stamp_ns": scene.stamp_ns,
        "settled": scene.settled,
        "floor_z_m": None if scene.floor is None or format in NO_PHYSICS else scene.floor.top_m,
        "objects": [
            {
                "name": body.name,
                "id": body.id,
                "label": body.label,
                "position_m": body.position_m.tolist(),
                "rotation_wxyz": body.rotation.as_quat(scalar_first=True).tolist(),
                "size_m": body.mesh.extents.tolist(),
            }
            | ({} if format in NO_PHYSICS else _describe_physics(body))
            for body in scene.bodies
        ],
    }


def _describe_physics(body: Body) -> dict[str, Any]:
    return {
        "mass_kg": body.physics.mass_kg,
        "density_kg_m3": body.physics.density,
        "volume_from": body.physics.source,
        "convex_pieces": len(body.pieces),
        "convex_pieces_from": body.pieces_from,
    }
