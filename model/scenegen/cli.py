"""The `scenegen` command: generate, serve, synthesize, train, evaluate, benchmark, and what concerns checkpoints.

Reads arguments and reports results; the work is done elsewhere, and torch is loaded only by the commands that need it.
"""

from __future__ import annotations

import argparse
import logging
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from scenegen import __version__
from scenegen.client import GenerationFailed, SceneClient, ServerError
from scenegen.commands import add_parsers as add_checkpoint_commands
from scenegen.commands.export import add_parser as add_export
from scenegen.commands.record import add_parser as add_record
from scenegen.commands.segment import add_parser as add_segment
from scenegen.commands.settle import add_parser as add_settle
from scenegen.commands.view import add_parser as add_view
from scenegen.documents import document_scene
from scenegen.evaluation.benchmark import Generator
from scenegen.evaluation.commands import add_parser as add_evaluation
from scenegen.evaluation.images import Judge
from scenegen.files import SceneNotStored, new_scene_id, require_writable, write_scene
from scenegen.images import load_views
from scenegen.placement import by_known_sizes, in_query_units, place_scene, sizes_by_label
from scenegen.scene import DETAILS, InvalidInput, PlacedObject, Progress, Scene, View
from scenegen.synthetic import synthesize
from scenegen.training.ablation_cli import add_parser as add_ablation
from scenegen.training.cli import add_parser as add_train
from scenegen.training.future3d_cli import add_parser as add_prepare

