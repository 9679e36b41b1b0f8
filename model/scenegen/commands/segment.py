"""`scenegen segment`: masks of images out of boxes and points, for `scenegen generate`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import cv2
import numpy as np

from scenegen.files import require_writable
from scenegen.images import read_image
from scenegen.prompts import PromptedView, with_prompts
from scenegen.scene import InvalidInput, View
from scenegen.wire.prompts import decode_prompts


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    p = commands.add_parser("segment", help="make instance masks of images, from boxes and points")
    p.add_argument("images", nargs="+", metavar="IMAGE", help="of one scene, in the order in which they were taken")
    p.add_argument(
        "--prompts",
        required=True,
        type=Path,
        metavar="JSON",
        help='one list per image, which may be empty, of {"id": 1, "box": [left, top, right, bottom]}, in pixels; also '
        '"inside": [[u, v], ...] and "outside"; one id is one object in all images',
    )
    p.add_argument("--segmenter", required=True, metavar="FOLDER", help="weights of SAM 2 (docs/segmentation.md)")
    p.add_argument("--device", default="cpu", help="cpu, cuda or cuda:0 ... (default: cpu)")
    p.add_argument("--out", required=True, type=Path, metavar="DIR", help="where masks_000.png, ... are written")
    p.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    views = prompted_views(args.images, args.prompts)
    if any(i > np.iinfo(np.uint16).max for view in views for i in view.instance_ids):
        raise InvalidInput(f"{args.prompts} has an id above 65535, which a PNG of masks cannot hold: number from 1")
    require_writable(args.out)
    from scenegen.segmentation import Segmenter

    segmented = Segmenter.from_pretrained(args.segmenter, device=args.device).segment(views)
    args.out.mkdir(parents=True, exist_ok=True)
    for index, view in enumerate(segmented):
        path = args.out / f"masks_{index:03d}.png"
        if not cv2.imwrite(str(path), view.masks.astype(np.uint16)):
            raise InvalidInput(f"{path} cannot be written: give another --out")
        print(path)
    return 0


def prompted_views(images: list[str], prompts: Path) -> list[PromptedView]:
    """Images with the prompts of a JSON file, in order. InvalidInput names what cannot be used."""
    try:
        lists = json.loads(prompts.read_text())
    except (OSError, ValueError) as error:
        raise InvalidInput(f"{prompts} is not readable JSON ({error}): give one list of prompts per image") from error
    if not isinstance(lists, list) or len(lists) != len(images):
        raise InvalidInput(f"{prompts} must be a list of {len(images)} lists of prompts, one for each image")
    views = []
    for index, (path, given) in enumerate(zip(images, lists, strict=True)):
        image = read_image(path)
        view = View(image, np.zeros(image.shape[:2], np.int32), stamp_ns=index)
        try:
            views.append(with_prompts(view, decode_prompts(given, str(path))))
        except InvalidInput as error:
            raise InvalidInput(f"{path} with {prompts}: {error}") from error
    return views
