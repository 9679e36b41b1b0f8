"""Synthesise unseen scenes, generate them, score the result beside three trivial baselines.

Knows scenegen.synthetic and anything that answers views with a Scene; nothing about networks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from scenegen.evaluation.baselines import Baselines, Guess
from scenegen.evaluation.images import Judge, Picture, camera_of, draw, image_features, image_figures, objects_on_white
from scenegen.evaluation.metrics import POINTS_PER_OBJECT, sample_surface
from scenegen.evaluation.scoring import SceneScore, evaluate_points, mean_scores
from scenegen.evaluation.symmetry import placement_errors, symmetric_voxel_iou
from scenegen.evaluation.voxels import RESOLUTION, voxelise
from scenegen.scene import Floats, Scene, View
from scenegen.synthetic import ProceduralObject, SyntheticScene, camera_path, make_camera, make_scene, render_views
from scenegen.synthetic import true_scene as scene_truth

WIDTH, HEIGHT = 640, 480
SMALLEST_MASK = 80 / (400 * 300)
"""Share of the picture below which an object is not asked for: training leaves out the same."""
FEWEST_OBJECTS = 2
"""A single object has no placement, and its scene metrics hide what they should show."""


class Generator(Protocol):
    """Anything that answers views as scenegen.generator.pipeline.SceneGen does."""

    def generate(self, views: Sequence[View], *, seed: int = 42, ids: Sequence[int] | None = None) -> Scene:
        """The objects with these instance ids."""
        ...


@dataclass(frozen=True)
class ImagesOnly:
    """A generator that is told nothing of the camera: it gets images and masks, as the paper's do."""

    model: Generator

    def generate(self, views: Sequence[View], *, seed: int = 42, ids: Sequence[int] | None = None) -> Scene:
        """See Generator."""
        bare = [replace(view, depth_m=None, intrinsics=None, T_world_camera=None) for view in views]
        return self.model.generate(bare, seed=seed, ids=ids)


@dataclass(frozen=True)
class HeldOutScene:
    """One question and its answer: views, the ids to generate, and the truth in the frame of its query asset."""

    seed: int
    made: SyntheticScene
    views: tuple[View, ...]
    truth: Scene

    @property
    def ids(self) -> tuple[int, ...]:
        """Instance ids to generate, ascending, as truth.assets."""
        return tuple(asset.id for asset in self.truth.assets)

    @property
    def objects(self) -> tuple[ProceduralObject, ...]:
        """The synthetic objects of those ids."""
        return tuple(self.made.objects[i - 1] for i in self.ids)


@dataclass(frozen=True)
class SceneResult:
    """What came of one scene: scores by method ("model" and the baselines), or why there are none."""

    question: HeldOutScene
    answer: Scene | None
    T_turn: Floats
    scores: Mapping[str, SceneScore] = field(default_factory=dict)
    error: str = ""


def held_out_scene(seed: int, views: int = 1) -> HeldOutScene | None:
    """The scene of a seed; None when fewer than two objects can be asked for.

    Asked for is what fills SMALLEST_MASK of the first view and is seen at all by every other one.
    """
    made = make_scene(seed, count=(2, 5))
    camera = make_camera(np.random.default_rng([seed, 7]), WIDTH, HEIGHT)
    seen = render_views(made, camera, camera_path(made, views, seed, camera))
    areas = np.bincount(seen[0].masks.ravel(), minlength=len(made.objects) + 1) / (WIDTH * HEIGHT)
    ids = [i for i in seen[0].instance_ids if areas[i] >= SMALLEST_MASK]
    ids = [i for i in ids if all(i in view.instance_ids for view in seen)]
    if len(ids) < FEWEST_OBJECTS:
        return None
    return HeldOutScene(seed, made, seen, scene_truth(made, seen[0], ids))


def run_benchmark(
    model: Generator,
    *,
    seed: int,
    scenes: int,
    views: int = 1,
    shown: int | None = None,
    judge: Judge | None = None,
    with_baselines: bool = True,
    on_scene: Callable[[SceneResult], None] | None = None,
) -> list[SceneResult]:
    """Ask the model for the first so many usable held-out scenes from a seed on.

    views: of each scene, all of which see what is asked for. shown: the model gets the first so many of them only.
    judge: for the image figures that take networks. on_scene hears of each result.
    """
    baselines = Baselines() if with_baselines else None
    results: list[SceneResult] = []
    while len(results) < scenes:
        question = held_out_scene(seed, views)
        seed += 1
        if question is None:
            continue
        question = replace(question, views=question.views[:shown])
        results.append(run_scene(model, question, baselines, judge))
        if on_scene:
            on_scene(results[-1])
    return results


