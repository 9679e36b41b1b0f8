"""`scenegen evaluate` and `scenegen benchmark`. Whoever adds them says how to load a generator: torch stays outside."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from scenegen.evaluation.benchmark import Generator, SceneResult, run_benchmark, summary
from scenegen.evaluation.folders import FolderScores, evaluate_folders, load_objects, scene_stems
from scenegen.evaluation.pictures import best_median_worst, draw_from_camera, draw_normalised, write_contact_sheet
from scenegen.evaluation.reports import table, write_csv, write_json

_BESIDE = "also writes the figures per scene (.csv) and a contact sheet (.png) beside it"


def add_parser(subparsers: Any, load_generator: Callable[[str, str], Generator]) -> None:
    """Add `evaluate` and `benchmark` to the command line. load_generator takes weights and device when it runs."""
    evaluate = subparsers.add_parser(
        "evaluate", help="score GLB scenes of any method against true ones, as the SceneGen paper does"
    )
    evaluate.add_argument("generated", type=Path, metavar="PRED", help="folder of generated scenes, one GLB each")
    evaluate.add_argument("truth", type=Path, metavar="TRUTH", help="folder of true scenes with the same names")
    evaluate.add_argument("--json", type=Path, metavar="F", help=f"write the figures to F; {_BESIDE}")
    evaluate.set_defaults(run=evaluate_command)

    benchmark = subparsers.add_parser(
        "benchmark", help="generate unseen synthetic scenes and score them beside trivial baselines"
    )
    benchmark.add_argument("--weights", default="tiny", metavar="W", help="checkpoint folder or packaged weights")
    benchmark.add_argument("--device", default="cpu")
    benchmark.add_argument("--seed", type=int, default=900_000, help="first scene; training draws from 1000000 on")
    benchmark.add_argument("--scenes", type=int, default=50, metavar="N")
    benchmark.add_argument("--views", type=int, default=1, help="views of each scene")
    benchmark.add_argument("--json", type=Path, metavar="F", help=f"write the figures to F; {_BESIDE}")
    benchmark.set_defaults(run=lambda args: benchmark_command(args, load_generator(args.weights, args.device)))


def evaluate_command(args: argparse.Namespace) -> int:
    """Run `scenegen evaluate`: 0 when at least one scene has a score."""
    with tqdm(total=len(scene_stems(args.truth)), unit="scene") as progress:
        result = evaluate_folders(args.generated, args.truth, on_scene=lambda _: progress.update())
    for stem, error in result.errors.items():
        print(f"{stem}: {error}", file=sys.stderr)
    figures = result.table()
    print(f"{len(result.scores)} scenes scored, {len(result.errors)} failed")
    if result.scores:
        print(table({str(args.generated): figures}))
    if args.json:
        write_json(args.json, {**figures, "failed": dict(result.errors)})
        rows = [{"scene": stem, **score.row()} for stem, score in result.scores.items()]
        write_csv(args.json.with_suffix(".csv"), rows + [{"scene": s, "error": e} for s, e in result.errors.items()])
        if result.scores:
            _folder_sheet(args, result)
    return 0 if result.scores else 1


def benchmark_command(args: argparse.Namespace, model: Generator) -> int:
    """Run `scenegen benchmark`: 0 when at least one scene has a score."""
    with tqdm(total=args.scenes, unit="scene") as progress:
        results = run_benchmark(
            model, seed=args.seed, scenes=args.scenes, views=args.views, on_scene=lambda _: progress.update()
        )
    failed = {str(result.question.seed): result.error for result in results if result.error}
    for seed, error in failed.items():
        print(f"scene {seed}: {error}", file=sys.stderr)
    means = summary(results)
    print(f"{len(results) - len(failed)} scenes scored, {len(failed)} failed")
    print(table(means))
    if args.json:
        settings = {"weights": str(args.weights), "seed": args.seed, "views": args.views}
        counts = {"scenes": len(results) - len(failed), "errors": len(failed), "failed": failed}
        write_json(args.json, {**settings, **counts, **means})
        write_csv(args.json.with_suffix(".csv"), _scene_rows(results))
        write_csv(args.json.with_name(f"{args.json.stem}_objects.csv"), _object_rows(results))
        if means:
            _benchmark_sheet(args, results)
    return 0 if means else 1


def _scene_rows(results: Sequence[SceneResult]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for result in results:
        common = {"scene": result.question.seed, "objects": len(result.question.ids), "error": result.error}
        rows += [{**common, "method": name, **score.row()} for name, score in result.scores.items()] or [common]
    return rows


def _object_rows(results: Sequence[SceneResult]) -> list[dict[str, Any]]:
    """The model's figures of every object."""
    return [
        {
            "scene": result.question.seed,
            "id": result.question.ids[i],
            "family": made.family,
            "symmetry": made.symmetry,
            "query": int(i == result.question.truth.query),
            **{name: float(values[i]) for name, values in result.scores["model"].of_objects.items()},
        }
        for result in results
        if not result.error
        for i, made in enumerate(result.question.objects)
    ]


def _benchmark_sheet(args: argparse.Namespace, results: Sequence[SceneResult]) -> None:
    by_seed = {str(result.question.seed): result for result in results if not result.error}
    f_scores = {seed: result.scores["model"].of_scene["f_s"] for seed, result in by_seed.items()}
    rows = {
        f"{which}: scene {seed}, F-S {f_scores[seed]:.1f} (input, truth, generated)": draw_from_camera(by_seed[seed])
        for which, seed in best_median_worst(f_scores).items()
    }
    write_contact_sheet(args.json.with_suffix(".png"), rows)


def _folder_sheet(args: argparse.Namespace, result: FolderScores) -> None:
    f_scores = {stem: score.of_scene["f_s"] for stem, score in result.scores.items()}
    rows = {
        f"{which}: {stem}, F-S {f_scores[stem]:.1f} (truth, generated)": [
            draw_normalised(load_objects(folder / f"{stem}.glb")) for folder in (args.truth, args.generated)
        ]
        for which, stem in best_median_worst(f_scores).items()
    }
    write_contact_sheet(args.json.with_suffix(".png"), rows)
