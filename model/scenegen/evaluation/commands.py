"""`scenegen evaluate` and `scenegen benchmark`. Whoever adds them says how to load a generator: torch stays outside."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from scenegen.evaluation.benchmark import Generator, ImagesOnly, SceneResult, run_benchmark, scene_pictures, summary
from scenegen.evaluation.folders import FolderScores, draw_scene, evaluate_folders, load_objects, scene_stems
from scenegen.evaluation.images import Judge, Picture
from scenegen.evaluation.pictures import best_median_worst, draw_normalised, write_contact_sheet
from scenegen.evaluation.reports import image_table, table, write_csv, write_json
from scenegen.files import require_writable
from scenegen.scene import InvalidInput

_BESIDE = "also writes the figures per scene (.csv) and a contact sheet (.png) beside it"


def add_parser(
    subparsers: Any, load_generator: Callable[[str, str], Generator], load_judge: Callable[[Path, str], Judge]
) -> None:
    """Add `evaluate` and `benchmark` to the command line.

    load_generator takes weights and device when it runs, load_judge a folder of networks and the device.
    """
    evaluate = subparsers.add_parser(
        "evaluate", help="score GLB scenes of any methods against true ones, as the SceneGen paper does"
    )
    evaluate.add_argument(
        "generated", type=Path, nargs="+", metavar="PRED", help="a method's folder of scenes, one GLB each; one or many"
    )
    evaluate.add_argument("truth", type=Path, metavar="TRUTH", help="folder of true scenes with the same names")
    evaluate.add_argument(
        "--images",
        type=Path,
        metavar="DIR",
        help="also compare pictures: for each scene, a folder of its name with image.png or .jpg, masks.png and "
        "camera.json, as `scenegen synthesize` writes them; the camera in the frame of the true GLB",
    )
    evaluate.add_argument("--json", type=Path, metavar="F", help=f"write the figures to F; {_BESIDE}")
    evaluate.set_defaults(run=lambda args: evaluate_command(args, _judge(args, load_judge)))

    benchmark = subparsers.add_parser(
        "benchmark", help="generate unseen synthetic scenes and score them beside trivial baselines"
    )
    benchmark.add_argument("--weights", default="tiny", metavar="W", help="checkpoint folder or packaged weights")
    benchmark.add_argument("--seed", type=int, default=900_000, help="first scene; training draws from 1000000 on")
    benchmark.add_argument("--scenes", type=int, default=50, metavar="N")
    benchmark.add_argument(
        "--views",
        type=int,
        nargs="+",
        default=[1],
        metavar="K",
        help="views of each scene; several numbers compare what so many of the same views bring, without baselines",
    )
    benchmark.add_argument(
        "--images-only", action="store_true", help="give images and masks alone: no intrinsics, camera pose or depth"
    )
    benchmark.add_argument("--json", type=Path, metavar="F", help=f"write the figures to F; {_BESIDE}")
    benchmark.set_defaults(run=lambda args: _benchmark(args, load_generator, load_judge))
    for command in (evaluate, benchmark):
        command.add_argument("--device", default="cpu")
        command.add_argument(
            "--judges",
            type=Path,
            metavar="DIR",
            help="networks for LPIPS, FID, CLIP-S and DINO-S, those that are there: lpips/, inception.safetensors, "
            "clip/, dinov2/",
        )


def _benchmark(
    args: argparse.Namespace,
    load_generator: Callable[[str, str], Generator],
    load_judge: Callable[[Path, str], Judge],
) -> int:
    if min(args.scenes, *args.views) < 1 or args.seed < 0:
        raise InvalidInput("--scenes and --views must be 1 or more, --seed 0 or more")
    _require_writable(args.json)
    model = load_generator(args.weights, args.device)
    return benchmark_command(args, ImagesOnly(model) if args.images_only else model, _judge(args, load_judge))


def evaluate_command(args: argparse.Namespace, judge: Judge | None) -> int:
    """Run `scenegen evaluate`: 0 when at least one scene has a score."""
    _require_writable(args.json)
    results: dict[str, FolderScores] = {}
    stems = scene_stems(args.truth)
    with tqdm(total=len(stems) * len(args.generated), unit="scene") as progress:
        for folder in args.generated:
            results[str(folder)] = evaluate_folders(
                folder, args.truth, images=args.images, judge=judge, on_scene=lambda _: progress.update()
            )
    for method, result in results.items():
        for stem, error in result.errors.items():
            print(f"{method}, {stem}: {error}", file=sys.stderr)
        print(f"{method}: {len(result.scores)} scenes scored, {len(result.errors)} failed")
    rows = {method: result.table() for method, result in results.items() if result.scores}
    _print_tables(rows)
    if args.json:
        figures = {m: {**result.table(), "failed": dict(result.errors)} for m, result in results.items()}
        write_json(args.json, figures if len(figures) > 1 else next(iter(figures.values())))
        write_csv(args.json.with_suffix(".csv"), [row for m, result in results.items() for row in _rows(m, result)])
        _folder_sheet(args, results)
    return 0 if rows else 1


def benchmark_command(args: argparse.Namespace, model: Generator, judge: Judge | None) -> int:
    """Run `scenegen benchmark`: 0 when at least one scene has a score."""
    if len(args.views) > 1:
        return _compare_views(args, model)
    (views,) = args.views
    with tqdm(total=args.scenes, unit="scene") as progress:
        results = run_benchmark(
            model,
            seed=args.seed,
            scenes=args.scenes,
            views=views,
            judge=judge,
            on_scene=lambda _: progress.update(),
        )
    failed = {str(result.question.seed): result.error for result in results if result.error}
    for seed, error in failed.items():
        print(f"scene {seed}: {error}", file=sys.stderr)
    means = summary(results)
    print(f"{len(results) - len(failed)} scenes scored, {len(failed)} failed")
    _print_tables(means)
    if args.json:
        settings = {"weights": str(args.weights), "seed": args.seed, "views": views, "images_only": args.images_only}
        counts = {"scenes": len(results) - len(failed), "errors": len(failed), "failed": failed}
        write_json(args.json, {**settings, **counts, **means})
        write_csv(args.json.with_suffix(".csv"), _scene_rows(results))
        write_csv(args.json.with_name(f"{args.json.stem}_objects.csv"), _object_rows(results))
        if means:
            _benchmark_sheet(args, results)
    return 0 if means else 1


def _compare_views(args: argparse.Namespace, model: Generator) -> int:
    """The same scenes and objects, asked for with the first so many of the same views."""
    rows: dict[str, dict[str, float]] = {}
    with tqdm(total=args.scenes * len(args.views), unit="scene") as progress:
        for count in args.views:
            results = run_benchmark(
                model,
                seed=args.seed,
                scenes=args.scenes,
                views=max(args.views),
                shown=count,
                with_baselines=False,
                on_scene=lambda _: progress.update(),
            )
            errors = sum(bool(result.error) for result in results)
            rows[f"{count} views"] = {"scenes": args.scenes - errors, "errors": errors} | summary(results).get(
                "model", {}
            )
    print(table(rows))
    if args.json:
        write_json(args.json, {"weights": str(args.weights), "seed": args.seed, "by_views": rows})
    return 0 if any(row["scenes"] for row in rows.values()) else 1


def _require_writable(json: Path | None) -> None:
    if json is not None:
        require_writable(json.parent)


def _judge(args: argparse.Namespace, load_judge: Callable[[Path, str], Judge]) -> Judge | None:
    return load_judge(args.judges, args.device) if args.judges else None


def _print_tables(rows: Mapping[str, Mapping[str, float]]) -> None:
    if rows:
        print(table(rows))
    if images := image_table(rows):
        print(images)


def _rows(method: str, result: FolderScores) -> list[dict[str, Any]]:
    """One row for each scene of a method."""
    scored = [{"scene": stem, "method": method, **score.row()} for stem, score in result.scores.items()]
    return scored + [{"scene": stem, "method": method, "error": error} for stem, error in result.errors.items()]


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
    rows = {}
    for which, seed in best_median_worst(f_scores).items():
        generated, _, truth = scene_pictures(by_seed[seed])
        label = f"{which}: scene {seed}, F-S {f_scores[seed]:.1f} (input, truth, generated)"
        rows[label] = [by_seed[seed].question.views[0].image, truth, generated]
    write_contact_sheet(args.json.with_suffix(".png"), rows)


def _folder_sheet(args: argparse.Namespace, results: Mapping[str, FolderScores]) -> None:
    """Best, median and worst scene of the first method that has any, beside the other methods' of the same names."""
    first = next((result for result in results.values() if result.scores), None)
    if first is None:
        return
    f_scores = {stem: score.of_scene["f_s"] for stem, score in first.scores.items()}
    rows = {}
    for which, stem in best_median_worst(f_scores).items():
        columns = _compared(args, results, stem)
        rows[f"{which}: {stem}, F-S {f_scores[stem]:.1f} ({', '.join(columns)})"] = list(columns.values())
    write_contact_sheet(args.json.with_suffix(".png"), rows)


def _compared(args: argparse.Namespace, results: Mapping[str, FolderScores], stem: str) -> dict[str, Picture]:
    """The pictures of one scene by what they show: photograph if there is one, truth, and every method's answer."""
    truth = load_objects(args.truth / f"{stem}.glb")
    pictures: dict[str, Picture] = {} if args.images else {"truth": draw_normalised(truth)}
    for method, result in results.items():
        if stem in result.scores:
            made = load_objects(Path(method) / f"{stem}.glb")
            if args.images:
                drawn = draw_scene(args.images / stem, made, truth, result.scores[stem])
                pictures |= {"input": drawn[1], "truth": drawn[2], method: drawn[0]}
            else:
                pictures[method] = draw_normalised(made)
    return pictures