def run_scene(
    model: Generator, question: HeldOutScene, baselines: Baselines | None, judge: Judge | None = None
) -> SceneResult:
    """Generate one scene and score it with its baselines. What the model cannot do becomes the result's error.

    Image figures are the model's alone: baselines are clouds of points.
    """
    started = time.perf_counter()
    try:
        answer = model.generate(question.views, ids=question.ids)
    except RuntimeError as error:
        return SceneResult(question, None, np.eye(4), error=str(error))
    seconds = (time.perf_counter() - started) / len(question.ids)
    if tuple(asset.id for asset in answer.assets) != question.ids:
        missing = sorted(set(question.ids) - {asset.id for asset in answer.assets})
        return SceneResult(question, answer, np.eye(4), error=f"objects {missing} were not generated")

    guess = _guess(answer, question.truth.query)
    truth = Guess(
        points=tuple(true_surface(made, seed=2 * i + 1) for i, made in enumerate(question.objects)),
        voxels=tuple(made.occupancy(RESOLUTION) for made in question.objects),
        T_query_asset=_relative(question.truth, question.truth.query),
    )
    symmetry = [made.symmetry for made in question.objects]
    methods = {"model": guess, **(baselines.of(guess, question.truth.query) if baselines else {})}
    scored = {name: _score(method, truth, question.truth.query, symmetry, seconds) for name, method in methods.items()}
    scores = {name: score for name, (score, _) in scored.items()}
    result = SceneResult(question, answer, scored["model"][1], scores)
    pictures = scene_pictures(result)
    of_scene = {**scores["model"].of_scene, **image_figures(*pictures, judge)}
    scores["model"] = replace(scores["model"], of_scene=of_scene, features=image_features(*pictures, judge))
    return result


def scene_pictures(result: SceneResult) -> tuple[Picture, Picture, Picture]:
    """What the input camera sees of an answer that has scores, aligned; the photograph's objects; the truth."""
    question, answer = result.question, result.answer
    assert answer is not None
    query = question.truth.query
    T_world_query = question.made.T_world_object[question.ids[query] - 1].copy()
    T_world_query[:3, :3] *= question.made.size_m[question.ids[query] - 1]
    # the truth was turned before it was compared, by a turn that leaves its query as it is
    T_world_answer = T_world_query @ np.linalg.inv(result.T_turn) @ result.scores["model"].T_truth_generated
    view = question.views[0]
    camera = camera_of(view)
    true, made = _relative(question.truth, query), _relative(answer, query)
    return (
        draw([asset.mesh for asset in answer.assets], list(T_world_answer @ made), *camera),
        objects_on_white(view, question.ids),
        draw([asset.mesh for asset in question.truth.assets], list(T_world_query @ true), *camera),
    )


def summary(results: Sequence[SceneResult]) -> dict[str, dict[str, float]]:
    """Means by method and JSON name over the scenes that have scores; empty when none has."""
    good = [result.scores for result in results if not result.error]
    return {name: mean_scores([scores[name] for scores in good]) for name in (good[0] if good else ())}


def true_surface(made: ProceduralObject, *, seed: int, count: int = POINTS_PER_OBJECT) -> Floats:
    """Points [count, 3] on the outside of a synthetic object; its mesh has faces inside overlapping parts too."""
    mesh = made.mesh()
    outside: list[Floats] = []
    while sum(map(len, outside)) < count:
        points = sample_surface(mesh, 2 * count, seed=seed)
        outside.append(points[made.sdf(points) > -1e-3])
        seed += 1_000_003
    points = np.concatenate(outside)
    return points[np.sort(np.random.default_rng(seed).permutation(len(points))[:count])]


def _guess(answer: Scene, query: int) -> Guess:
    return Guess(
        points=tuple(sample_surface(asset.mesh, seed=2 * i) for i, asset in enumerate(answer.assets)),
        voxels=tuple(voxelise(asset.mesh) for asset in answer.assets),
        T_query_asset=_relative(answer, query),
    )


def _relative(scene: Scene, query: int) -> Floats:
    """Placements [n, 4, 4] relative to the asset that the truth calls the query."""
    T = np.stack([scene.T_query_asset(i) for i in range(len(scene.assets))])
    return np.linalg.inv(T[query]) @ T


def _score(
    guess: Guess, truth: Guess, query: int, symmetry: Sequence[int], seconds: float
) -> tuple[SceneScore, Floats]:
    """All figures of one answer, and the turn of the query's frame they were taken in."""
    errors = placement_errors(guess.T_query_asset, truth.T_query_asset, query, symmetry)
    T_truth = errors.T_turn @ truth.T_query_asset
    score = evaluate_points(
        [_placed(points, T) for points, T in zip(guess.points, guess.T_query_asset, strict=True)],
        [_placed(points, T) for points, T in zip(truth.points, T_truth, strict=True)],
    )
    others = np.arange(len(symmetry)) != query
    of_objects = {
        "voxel_iou": np.array(
            [symmetric_voxel_iou(g, t, n) for g, t, n in zip(guess.voxels, truth.voxels, symmetry, strict=True)]
        ),
        # the query's own placement is the identity by definition and counts for nothing
        "translation_error": np.where(others, errors.translation, np.nan),
        "rotation_error_deg": np.where(others, errors.rotation_deg, np.nan),
        "scale_ratio_error": np.where(others, errors.scale_ratio, np.nan),
        "seconds_per_asset": np.full(len(symmetry), seconds),
    }
    return replace(score, of_objects={**score.of_objects, **of_objects}), errors.T_turn


def _placed(points: Floats, T_query_asset: Floats) -> Floats:
    return points @ T_query_asset[:3, :3].T + T_query_asset[:3, 3]
