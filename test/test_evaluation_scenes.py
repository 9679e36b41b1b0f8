"""Whole scenes: protocol figures, folders of GLB files, and the benchmark with answers made from the truth."""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import trimesh
from scipy.spatial.transform import Rotation

from scenegen.cli import main
from scenegen.evaluation.baselines import Baselines, Guess
from scenegen.evaluation.benchmark import (
    SceneResult,
    held_out_scene,
    run_benchmark,
    run_scene,
    summary,
    true_surface,
)
from scenegen.evaluation.commands import add_parser
from scenegen.evaluation.folders import evaluate_folders
from scenegen.evaluation.images import Picture
from scenegen.evaluation.metrics import voxel_iou
from scenegen.evaluation.scoring import evaluate_scene, mean_scores
from scenegen.glb import meshes_to_glb
from scenegen.scene import Asset, Floats, InvalidInput, Placement, Scene, View
from scenegen.synthetic import make_object, make_scene

SEED = 42_001


def furniture(gap: float = 0.5) -> list[trimesh.Trimesh]:
    """Two boxes and a ball on a floor."""
    return [
        trimesh.creation.box((1.0, 0.6, 0.4)).apply_translation((0, 0, 0.2)),
        trimesh.creation.box((0.3, 0.3, 0.9)).apply_translation((0.65 + gap, 0.2, 0.45)),
        trimesh.creation.icosphere(3, 0.3).apply_translation((0.1, -0.6 - gap, 0.3)),
    ]


class Oracle:
    """A generator that knows the seeds it will be asked for, and answers the truth after a change."""

    def __init__(self, turn_query_deg: float = 0.0, shift: float = 0.0, drop: bool = False) -> None:
        self.turn_query_deg, self.shift, self.drop = turn_query_deg, shift, drop
        self.seed = SEED

    def generate(self, views: Sequence[View], *, seed: int = 42, ids: Sequence[int] | None = None) -> Scene:
        question = held_out_scene(self.seed, len(views))
        assert question is not None and (question.views[0].image == views[0].image).all() and ids == question.ids
        self.seed += 1
        truth = question.truth
        yaw = Rotation.from_euler("y", self.turn_query_deg, degrees=True)  # y is up in placements
        placements = []
        for i, placement in enumerate(truth.placements):
            turned = yaw * Rotation.from_quat(placement.rotation_wxyz, scalar_first=True)
            moved = yaw.apply(placement.translation) + [self.shift, 0, 0]
            query = i == truth.query
            placements.append(
                Placement.identity() if query else Placement(moved, turned.as_quat(scalar_first=True), placement.scale)
            )
        keep = len(truth.assets) - self.drop
        return Scene(truth.assets[:keep], tuple(placements[:keep]), min(truth.query, keep - 1))


class NoBaselines(Baselines):
    """For tests of the model's own figures."""

    def __init__(self) -> None:
        pass

    def of(self, answer: Guess, query: int) -> dict[str, Guess]:
        return {}


def test_a_perfect_scene_wherever_it_stands() -> None:
    moved = [mesh.copy().apply_scale(3).apply_translation((5, 6, 7)) for mesh in furniture()]
    row = evaluate_scene(moved, furniture()).row()
    assert row["f_s"] == 100 and row["f_o"] > 99
    assert row["cd_s"] < 5e-3 and row["cd_o"] < 1e-2
    assert row["iou_b_icp"] > 0.95 and row["iou_b"] > 0.6


def test_misplaced_objects_cost_scene_figures_and_not_object_figures() -> None:
    good, bad = (evaluate_scene(meshes, furniture()).row() for meshes in (furniture(), furniture(gap=1.2)))
    assert bad["f_s"] < 85 and bad["cd_s"] > 3 * good["cd_s"] and bad["iou_b"] < 0.7 * good["iou_b"]
    assert bad["f_o"] == pytest.approx(good["f_o"], abs=1)


def test_wrong_shapes_cost_object_figures() -> None:
    boxes = [trimesh.creation.box(bounds=mesh.bounds) for mesh in furniture()]
    score = evaluate_scene(boxes, furniture())
    assert (score.of_objects["f_o"][:2] > 99).all() and score.of_objects["f_o"][2] < 80
    assert score.of_objects["iou_b_icp"].min() > 0.9


def test_the_same_again() -> None:
    assert evaluate_scene(furniture(), furniture()).row() == evaluate_scene(furniture(), furniture()).row()


