"""`scenegen inspect`: what a checkpoint holds, whether it will load, and how much memory it will need."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from scenegen.scene import InvalidInput
from scenegen.weights import find_weights

if TYPE_CHECKING:
    from scenegen.generator.checkpoints.inspection import Part


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    p = commands.add_parser("inspect", help="what a checkpoint holds, whether it will load, memory, licences")
    p.add_argument("weights", metavar="DIR", help="the folder of a checkpoint, 'full' or 'tiny'")
    p.add_argument("--assets", type=int, default=4, help="memory for so many assets (default: 4)")
    p.add_argument("--views", type=int, default=1, help="seen in so many views (default: 1)")
    p.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    from scenegen.generator.checkpoints.inspection import inspect

    if args.assets < 1 or args.views < 1:
        raise InvalidInput(f"--assets {args.assets}, --views {args.views}: both must be 1 or more")
    folder = find_weights(args.weights)
    parts = inspect(folder)
    print("\n".join([str(folder), *report(parts, args.assets, args.views)]))
    return 1 if any(part.troubles for part in parts) else 0


def report(parts: list[Part], assets: int, views: int) -> list[str]:
    """Lines that say what is there, part by part, then memory and licences."""
    from scenegen.generator.checkpoints.inspection import memory_bytes

    lines = [f"{'role':<30} {'model':<26} {'tensors':>7} {'parameters':>12} {'file':>9}  stored as  state"]
    for part in parts:
        state = f"published {part.published}" if part.published else "complete, not a published size"
        state = "WRONG" if part.troubles else state
        lines.append(
            f"{part.role:<30} {part.model or '-':<26} {part.tensors:>7} {part.numbers / 1e6:>10.2f} M "
            f"{part.file_bytes / 1e6:>6.0f} MB  {','.join(part.dtypes) or '-':<9}  {state}"
        )
    whole = [part for part in parts if not part.troubles]
    lines.append(
        f"{len(whole)} of {len(parts)} parts complete: {sum(part.numbers for part in whole) / 1e6:.2f} M parameters, "
        f"{sum(part.file_bytes for part in whole) / 1e9:.2f} GB on disk, "
        f"{sum(part.loaded_bytes for part in whole) / 1e9:.2f} GB on a GPU"
    )
    for part in parts:
        lines += [f"  {part.role}: {trouble}" for trouble in part.troubles[:8]]
        if len(part.troubles) > 8:
            lines.append(f"  {part.role}: and {len(part.troubles) - 8} more")
    needed = [memory_bytes(parts, assets, views, low=low) for low in (False, True)]
    if needed[0] is not None and needed[1] is not None:
        lines.append(
            f"GPU memory to sample the structure of {assets} assets in {views} views (estimate): "
            f"{needed[0] / 1e9:.1f} GB, with --memory low {needed[1] / 1e9:.1f} GB"
        )
    heads = any(part.model == "VGGT" and not part.troubles for part in parts)
    lines.append(f"geometry from images (--geometry vggt): {'yes' if heads else 'no, VGGT comes without its heads'}")
    lines.append("licences:")
    lines += [f"  {part.role}: {part.licence}" for part in whole]
    return lines
