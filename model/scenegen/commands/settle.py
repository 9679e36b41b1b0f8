"""`scenegen settle`: the objects of a scene on disk brought to rest, and whether MuJoCo agrees."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from scenegen.export import read_bodies
from scenegen.export.bodies import Bodies
from scenegen.files import write_settled
from scenegen.settle import Drift, Settled, drop, settle


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    p = commands.add_parser("settle", help="bring the objects of a scene to rest, for simulators")
    p.add_argument("scene", metavar="SCENE_DIR", type=Path, help="a folder that `scenegen generate` or the node wrote")
    p.add_argument(
        "--scale", type=float, metavar="METRES", help="the query asset's longest side, for a scene that is not metric"
    )
    p.add_argument(
        "--level", action="store_true", help="turn a scene in a camera's frame so that its objects stand upright"
    )
    p.set_defaults(run=_run)


def settle_folder(
    folder: Path, scale_m: float | None = None, level: bool = False
) -> tuple[Bodies, tuple[Settled, ...], tuple[Drift, ...], tuple[Drift, ...]]:
    """Settle a scene on disk: settled poses and what was done stand in its scene.json, beside the measured poses.

    Returns the settled scene, what was done to each object, and how far each drifts in MuJoCo as measured and settled.
    InvalidInput as read_bodies, and when mujoco is missing; SceneNotStored when the disk refuses.
    """
    measured = read_bodies(folder, scale_m=scale_m, level=level)
    settled, done = settle(measured)
    before, after = drop(measured), drop(settled)
    assert settled.floor is not None
    shelves = [{"centre_m": s.centre_m.tolist(), "size_m": s.size_m.tolist()} for s in settled.shelves]
    about: dict[str, Any] = {
        "scale_m": scale_m,
        "level": level,
        "floor_z_m": settled.floor.top_m,
        "shelves": shelves,
        "objects": [
            asdict(one) | {"drift_before": asdict(was), "drift_after": asdict(now)}
            for one, was, now in zip(done, before, after, strict=True)
        ],
    }
    write_settled(folder, {body.id: body.T_world_object for body in settled.bodies}, about)
    return settled, done, before, after


def _run(args: argparse.Namespace) -> int:
    scene, done, before, after = settle_folder(args.scene, args.scale, args.level)
    print("\n".join(table(scene, done, before, after)))
    return 0


def table(scene: Bodies, done: Sequence[Settled], before: Sequence[Drift], after: Sequence[Drift]) -> list[str]:
    """Lines that say what settling did: millimetres and degrees; drifts over two simulated seconds."""
    lines = [
        "millimetres and degrees; drift: in MuJoCo, over two seconds",
        f"{'object':<11} {'label':<12} {'deep':>6} {'left':>6} {'gap':>6}  {'moved':<13} {'drift before':<15} "
        f"{'drift after':<15} stands on",
    ]
    for body, one, was, now in zip(scene.bodies, done, before, after, strict=True):
        deep, left, gap = (
            f"{1e3 * x:6.1f}" for x in (one.penetration_before_m, one.penetration_after_m, one.gap_before_m)
        )
        moved = f"{1e3 * one.shift_m:.1f}, {one.turn_deg:.1f}"
        drifts = [f"{1e3 * d.shift_m:.1f}, {d.turn_deg:.1f}" for d in (was, now)]
        what = f"{body.name:<11} {body.label:<12} {deep} {left} {gap}  {moved:<13} {drifts[0]:<15} {drifts[1]:<15}"
        lines.append(f"{what} {', '.join(one.stands_on) or '-'}")
    stay = [sum(d.stays for d in drifts) for drifts in (before, after)]
    lines.append(f"stay within 1 cm and 2 degrees: {stay[0]} of {len(done)} as measured, {stay[1]} settled")
    return lines
