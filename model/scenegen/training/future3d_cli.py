"""`scenegen prepare STEP ROOT OUT`: 3D-FUTURE made ready for training; torch is loaded only when it runs."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from scenegen.training.cli import CONFIGS

STEPS = {
    "metadata": "a row for every asset; views and true scenes for evaluation",
    "voxels": "occupancy of every mesh",
    "latents": "structure latents of the voxels, by a checkpoint",
    "structured": "structured latents of the meshes and their textures, by a checkpoint",
    "features": "geometry tokens of every photograph, by a checkpoint",
    "samples": "rows of the voxels and photographs that `scenegen train` takes",
}


def add_parser(subparsers: Any) -> None:
    """Add `prepare` to the command line."""
    parser = subparsers.add_parser(
        "prepare",
        help="prepare 3D-FUTURE, unpacked as it is distributed, for training",
        description="\n".join(f"{name:<10} {what}" for name, what in STEPS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("step", choices=STEPS)
    parser.add_argument("root", type=Path, metavar="ROOT", help="folder with 3D-FUTURE-scene and 3D-FUTURE-model")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder of what is prepared")
    parser.add_argument("--split", choices=["train", "test"], default="train")
    parser.add_argument(
        "--weights", default="tiny", help="latents, structured, features: the checkpoint whose encoders are used"
    )
    parser.add_argument(
        "--config", type=Path, default=CONFIGS / "tiny.json", help="voxels, samples: whose sizes are used"
    )
    parser.add_argument("--resolution", type=int, help="voxels: instead of the config's; 64 for published checkpoints")
    parser.add_argument(
        "--surface", action="store_true", help="voxels: only where the surface runs, as published checkpoints want them"
    )
    parser.add_argument("--views", type=int, default=150, help="structured: pictures of each mesh")
    parser.add_argument("--device", default="cpu")
    parser.set_defaults(run=main)


def main(args: argparse.Namespace) -> int:
    """Run one step, and say what of the dataset was left out and why."""
    from scenegen.training import future3d_prepare as steps
    from scenegen.training.future3d import Future3D

    dataset = Future3D(args.root, args.split)
    config = json.loads(args.config.read_text())
    if args.step == "metadata":
        steps.write_metadata(dataset, args.out)
    elif args.step == "voxels":
        steps.write_voxels(dataset, args.out, args.resolution or config["resolution"], solid=not args.surface)
    elif args.step == "latents":
        steps.write_latents(dataset, args.out, args.weights, args.device)
    elif args.step == "structured":
        steps.write_structured(dataset, args.out, args.weights, args.device, args.views)
    elif args.step == "features":
        steps.write_features(dataset, args.out, args.weights, args.device)
    else:
        sizes = {
            "image_size": config["image_encoder"]["image_size"],
            "geometry_size": config["geometry_encoder"]["img_size"],
            "resolution": config["resolution"],
        }
        steps.write_samples(dataset, args.out, **sizes)
    for why, count in dataset.left_out.items():
        print(f"left out: {count} {why}", file=sys.stderr)
    return 0
