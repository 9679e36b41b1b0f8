"""`scenegen train STAGE`: the stages in their order, one command each, all resumable.

data           synthetic scenes, rendered to disk; or your own (--from); not needed for stages with --stream
structure-vae  occupancy <-> latents
encoders       image and geometry encoders and the readout
structure      flow and position head
latent-vae     structured latents of a surface <-> its shape and colours
latents        flow over structured latents
export         the trained weights as a folder for --weights

A config with prepared scenes (configs/full.json) has structure and export alone: docs/3d-future.md.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scenegen.scene import InvalidInput

if TYPE_CHECKING:
    from scenegen.training.loop import Schedule

CONFIGS = Path(__file__).with_name("configs")
STAGES = ("data", "structure-vae", "encoders", "structure", "latent-vae", "latents", "export")
STREAMED = ("encoders", "structure")


def add_parser(subparsers: Any) -> None:
    """Add `train` to the command line."""
    parser = subparsers.add_parser(
        "train",
        help="train a small SceneGen on synthetic scenes",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument(
        "--config", type=Path, default=CONFIGS / "tiny.json", help="sizes and schedules (default: tiny)"
    )
    parser.add_argument("--runs", type=Path, help="folder of data and checkpoints (default: runs/CONFIG)")
    parser.add_argument("--steps", type=int, help="optimiser steps instead of the config's")
    parser.add_argument("--rate", type=float, metavar="R", help="peak learning rate instead of the config's")
    parser.add_argument("--shards", type=int, help="use only the first so many shards of data")
    parser.add_argument(
        "--stream",
        action="store_true",
        help="encoders, structure: draw scenes without end while training; those of data are read where they are there",
    )
    parser.add_argument(
        "--init",
        metavar="W",
        help="start from a whole SceneGen (a folder, or packaged weights such as tiny), which also stands in for "
        "earlier stages; structure: or from TRELLIS's flow (a folder or a file), whose layers stay frozen",
    )
    parser.add_argument(
        "--from",
        dest="own_scenes",
        type=Path,
        metavar="FOLDER",
        help="data: take your own scenes, each a folder in FOLDER as `scenegen synthesize` writes it",
    )
    parser.add_argument("--data", type=Path, help="folder of prepared scenes, for a config that trains on them")
    parser.add_argument("--weights", metavar="W", help="with --data: whose image encoder and structure decoder serve")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes that draw scenes")
    parser.add_argument("--out", type=Path, help="folder that export writes")
    parser.add_argument("--textures", action="store_true", help="export latent-vae and latents too")
    parser.set_defaults(run=main)


def main(args: argparse.Namespace) -> int:
    """Run one stage."""
    config = json.loads(args.config.read_text())
    args.runs = args.runs or Path("runs") / args.config.stem
    if args.stream and ("prepared" in config or args.stage not in STREAMED or args.shards):
        raise InvalidInput(
            f"--stream draws synthetic scenes without end for {' and '.join(STREAMED)}: leave it out for stage "
            f"{args.stage} of {args.config}, and beside --shards"
        )
    if "prepared" in config:
        from scenegen.training import released_cli

        return released_cli.main(config, args)
    if args.data or args.weights:
        raise InvalidInput(f"--data and --weights are for a config with `prepared` scenes, which {args.config} is not")
    if args.init and args.stage == "data":
        raise InvalidInput("--init is for stages that train, and data trains nothing: leave it out")
    if args.own_scenes and args.stage != "data":
        raise InvalidInput(f"--from is for the stage data: {args.stage} reads what that wrote to {args.runs}")
    if args.stage == "data":
        return _data(config, args)
    from scenegen.training import stages

    if args.stage == "export":
        stages.export(config, args.runs, args.out or args.runs / "export", textures=args.textures, init=args.init)
        return 0
    schedule = chosen_schedule(config[args.stage.replace("-", "_")], args)
    chosen = {"device": args.device, "shards": args.shards, "init": args.init}
    workers = args.workers if args.stream else None
    stages.train(args.stage, config, schedule, args.runs, stream_workers=workers, **chosen)
    return 0


def chosen_schedule(settings: dict[str, Any], args: argparse.Namespace) -> Schedule:
    """A config's schedule, with what the command line says instead."""
    from scenegen.training.loop import Schedule

    chosen = {"steps": args.steps, "learning_rate": args.rate}
    return replace(Schedule(**settings), **{name: value for name, value in chosen.items() if value})


def _data(config: dict[str, Any], args: argparse.Namespace) -> int:
    from scenegen.training.shards import make_shards, sample_sizes

    sizes = sample_sizes(config)
    if args.own_scenes:
        return _own_data(sizes, args)
    data = config["data"]
    common = {**sizes, "workers": args.workers}
    make_shards(args.runs / "held_out", data["held_out_scenes"], first_seed=data["held_out_seed"], **common)
    make_shards(args.runs / "data", data["scenes"], first_seed=data["first_seed"], **common)
    return 0


def _own_data(sizes: dict[str, int], args: argparse.Namespace) -> int:
    from scenegen.training.own_scenes import write_own_shards

    written = write_own_shards(args.own_scenes, args.runs, **sizes)
    for why, count in written.left_out.items():
        print(f"left out: {count} {why}", file=sys.stderr)
    print(f"{written.data} views to {args.runs / 'data'}, {written.held_out} to {args.runs / 'held_out'}")
    return 0
