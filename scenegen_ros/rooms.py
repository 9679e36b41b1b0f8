"""Photographs of rooms through the node: `make rooms`. No depth and no camera info, so nothing is metric.

Plays recorded folders (image.jpg and masks.png) with the simulated camera. There is no truth to compare with; what
comes out is drawn from the camera, with the confidence that the node itself gives.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import cv2

from scenegen.images import read_views
from scenegen.preview import draw_preview
from scenegen.scene import InvalidInput
from scenegen_ros.demo_run import Value, generate, told


def run(rooms: Path, out: Path, weights: str) -> None:
    """The first and the last room of the folder: their masks are of two kinds. Writes out/<room>/preview.png, ..."""
    folders = sorted(image.parent for image in rooms.glob("*/image.*"))
    if not folders:
        raise InvalidInput(
            f"{rooms} has no folders with image.jpg and masks.png: say where they are with "
            "`make rooms ROOMS_DIR=/path/to/scenes`"
        )
    for folder in dict.fromkeys((folders[0], folders[-1])):
        _play(folder, out / folder.name, weights)


def _play(folder: Path, out: Path, weights: str) -> None:
    (view,) = read_views(folder)
    print(f"{folder.name}: {len(view.instance_ids)} objects", flush=True)
    camera: dict[str, Value] = {"folder": str(folder.resolve()), "rate_hz": 2.0}
    outcome = generate(out, weights=weights, camera=camera, node={}, ids=view.instance_ids)
    cv2.imwrite(str(out / "preview.png"), draw_preview(view, outcome.objects)[..., ::-1])
    unit = "metres" if all(o.metric for o in outcome.objects) else "sizes of the largest object: not metric"
    print(f"\nlengths in {unit}\n {'id':>3}  {'position':<24} {'size':<20} confidence")
    for o in outcome.objects:
        position = ", ".join(f"{x:.2f}" for x in o.T_world_object[:3, 3])
        size = " x ".join(f"{x:.2f}" for x in o.size_m)
        print(f" {o.id:>3}  {position:<24} {size:<20} {o.confidence:>10.2f}")
    missing = sorted(set(view.instance_ids) - {o.id for o in outcome.objects})
    if missing:
        print(f"Objects {missing} came out empty and are left out.")
    print(f"Generated in {outcome.generation_s:.1f} s. Look at {out / 'preview.png'}.\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Plays two rooms. Returns 0, 1 when it failed, 130 when interrupted."""
    parser = argparse.ArgumentParser(prog="python -m scenegen_ros.rooms", description="Photographs through the node.")
    parser.add_argument("rooms", type=Path, help="folder with a folder for each room: image.jpg and masks.png")
    parser.add_argument("--out", type=Path, default=Path("out/rooms"), help="default: out/rooms")
    parser.add_argument("--weights", default="tiny", help="'tiny', or the folder of a checkpoint (default: tiny)")
    args = parser.parse_args(arguments)
    return told(lambda: run(args.rooms, args.out, args.weights))


if __name__ == "__main__":
    raise SystemExit(main())