TOKEN_VARIABLE = "SCENEGEN_TOKEN"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns 0, 1 when it failed, 2 when the input cannot be used, 130 when interrupted."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    for chatty in ("httpx", "httpcore", "trimesh"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    args = _parser().parse_args(arguments)
    try:
        status: int = args.run(args)
    except InvalidInput as error:
        print(f"scenegen: {error}", file=sys.stderr)
        return 2
    except (ServerError, SceneNotStored) as error:
        print(f"scenegen: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        if error.filename is None:  # no file or folder of the user's: a mistake of ours, whose place counts
            raise
        print(f"scenegen: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("scenegen: interrupted", file=sys.stderr)
        return 130
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scenegen", description="Images with instance masks in, 3D objects out.")
    parser.add_argument("--version", action="version", version=f"scenegen {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_generate(commands)
    _add_serve(commands)
    add_segment(commands)
    _add_synthesize(commands)
    add_train(commands)
    add_export(commands)
    add_settle(commands)
    add_view(commands)
    add_record(commands)
    add_evaluation(commands, _load_generator, _load_judge)
    add_ablation(commands)
    add_prepare(commands)
    add_checkpoint_commands(commands)
    return parser


def _add_generate(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    p = commands.add_parser("generate", help="generate the objects of one scene, from one or several images of it")
    p.add_argument("images", nargs="+", metavar="IMAGE", help="of one scene, from one side or several")
    p.add_argument(
        "--masks",
        nargs="+",
        required=True,
        help="one per image: 8 or 16-bit instance ids, or one colour per object on black",
    )
    p.add_argument("--depth", nargs="+", default=(), help="one per image: 16-bit PNG, millimetres, 0 is no reading")
    p.add_argument(
        "--camera", nargs="+", default=(), help="one per image: JSON with width, height, intrinsics, T_world_camera"
    )
    p.add_argument(
        "--geometry", choices=["vggt"], help="estimate depth and cameras that are not given, from the images"
    )
    p.add_argument(
        "--known-size",
        nargs="+",
        default=(),
        metavar="LABEL=METRES",
        help="largest extent of an object, as object_3=0.32: metres where neither depth nor cameras give them",
    )
    p.add_argument("--ids", nargs="+", type=int, help="instance ids to generate (default: all in the first image)")
    p.add_argument("--seed", type=int, default=42, help="of the sampler's noise (default: 42)")
    p.add_argument("--detail", choices=DETAILS, default="textured", help="default: textured, if the weights can")
    p.add_argument("--out", required=True, type=Path, help="folder in which the scene's folder is made")
    _add_model(p)
    p.add_argument("--server", help="let a server generate: unix:/path, http://127.0.0.1:port or https://host:port")
    p.add_argument("--token-file", help=f"file with the server's token (or set {TOKEN_VARIABLE})")
    p.add_argument("--ca-file", help="PEM of the authority that signed the server's certificate")
    p.set_defaults(run=_generate)


def _add_serve(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    p = commands.add_parser("serve", help="run the generation server")
    where = p.add_mutually_exclusive_group()
    where.add_argument("--unix", metavar="PATH", help="listen on a unix socket that only this user can open")
    where.add_argument("--host", default="127.0.0.1", help="default: 127.0.0.1; others need a certificate and a token")
    p.add_argument("--port", type=int, default=8765, help="default: 8765")
    p.add_argument("--certificate", help="PEM file: listen with TLS")
    p.add_argument("--key", help="PEM file of the certificate's key")
    p.add_argument("--token-file", help=f"file with the token that clients must give (or set {TOKEN_VARIABLE})")
    _add_model(p)
    p.add_argument("--segmenter", metavar="FOLDER", help="make masks from prompts too, with these weights of SAM 2")
    p.set_defaults(run=_serve)


def _add_synthesize(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    p = commands.add_parser("synthesize", help="write synthetic scenes with everything that is true about them")
    p.add_argument("--seed", type=int, default=0, help="another one makes other scenes (default: 0)")
    p.add_argument("--scenes", type=int, default=1, help="how many (default: 1)")
    p.add_argument("--out", required=True, type=Path, help="folder that gets a folder for each: scene_0000, ...")
    p.add_argument("--depth-noise", action="store_true", help="give depth the errors of a depth camera")
    p.set_defaults(run=_synthesize)


def _add_model(p: argparse.ArgumentParser) -> None:
    p.add_argument("--weights", default="tiny", help="'tiny', or the folder of a checkpoint (default: tiny)")
    p.add_argument("--device", default="cpu", help="cpu, cuda or cuda:0 ... (default: cpu)")
    p.add_argument(
        "--memory", choices=["all", "low"], default="all", help="low: each model in memory only while it works"
    )
    p.add_argument(
        "--mode", choices=["exact", "fast"], default="exact", help="fast: fewer sampling steps (default: exact)"
    )


def _load_generator(weights: str, device: str) -> Generator:
    from scenegen.generator.pipeline import SceneGen

    return SceneGen.from_pretrained(weights, device=device)


def _load_judge(folder: Path, device: str) -> Judge:
    from scenegen.training.judges import Judges

    return Judges(folder, device)


def _generate(args: argparse.Namespace) -> int:
    views = load_views(args.images, args.masks, args.depth, args.camera)
    sizes = sizes_by_label(args.known_size)
    require_writable(args.out)
    measured, known_unit = _with_geometry(args, views)
    scene = _generate_scene(args, views)
    if unknown := set(sizes) - {asset.label for asset in scene.assets}:
        print(f"scenegen: no object is called {', '.join(sorted(unknown))}: that size says nothing", file=sys.stderr)
    placed = place_scene(scene, measured, known_sizes=sizes)
    if not known_unit:
        placed = by_known_sizes(in_query_units(placed, scene.query), sizes)
    frame_id = "world" if views[0].T_world_camera is not None and all(o.metric for o in placed) else "camera"
    folder = write_scene(args.out, scene, placed, scene_id=new_scene_id(), views=views, frame_id=frame_id)
    document_scene(folder, measured, placed)
    print("\n".join(table(placed, frame_id)))
    print(folder)
    if not all(o.metric for o in placed):
        print(f"scenegen: not metric: {_no_scale(measured)}", file=sys.stderr)
    return 0


def _no_scale(views: Sequence[View]) -> str:
    """Why nothing measured a length, and what would."""
    deep = [view for view in views if view.depth_m is not None]
    if not deep:
        return "without depth only cameras that moved give a scale: add --depth and --camera, or --known-size"
    if all(view.intrinsics is None for view in deep):
        return "depth gives no scale without the camera's intrinsics: add --camera"
    return "depth has hardly a reading on any object, or an unknown scale: add --known-size"


def _with_geometry(args: argparse.Namespace, views: Sequence[View]) -> tuple[Sequence[View], bool]:
    """The views to place the scene by, and whether a unit of their lengths is known, if they have any."""
    if args.geometry is None:
        return views, True
    if args.server:
        raise InvalidInput("--geometry vggt estimates on this machine: leave --server out, or give depth")
    from scenegen.generator.geometry import estimate_views, load_estimator

    estimator = load_estimator(args.weights, args.device)
    estimated = estimate_views(views, estimator, estimator.aggregator.image_size, args.device)
    return estimated.views, estimated.metric


def _generate_scene(args: argparse.Namespace, views: Sequence[View]) -> Scene:
    with tqdm(
        total=100, unit="%", disable=not sys.stderr.isatty(), bar_format="{desc} {percentage:3.0f}% |{bar}|"
    ) as bar:

        def on_progress(progress: Progress) -> None:
            bar.set_description(progress.stage, refresh=False)
            bar.update(math.floor(100 * progress.fraction) - bar.n)

        asked: dict[str, Any] = {"seed": args.seed, "ids": args.ids, "detail": args.detail}
        if args.server:
            if (args.weights, args.device, args.memory, args.mode) != ("tiny", "cpu", "all", "exact"):
                print(
                    "scenegen: --weights, --device, --memory and --mode are the server's own; these do not count",
                    file=sys.stderr,
                )
            client = SceneClient(args.server, _token(args.token_file), ca_file=args.ca_file)
            return client.generate(views, **asked, on_progress=on_progress)

        from scenegen.generator.pipeline import GenerationError, SceneGen

        generator = SceneGen.from_pretrained(args.weights, device=args.device, memory=args.memory, mode=args.mode)
        try:
            return generator.generate(views, **asked, on_progress=on_progress)
        except GenerationError as error:
            raise GenerationFailed(str(error)) from error


def table(placed: Sequence[PlacedObject], frame_id: str) -> list[str]:
    """Lines that say what was generated: id, detail, size, position, confidence, residual, and the unit of lengths."""
    unit = "metres" if all(o.metric for o in placed) else "sizes of the query asset, not metric"
    lines = [
        f"lengths in {unit}; frame {frame_id}",
        f"{'id':>4}  {'label':<14} {'detail':<9} {'size':<20} {'position':<24} confidence  residual",
    ]
    for o in placed:
        size = " x ".join(f"{x:.3g}" for x in o.size_m)
        position = ", ".join(f"{x:.3f}" for x in o.T_world_object[:3, 3])
        residual = "-" if math.isnan(o.residual_m) else f"{o.residual_m:.4f}"
        what = f"{o.id:>4}  {o.label:<14} {o.asset.detail:<9}"
        lines.append(f"{what} {size:<20} {position:<24} {o.confidence:>10.2f}  {residual:>8}")
    return lines


def _serve(args: argparse.Namespace) -> int:
    from scenegen.server import SceneGenerator, ViewSegmenter, serve

    def load() -> SceneGenerator:
        from scenegen.generator.pipeline import SceneGen

        return SceneGen.from_pretrained(args.weights, device=args.device, memory=args.memory, mode=args.mode)

    def load_segmenter() -> ViewSegmenter:
        from scenegen.segmentation import Segmenter

        return Segmenter.from_pretrained(args.segmenter, device=args.device)

    scheme = "https" if args.certificate or args.key else "http"
    host = f"[{args.host}]" if ":" in args.host else args.host
    listen = f"unix:{os.path.abspath(args.unix)}" if args.unix else f"{scheme}://{host}:{args.port}"
    serve(
        load,
        listen,
        load_segmenter=load_segmenter if args.segmenter else None,
        token=_token(args.token_file),
        certificate=args.certificate,
        key=args.key,
    )
    return 0


def _synthesize(args: argparse.Namespace) -> int:
    for folder in synthesize(args.seed, args.scenes, args.out, depth_noise=args.depth_noise):
        print(folder)
    return 0


def _token(path: str | None) -> str | None:
    """The token in a file, or in the environment. Never an argument: those can be read by every user."""
    if path is None:
        return os.environ.get(TOKEN_VARIABLE) or None
    try:
        token = Path(path).expanduser().read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"cannot read the token file {path}: {error}") from error
    if not token:
        raise InvalidInput(f"the token file {path} is empty: put the token into it")
    return token


if __name__ == "__main__":
    raise SystemExit(main())
