"""`scenegen train` with a config of prepared scenes: one stage, and its export; torch is loaded when it runs."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scenegen.scene import InvalidInput


def main(config: Mapping[str, Any], args: argparse.Namespace) -> int:
    """Run `structure` or `export`. InvalidInput when the config has no such stage, or an argument is missing."""
    from scenegen.training import released_stage
    from scenegen.training.cli import chosen_schedule

    if args.stage == "export":
        released_stage.export(config, args.runs, args.out or args.runs / "export")
        return 0
    if args.stage != "structure":
        raise InvalidInput(f"{args.config} is for the stages structure and export: {args.stage} is not trained with it")
    if args.data is None or args.weights is None:
        raise InvalidInput(
            f"{args.config} trains on prepared scenes: --data names their folder, --weights the checkpoint of the "
            "encoders they were prepared with"
        )
    init = Path(args.init) if args.init else None
    schedule = chosen_schedule(config["structure"], args)
    released_stage.train(
        config, schedule, args.runs, data=args.data, weights=args.weights, init=init, device=args.device
    )
    return 0