def test_counts_must_agree() -> None:
    with pytest.raises(InvalidInput, match="2 generated objects, 3 true ones"):
        evaluate_scene(furniture()[:2], furniture())


def test_object_figures_are_means_over_objects_not_over_scenes() -> None:
    one = evaluate_scene(furniture()[2:], furniture()[2:])
    boxes = [trimesh.creation.box(bounds=mesh.bounds) for mesh in furniture()]
    three = evaluate_scene(boxes, furniture())
    table = mean_scores([one, three])
    assert table["f_o"] == pytest.approx(np.mean([*one.of_objects["f_o"], *three.of_objects["f_o"]]))
    assert table["f_s"] == pytest.approx((one.of_scene["f_s"] + three.of_scene["f_s"]) / 2)


def write_glb(path: Path, meshes: list[trimesh.Trimesh]) -> None:
    path.parent.mkdir(exist_ok=True)
    nodes = {f"object_{i}": (mesh, np.eye(4)) for i, mesh in enumerate(meshes)}
    path.write_bytes(meshes_to_glb(nodes))


class NoJudge:
    """A judge that no test here asks for."""

    def compare(self, generated: Picture, reference: Picture) -> Mapping[str, float]:
        raise AssertionError

    def features(self, picture: Picture) -> Floats | None:
        raise AssertionError


def command_line(words: list[str]) -> int:
    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers(), lambda weights, device: Oracle(), lambda folder, device: NoJudge())
    args = parser.parse_args(words)
    status: int = args.run(args)
    return status


def test_folders_and_every_way_a_scene_can_fail(tmp_path: Path) -> None:
    for stem in ("a_good", "b_count", "c_missing", "d_broken"):
        write_glb(tmp_path / "truth" / f"{stem}.glb", furniture())
    write_glb(tmp_path / "made" / "a_good.glb", furniture())
    write_glb(tmp_path / "made" / "b_count.glb", furniture()[:2])
    (tmp_path / "made" / "d_broken.glb").write_bytes(b"glTF, but not for long")
    result = evaluate_folders(tmp_path / "made", tmp_path / "truth")
    assert list(result.scores) == ["a_good"] and result.scores["a_good"].row()["f_s"] == 100
    assert list(result.errors) == ["b_count", "c_missing", "d_broken"]
    assert "2 generated objects, 3 true ones" in result.errors["b_count"]
    assert "is missing" in result.errors["c_missing"] and "not a readable GLB" in result.errors["d_broken"]
    assert result.table()["scenes"] == 1 and result.table()["errors"] == 3
    with pytest.raises(InvalidInput, match="holds no .glb"):
        evaluate_folders(tmp_path / "made", tmp_path)


