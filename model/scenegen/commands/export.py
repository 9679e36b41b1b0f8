"""`scenegen export`: a scene on disk as files for a simulator or a planner."""

from __future__ import annotations

import argparse
from pathlib import Path

from scenegen.export import FORMATS, NO_PHYSICS, check_free, read_bodies, usd, write_bodies


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    p = commands.add_parser("export", help="write a scene for a simulator or a planner")
    p.add_argument("scene", metavar="SCENE_DIR", type=Path, help="a folder that `scenegen generate` or the node wrote")
    p.add_argument("--format", required=True, choices=[*FORMATS, "all"], help="all: each into a folder of its own")
    p.add_argument("--out", required=True, type=Path, metavar="DIR", help="a new or empty folder")
    p.add_argument(
        "--scale", type=float, metavar="METRES", help="the query asset's longest side, for a scene that is not metric"
    )
    p.add_argument(
        "--level", action="store_true", help="turn a scene in a camera's frame so that its objects stand upright"
    )
    p.add_argument("--settled", action="store_true", help="with the poses that `scenegen settle` found")
    p.add_argument("--no-floor", action="store_true", help="leave out the static slab under the lowest point")
    p.add_argument(
        "--collision", choices=usd.COLLISIONS, default="pieces", help="USD: what collides (default: convex pieces)"
    )
    p.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    check_free(args.out)
    cut = args.format not in NO_PHYSICS
    scene = read_bodies(
        args.scene, scale_m=args.scale, level=args.level, floor=not args.no_floor, cut=cut, settled=args.settled
    )
    for body in scene.bodies if cut else ():
        print(
            f"{body.name} {body.label}: {body.physics.mass_kg:.3g} kg at {body.physics.density:g} kg/m^3 (volume by "
            f"{body.physics.source}), {len(body.pieces)} convex pieces ({body.pieces_from})"
        )
    for format in FORMATS if args.format == "all" else [args.format]:
        writer = usd.writer(args.collision) if format == "usd" else None
        print(write_bodies(scene, format, args.out / format if args.format == "all" else args.out, writer))
    return 0
