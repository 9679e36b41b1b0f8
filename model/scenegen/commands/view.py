"""`scenegen view`: a scene on disk in a browser, or as one file to pass on."""

from __future__ import annotations

import argparse
import threading
from pathlib import Path

from scenegen.documents import scene_views
from scenegen.scene import InvalidInput
from scenegen.viewer import Viewer, shown_scene


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    p = commands.add_parser("view", help="show a scene in a browser, or save it as one HTML file")
    p.add_argument("scene", metavar="SCENE_DIR", type=Path, help="a folder that `scenegen generate` or the node wrote")
    p.add_argument("--host", default="127.0.0.1", help="address to serve on (default: 127.0.0.1, this machine only)")
    p.add_argument("--port", type=int, default=8080, help="the next free one is taken when it is in use")
    p.add_argument("--save", type=Path, metavar="FILE.html", help="write one file that needs no server, and end")
    p.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    scene, views = shown_scene(args.scene), scene_views(args.scene)
    viewer = Viewer(args.host, args.port)
    try:
        viewer.show_scene(scene)
        viewer.show_views(views)
        viewer.say(f"{len(scene.objects)} objects" + ("" if views else "; the views were not kept"))
        if args.save is None:
            print(f"Point a browser at {viewer.address}, end with Ctrl-C", flush=True)
            threading.Event().wait()
        try:
            args.save.write_text(viewer.html())
        except OSError as error:
            raise InvalidInput(f"cannot write {args.save} ({error.strerror}): choose another file") from error
        print(args.save)
    finally:
        viewer.stop()
    return 0
