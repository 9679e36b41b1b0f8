"""`scenegen record`: a scene on disk as an MCAP recording."""

from __future__ import annotations

import argparse
from pathlib import Path

from scenegen.recording import record_scene


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    p = commands.add_parser("record", help="write a scene's views and objects as an MCAP recording, for Foxglove")
    p.add_argument("scene", metavar="SCENE_DIR", type=Path, help="a folder that `scenegen generate` or the node wrote")
    p.add_argument("--out", required=True, type=Path, metavar="FILE.mcap", help="a new file")
    p.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    print(record_scene(args.scene, args.out))
    return 0
