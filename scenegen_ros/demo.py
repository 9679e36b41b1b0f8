"""See it work: `make demo`. A simulated camera goes around a synthetic table-top scene; what the node makes of it is
compared with the truth.

Everything runs as it does on a robot, in processes of its own over real ROS topics (demo_run.py); this module knows
the scene, and what to write about it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from scenegen.render import Camera
from scenegen.synthetic import make_scene, render
from scenegen_ros.demo_report import draw, object_errors, report, tables
from scenegen_ros.demo_run import generate, told

SEED = 8
"""A table-top scene of four objects, each of which the camera sees from all around: bowl, can, sofa, cone."""
VIEWS = 4
_CAMERA = {"views": 36, "rate_hz": 10.0, "depth_noise": True}
_SPREAD = {"max_views": VIEWS, "min_translation_m": 100.0, "min_rotation_deg": 70.0}
"""Views all around rather than the first few: 100 m leave it to the angle which of them are kept."""


def run(out: Path, weights: str, seed: int) -> None:
    """One demo. Writes scene.glb, preview.png, report.json and logs/ to out. ProcessFailed, NoScene or InvalidInput."""
    truth = make_scene(seed)
    ids = range(1, len(truth.objects) + 1)
    outcome = generate(out, weights=weights, camera={"seed": seed, **_CAMERA}, node=_SPREAD, ids=ids, views=VIEWS)
    errors = object_errors(outcome.objects, truth)
    missing = sorted(set(ids) - {e.id for e in errors})
    first = outcome.cameras[0]
    camera = Camera(first["width"], first["height"], np.array(first["intrinsics"]))
    view = render(truth, camera, np.array(first["T_world_camera"]))
    cv2.imwrite(str(out / "preview.png"), draw(view, outcome.objects, truth)[..., ::-1])
    figures = report(errors, missing, len(outcome.cameras), outcome.seconds, outcome.peak_rss_mb)
    (out / "report.json").write_text(json.dumps(figures, indent=1, allow_nan=False) + "\n")
    print("\n".join(["", *tables(errors, outcome.seconds), ""]))
    if missing:
        print(f"Objects {missing} came out empty and are left out.")
    print(f"Look at {out / 'preview.png'}; the scene is {out / 'scene.glb'}, the figures are in {out / 'report.json'}.")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the demo. Returns 0, 1 when it failed, 130 when interrupted."""
    parser = argparse.ArgumentParser(prog="python -m scenegen_ros.demo", description="See scenegen_ros work.")
    parser.add_argument("--out", type=Path, default=Path("out/demo"), help="default: out/demo")
    parser.add_argument("--weights", default="tiny", help="'tiny', or the folder of a checkpoint (default: tiny)")
    parser.add_argument("--seed", type=int, default=SEED, help="of the synthetic scene")
    args = parser.parse_args(arguments)
    return told(lambda: run(args.out, args.weights, args.seed))


if __name__ == "__main__":
    raise SystemExit(main())
