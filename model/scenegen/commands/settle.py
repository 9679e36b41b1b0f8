"""`scenegen settle`: the objects of a scene on disk brought to rest, and whether MuJoCo agrees."""

from __future__ import annotations

import argparse
from pathlib import Path

from scenegen.settle import Outcome, settle_folder
from scenegen.settle.drop import SECONDS, STILL_DEG, STILL_M


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


def _run(args: argparse.Namespace) -> int:
    print("\n".join(table(settle_folder(args.scene, scale_m=args.scale, level=args.level))))
    return 0


def table(outcome: Outcome) -> list[str]:
    """Lines that say what settling did."""
    lines = [
        "millimetres and degrees; deep, left: penetration before and after; gap: down to the support; drift: in "
        f"{SECONDS:g} seconds of MuJoCo",
        f"{'object':<11} {'label':<12} {'deep':>6} {'left':>6} {'gap':>6}  {'moved':<13} {'drift before':<15} "
        f"{'drift after':<15} stands on",
    ]
    rows = zip(outcome.scene.bodies, outcome.done, outcome.before, outcome.after, strict=True)
    for body, done, before, after in rows:
        depths = [done.penetration_before_m, done.penetration_after_m, done.gap_before_m]
        deep, left, gap = (f"{1e3 * depth:6.1f}" for depth in depths)
        moved = f"{1e3 * done.shift_m:.1f}, {done.turn_deg:.1f}"
        was, now = (f"{1e3 * drift.shift_m:.1f}, {drift.turn_deg:.1f}" for drift in (before, after))
        what = f"{body.name:<11} {body.label:<12} {deep} {left} {gap}  {moved:<13} {was:<15} {now:<15}"
        lines.append(f"{what} {', '.join(done.stands_on) or '-'}")
    stay_was, stay_now = (sum(drift.stays for drift in drifts) for drifts in (outcome.before, outcome.after))
    stay = f"{1e3 * STILL_M:g} mm and {STILL_DEG:g} degrees"
    lines.append(f"stay within {stay}: {stay_was} of {len(outcome.done)} as measured, {stay_now} settled")
    return lines
