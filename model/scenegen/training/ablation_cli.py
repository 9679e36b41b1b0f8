"""`scenegen ablate`: train and score Table 2's rows, one after the other; torch is loaded only when it runs."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from scenegen.evaluation.reports import table, write_csv, write_json
from scenegen.training.cli import CONFIGS


def add_parser(subparsers: Any) -> None:
    """Add `ablate` to the command line."""
    parser = subparsers.add_parser(
        "ablate", help="train and score a small SceneGen without each kind of condition: the paper's Table 2"
    )
    parser.add_argument("--weights", default="tiny", help="checkpoint that encoders and structure VAE are taken from")
    parser.add_argument("--runs", type=Path, default=Path("runs/tiny"), help="folder with the data of `train data`")
    parser.add_argument("--out", type=Path, default=Path("runs/ablation"), help="folder of the rows' checkpoints")
    parser.add_argument("--config", type=Path, default=CONFIGS / "tiny.json", help="whose schedule `structure` is used")
    parser.add_argument("--steps", type=int, help="optimiser steps instead of the config's, for readout and flow each")
    parser.add_argument("--shards", type=int, help="use only the first so many shards of data")
    parser.add_argument("--seed", type=int, default=900_000, help="first unseen scene")
    parser.add_argument("--scenes", type=int, default=50, metavar="N", help="unseen scenes that each row is scored on")
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--json", type=Path, metavar="F", help="write the figures to F, and as a table beside it (.csv)"
    )
    parser.set_defaults(run=main)


def main(args: argparse.Namespace) -> int:
    """Train what is not yet trained, score all rows, print the table and whether the paper's order came back."""
    from scenegen.training.ablation import ABLATIONS, load_start, out_of_order, score_row, train_row
    from scenegen.training.loop import Schedule

    schedule = Schedule(**json.loads(args.config.read_text())["structure"])
    if args.steps:
        schedule = replace(schedule, steps=args.steps)
    start = load_start(args.weights, args.runs, args.device, args.shards)
    rows: dict[str, dict[str, float]] = {}
    for name, ablation in ABLATIONS.items():
        model = train_row(ablation, start, schedule, args.out / name)
        with tqdm(total=args.scenes, unit="scene", desc=name) as bar:
            rows[name] = score_row(model, seed=args.seed, scenes=args.scenes, progress=bar)
        if args.json:
            _write(args, schedule.steps, rows)
    shown = {f"without {name}": row for name, row in rows.items()}
    print(table(shown | {f"paper: {name}": ablation.published for name, ablation in ABLATIONS.items()}))
    for name, row in rows.items():
        if row["errors"]:
            print(f"without {name}: {row['errors']} of {args.scenes} scenes did not come out")
    swapped = out_of_order(rows)
    print("\n".join(["Not in the paper's order:", *swapped]) if swapped else "The rows stand in the paper's order.")
    return 0 if all(row["scenes"] for row in rows.values()) else 1


def _write(args: argparse.Namespace, steps: int, rows: dict[str, dict[str, float]]) -> None:
    """What is known so far: a killed run keeps it."""
    settings = {"weights": str(args.weights), "seed": args.seed, "steps": steps}
    write_json(args.json, {**settings, "rows": rows})
    write_csv(args.json.with_suffix(".csv"), [{"without": name, **row} for name, row in rows.items()])
