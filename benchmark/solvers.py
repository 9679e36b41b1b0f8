"""What fewer evaluations cost: shape and placement of held-out scenes against network passes, for each solver.

`python -m benchmark.solvers` samples the structures of synthetic scenes that training never saw (seeds 800000 and up)
from the same noise by both solvers and two schedules, prints a table and draws docs/speed.png. Measured against the
truth, and against the limit that ever more steps come to. Fast mode must hold in placement as well as in shape.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import matplotlib
import numpy as np
import torch
from torch import Tensor

from scenegen.evaluation.benchmark import HeldOutScene, held_out_scene
from scenegen.evaluation.metrics import Grid, voxel_iou
from scenegen.evaluation.symmetry import placement_errors, symmetric_voxel_iou
from scenegen.generator import SceneGen
from scenegen.generator.checkpoints import SamplerSettings
from scenegen.generator.pipeline import views_and_ids
from scenegen.generator.sampling import cpu_noise, sample_structure
from scenegen.scene import Floats, Placement, Scene

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402

_PICTURE = Path(__file__).resolve().parents[1] / "docs" / "speed.png"
_FIRST_SEED = 800_000
_WAYS: dict[str, SamplerSettings] = {
    "Euler, rescale 3 (as published)": SamplerSettings("euler", rescale_t=3.0),
    "second order, rescale 3": SamplerSettings("ab2", rescale_t=3.0),
    "second order, rescale 2 (fast)": SamplerSettings("ab2", rescale_t=2.0),
}
_STEPS = {"euler": (4, 6, 8, 10, 12, 25), "ab2": (4, 6, 8, 10, 12)}
_LIMIT = SamplerSettings("ab2", steps=40, rescale_t=2.0)
_FIGURES = {
    "voxel_iou": "voxel IoU with the truth",
    "translation": "translation error, query sizes",
    "rotation_deg": "rotation error, degrees",
    "missing_iou": "1 - voxel IoU with the limit",
    "moved": "placement's distance to the limit's, query sizes",
}


@dataclass(frozen=True)
class Sample:
    """One scene's structures as occupancy, and T_query_asset [n, 4, 4], both in the order of the question's ids."""

    voxels: Sequence[Grid]
    T_query_asset: Floats


class Question:
    """A held-out scene with its condition encoded and its noise drawn: to be sampled in many ways."""

    def __init__(self, model: SceneGen, scene: HeldOutScene) -> None:
        self.model, self.scene = model, scene
        views, self.ids = views_and_ids(scene.views, scene.ids)
        self.conditions = list(model.conditioner.encode(views, self.ids, model.multiview))
        shape = len(self.ids), model.decoder.input_layer.in_channels, *[model.flow.resolution] * 3
        self.noise = cpu_noise(shape, torch.Generator().manual_seed(42))

    def sample(self, settings: SamplerSettings) -> Sample:
        """Structures and placements, sampled so."""
        latents, rows = sample_structure(self.model.flow, self.noise, self.conditions, **asdict(settings))
        assert rows is not None
        order = [self.ids.index(i) for i in self.scene.ids]
        occupied = (self.model.decoder(latents[order])[:, 0] > 0).numpy()
        return Sample(list(occupied), self._relative(rows[order]))

    def figures(self, sample: Sample, limit: Sample) -> list[float]:
        """In the order of _FIGURES: means over the scene's assets, of placements without the query's own."""
        truth, query = self.scene.truth, self.scene.truth.query
        symmetry = [made.symmetry for made in self.scene.objects]
        others = np.arange(len(symmetry)) != query
        true_voxels = [made.occupancy(len(sample.voxels[0])) for made in self.scene.objects]
        errors = placement_errors(sample.T_query_asset, _relative_to(truth, query), query, symmetry)
        pairs = zip(sample.voxels, true_voxels, symmetry, strict=True)
        kept = [voxel_iou(voxels, last) for voxels, last in zip(sample.voxels, limit.voxels, strict=True)]
        moved = np.linalg.norm((sample.T_query_asset - limit.T_query_asset)[others, :3, 3], axis=1)
        return [
            float(np.mean([symmetric_voxel_iou(*pair) for pair in pairs])),
            float(errors.translation[others].mean()),
            float(errors.rotation_deg[others].mean()),
            1 - float(np.mean(kept)),
            float(moved.mean()),
        ]

    def _relative(self, rows: Tensor) -> Floats:
        placements = tuple(Placement(np.array(row[:3]), np.array(row[3:7]), row[7]) for row in rows.tolist())
        answer = Scene(self.scene.truth.assets, placements, self.scene.ids.index(self.ids[0]))
        return _relative_to(answer, self.scene.truth.query)


def passes(settings: SamplerSettings) -> int:
    """How often the network is evaluated."""
    return settings.steps + sum(settings.guided)


@torch.inference_mode()
def run(weights: str, scenes: int, guidance: float | None = None) -> dict[str, dict[int, Floats]]:
    """Figures (in the order of _FIGURES) by way and number of steps: means over so many scenes."""
    model = SceneGen.from_pretrained(weights)
    exact = model.sampler if guidance is None else replace(model.sampler, guidance=guidance)
    rows: dict[str, dict[int, list[list[float]]]] = {
        way: {steps: [] for steps in _STEPS[settings.solver]} for way, settings in _WAYS.items()
    }
    seed = _FIRST_SEED
    for _ in range(scenes):
        while (scene := held_out_scene(seed)) is None:
            seed += 1
        seed += 1
        question = Question(model, scene)
        limit = question.sample(_as(exact, _LIMIT))
        for way, of_way in rows.items():
            for steps, of_steps in of_way.items():
                sample = question.sample(replace(_as(exact, _WAYS[way]), steps=steps))
                of_steps.append(question.figures(sample, limit))
    return {way: {steps: np.mean(values, axis=0) for steps, values in of.items()} for way, of in rows.items()}


def table(results: dict[str, dict[int, Floats]], guidance: float) -> str:
    """A line for each way and number of steps."""
    lines = [f"{'':<34}steps passes" + "".join(f"{name:>14}" for name in _FIGURES)]
    for way, of_way in results.items():
        for steps, values in of_way.items():
            count = passes(replace(_WAYS[way], steps=steps, guidance=guidance))
            lines.append(f"{way:<34}{steps:5d} {count:6d}" + "".join(f"{value:14.4f}" for value in values))
    return "\n".join(lines)


def draw(path: Path, results: dict[str, dict[int, Floats]], guidance: float) -> None:
    """One panel for each figure but the rotation, which the table has."""
    figure, panels = pyplot.subplots(2, 2, figsize=(10, 7), layout="constrained", sharex=True)
    for panel, name in zip(panels.T.flat, ["voxel_iou", "missing_iou", "translation", "moved"], strict=True):
        for way, of_way in results.items():
            counts = [passes(replace(_WAYS[way], steps=steps, guidance=guidance)) for steps in of_way]
            values = [values[list(_FIGURES).index(name)] for values in of_way.values()]
            panel.plot(counts, values, marker="o", ms=4, label=way, linestyle="-" if "second" in way else "--")
        panel.set_title(_FIGURES[name], fontsize="medium")
        panel.grid(alpha=0.3)
        if name in ("missing_iou", "moved"):
            panel.set_yscale("log")
        else:
            panel.set_ylim(0, 1.15 * panel.dataLim.ymax)
    for panel in panels[1]:
        panel.set_xlabel("network passes")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize="small")
    figure.savefig(path, dpi=100)
    pyplot.close(figure)


def _as(exact: SamplerSettings, way: SamplerSettings) -> SamplerSettings:
    """The solver and the schedule of a way, all else as the weights say."""
    return replace(exact, solver=way.solver, steps=way.steps, rescale_t=way.rescale_t)


def _relative_to(scene: Scene, query: int) -> Floats:
    """Placements [n, 4, 4] relative to one of the assets."""
    T = np.stack([scene.T_query_asset(i) for i in range(len(scene.assets))])
    return np.linalg.inv(T[query]) @ T


def main() -> None:
    """Measure, print, draw."""
    parser = argparse.ArgumentParser(prog="python -m benchmark.solvers", description=__doc__)
    parser.add_argument("--weights", default="tiny")
    parser.add_argument("--scenes", type=int, default=12)
    parser.add_argument("--guidance", type=float, help="instead of the weights' own; the published models' is 5")
    parser.add_argument("--picture", type=Path, default=_PICTURE)
    given = parser.parse_args()
    results = run(given.weights, given.scenes, given.guidance)
    guidance = SceneGen.from_pretrained(given.weights).sampler.guidance if given.guidance is None else given.guidance
    print(table(results, guidance))
    draw(given.picture, results, guidance)


if __name__ == "__main__":
    main()