def test_evaluate_command_writes_figures_rows_and_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_glb(tmp_path / "truth" / "a.glb", furniture())
    write_glb(tmp_path / "truth" / "b.glb", furniture())
    write_glb(tmp_path / "made" / "a.glb", furniture(gap=0.8))
    figures = tmp_path / "out" / "scores.json"
    words = ["evaluate", str(tmp_path / "made"), str(tmp_path / "truth"), "--json", str(figures)]
    assert command_line(words) == 0
    said = capsys.readouterr()
    assert "1 scenes scored, 1 failed" in said.out and "CD-S" in said.out and "b.glb is missing" in said.err
    written = json.loads(figures.read_text())
    assert written["scenes"] == 1 and written["errors"] == 1 and list(written["failed"]) == ["b"]
    assert {"cd_s", "cd_o", "f_s", "f_o", "iou_b"} <= set(written)
    with figures.with_suffix(".csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["scene"] for row in rows] == ["a", "b"] and float(rows[0]["f_s"]) == pytest.approx(written["f_s"])
    assert "missing" in rows[1]["error"]
    assert figures.with_suffix(".png").stat().st_size > 3000
    (tmp_path / "made" / "a.glb").unlink()
    assert command_line(words) == 1


def run_oracle(oracle: Oracle, baselines: Baselines | None = None, scenes: int = 1) -> list[SceneResult]:
    questions = [held_out_scene(SEED + k) for k in range(scenes)]
    return [run_scene(oracle, question, baselines or NoBaselines()) for question in questions if question]


def test_the_truth_beats_every_baseline() -> None:
    means = summary(run_oracle(Oracle(), Baselines(scenes=10)))
    assert list(means) == ["model", "mean_shape", "box", "constant_placement"]
    model = means["model"]
    assert model["voxel_iou"] > 0.95 and model["f_s"] > 99 and model["iou_b_icp"] > 0.9
    assert model["translation_error"] < 1e-6 and model["scale_ratio_error"] < 1e-6
    for name in ("mean_shape", "box"):
        assert means[name]["voxel_iou"] < 0.6 and means[name]["f_o"] < 80
        assert means[name]["translation_error"] < 1e-6
    assert means["constant_placement"]["voxel_iou"] == model["voxel_iou"]
    assert means["constant_placement"]["translation_error"] > 0.5
    assert means["constant_placement"]["f_s"] < model["f_s"]
    wanted = (
        "cd_s cd_o f_s f_o iou_b voxel_iou translation_error rotation_error_deg scale_ratio_error seconds_per_asset"
    )
    assert all(set(wanted.split()) <= set(row) for row in means.values())


def test_the_mean_shape_is_as_good_as_one_shape_for_all_can_be() -> None:
    baselines = Baselines(scenes=15)
    objects = [made.occupancy(32) for seed in range(SEED, SEED + 10) for made in make_scene(seed).objects]
    mean, box = (
        np.mean([voxel_iou(guess, grid) for grid in objects]) for guess in (baselines.mean_voxels, baselines.box_voxels)
    )
    assert mean > box + 0.03
    assert np.abs(baselines.mean_points).max() <= 0.5 and np.isclose(np.abs(baselines.box_points).max(), 0.5)


def test_the_command_line_knows_both_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(tmp_path), str(tmp_path)]) == 2
    assert main(["benchmark", "--weights", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "holds no .glb file" in said and "no pipeline.json" in said


def test_a_shift_is_measured_in_query_sizes_and_the_query_does_not_count() -> None:
    result = run_oracle(Oracle(shift=0.25))[0]
    score, query = result.scores["model"], result.question.truth.query
    errors = score.of_objects["translation_error"]
    assert np.isnan(errors[query])
    assert np.allclose(np.delete(errors, query), 0.25)
    assert score.row()["translation_error"] == pytest.approx(0.25)


def test_a_turned_frame_is_free_only_when_the_query_is_symmetric() -> None:
    rows = {}
    for seed in range(SEED, SEED + 12):
        question = held_out_scene(seed)
        order = question.objects[question.truth.query].symmetry if question else -1
        if question and order in (0, 1) and order not in rows:
            oracle = Oracle(turn_query_deg=180)
            oracle.seed = seed
            rows[order] = run_scene(oracle, question, NoBaselines()).scores["model"].row()
    assert rows[0]["translation_error"] < 0.05 and rows[0]["f_s"] > 99
    assert rows[1]["translation_error"] > 0.5 and rows[1]["f_s"] < 95


def test_a_missing_object_is_an_error_of_its_scene() -> None:
    result = run_oracle(Oracle(drop=True))[0]
    assert "were not generated" in result.error and not result.scores
    assert summary([result]) == {}


def test_questions_are_the_same_again_and_leave_out_what_is_hidden() -> None:
    first, again = held_out_scene(SEED, 2), held_out_scene(SEED, 2)
    assert first is not None and again is not None and len(first.views) == 2
    assert (first.views[1].image == again.views[1].image).all() and first.ids == again.ids
    for instance_id in first.ids:
        assert (first.views[0].masks == instance_id).mean() > 80 / 120_000
    assert first.truth.placements[first.truth.query].scale == 1


def test_true_surfaces_have_no_points_inside() -> None:
    made = make_object(np.random.default_rng(3), "can")
    points = true_surface(made, seed=1, count=2000)
    assert points.shape == (2000, 3)
    assert np.abs(made.sdf(points)).max() < 2e-3
    assert (points == true_surface(made, seed=1, count=2000)).all()


def test_benchmark_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scenegen.evaluation.benchmark.Baselines", lambda: Baselines(scenes=5))
    figures = tmp_path / "bench.json"
    assert command_line(["benchmark", "--seed", str(SEED), "--scenes", "1", "--json", str(figures)]) == 0
    assert "constant_placement" in capsys.readouterr().out
    written = json.loads(figures.read_text())
    assert written["scenes"] == 1 and written["errors"] == 0 and written["model"]["voxel_iou"] > 0.95
    with (tmp_path / "bench_objects.csv").open() as file:
        objects = list(csv.DictReader(file))
    question = held_out_scene(SEED)
    assert question is not None and [int(row["id"]) for row in objects] == list(question.ids)
    assert [row["translation_error"] == "" for row in objects] == [row["query"] == "1" for row in objects]
    with (tmp_path / "bench.csv").open() as file:
        assert [row["method"] for row in csv.DictReader(file)][:2] == ["model", "mean_shape"]
    assert (tmp_path / "bench.png").stat().st_size > 10_000


def test_more_views_are_compared_on_the_same_scenes(tmp_path: Path) -> None:
    seen: list[tuple[int, tuple[int, ...], bytes]] = []

    class Counting:
        def generate(self, views: Sequence[View], *, seed: int = 42, ids: Sequence[int] | None = None) -> Scene:
            question = held_out_scene(SEED, 2)
            assert question is not None
            seen.append((len(views), tuple(ids or ()), views[0].image.tobytes()))
            if len(views) == 1:
                raise RuntimeError("one view is not enough")
            return question.truth

    figures = tmp_path / "views.json"
    arguments = argparse.ArgumentParser()
    add_parser(arguments.add_subparsers(), lambda *_: Counting(), lambda *_: pytest.fail("no judge was asked for"))
    words = ["benchmark", "--seed", str(SEED), "--scenes", "1", "--views", "1", "2", "--json", str(figures)]
    args = arguments.parse_args(words)
    assert args.run(args) == 0
    assert [count for count, *_ in seen] == [1, 2] and seen[0][1:] == seen[1][1:]
    rows = json.loads(figures.read_text())["by_views"]
    assert rows["1 views"] == {"scenes": 0, "errors": 1}
    assert rows["2 views"]["voxel_iou"] > 0.95


def test_scenes_of_one_object_are_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    class Empty:
        def generate(self, views: Sequence[View], *, seed: int = 42, ids: Sequence[int] | None = None) -> Scene:
            asked.append(len(ids or ()))
            raise RuntimeError("nothing came out")

    monkeypatch.setattr("scenegen.evaluation.benchmark.Baselines", lambda: None)
    results = run_benchmark(Empty(), seed=SEED, scenes=2)
    assert len(results) == 2 and min(asked) >= 2
    assert all(result.error == "nothing came out" for result in results)


def test_the_query_of_the_truth_counts_whatever_the_answer_calls_its_query() -> None:
    class OtherQuery(Oracle):
        def generate(self, views: Sequence[View], *, seed: int = 42, ids: Sequence[int] | None = None) -> Scene:
            scene = super().generate(views, seed=seed, ids=ids)
            other = (scene.query + 1) % len(scene.assets)
            T = [np.linalg.inv(scene.T_query_asset(other)) @ scene.T_query_asset(i) for i in range(len(scene.assets))]
            to_yup = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])
            placements = []
            for matrix in T:
                scale = np.cbrt(np.linalg.det(matrix[:3, :3]))
                turn = Rotation.from_matrix(to_yup @ (matrix[:3, :3] / scale) @ to_yup.T)
                placements.append(Placement(to_yup @ matrix[:3, 3], turn.as_quat(scalar_first=True), float(scale)))
            assets: tuple[Asset, ...] = scene.assets
            return Scene(assets, tuple(placements), other)

    row = run_oracle(OtherQuery())[0].scores["model"].row()
    assert row["translation_error"] < 1e-6 and row["rotation_error_deg"] < 1e-4


def test_images_only_tells_the_model_nothing_of_the_camera(tmp_path: Path) -> None:
    seen: list[View] = []

    class Watching:
        def generate(self, views: Sequence[View], *, seed: int = 42, ids: Sequence[int] | None = None) -> Scene:
            seen.extend(views)
            question = held_out_scene(SEED)
            assert question is not None
            return question.truth

    arguments = argparse.ArgumentParser()
    add_parser(arguments.add_subparsers(), lambda *_: Watching(), lambda *_: pytest.fail("no judge was asked for"))
    for words in ([], ["--images-only"]):
        args = arguments.parse_args(["benchmark", "--seed", str(SEED), "--scenes", "1", "--views", "1", "2", *words])
        assert args.run(args) == 0
    known = [[v.intrinsics is not None, v.T_world_camera is not None, v.depth_m is not None] for v in seen]
    assert known == [[True] * 3] * 3 + [[False] * 3] * 3
    assert (seen[0].image == seen[3].image).all() and (seen[0].masks == seen[3].masks).all()
