"""What the exact savings (spec/cost.md section 3) save in structure sampling: time with and without them, side by side.

Both ways run in turn with the same weights, noise and conditions, so that their ratio means something on any machine;
the largest difference of their results stands beside it. Times are of one core's work, which other work on the machine
does not stretch. `python -m benchmark.sampling` prints it alone.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from benchmark.cost import operations
from scenegen.generator import SceneGen
from scenegen.generator.checkpoints import SamplerSettings
from scenegen.generator.sampling import cpu_noise, sample_structure
from scenegen.generator.structure.flow import SparseStructureFlowModel
from scenegen.render import Camera
from scenegen.scene import InvalidInput
from scenegen.synthetic import camera_path, make_scene, render

_EIGHTH: Mapping[str, Any] = {
    "resolution": 8,
    "in_channels": 8,
    "out_channels": 8,
    "model_channels": 128,
    "cond_channels": 128,
    "num_blocks": 24,
    "num_heads": 2,
    "patch_size": 1,
    "qk_rms_norm": True,
    "use_global": True,
    "local_tokens": 172,
}
"""The published model with an eighth of its width, latent tokens and condition tokens: each part of a pass has the
share of the whole that it has at full size, but for elementwise work, whose share is eight times as large."""
_EIGHTH_CONDITION_TOKENS = 5 * 172
_PUBLISHED = SamplerSettings()
_FEW_STEPS = 5
"""Of the published 25: four are guided, one is not."""


@dataclass(frozen=True)
class Comparison:
    """One model and scene. Seconds of one core for a sampling each way; counted_share: what operations lead to expect.

    difference: largest between the latents and placements of both ways; largest: their largest value.
    """

    name: str
    plain_s: float
    saving_s: float
    difference: float
    largest: float
    counted_share: float | None = None

    @property
    def share(self) -> float:
        """Time with the savings over time without."""
        return self.saving_s / self.plain_s

    def row(self) -> tuple[str, str]:
        """For the table."""
        counted = "" if self.counted_share is None else f" ({self.counted_share:.2f} by operations)"
        return self.name, (
            f"{self.share:.2f} of the time{counted}: {self.plain_s:.2f} -> {self.saving_s:.2f} s; "
            f"results differ by {self.difference:.1e} at most, of {self.largest:.1f}"
        )


@torch.inference_mode()
def run(repeats: int, assets: Sequence[int] = (1, 4)) -> list[Comparison]:
    """The packaged weights, if they are there, then the published proportions with so many assets each."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return [*_packaged(repeats), *(_proportions(count, repeats) for count in assets)]
    finally:
        torch.set_num_threads(threads)


def compare(
    name: str,
    flow: SparseStructureFlowModel,
    conditions: Sequence[Tensor],
    settings: SamplerSettings,
    repeats: int,
    steps: int | None = None,
    counted_share: float | None = None,
) -> Comparison:
    """Samples both ways `repeats` times in turn. conditions: [N, T, C] per view.

    steps: how many are taken, the time of all that the settings want being put together from them.
    """
    taken = replace(settings, steps=steps or settings.steps)
    shape = len(conditions[0]), flow.input_layer.in_features // flow.patch_size**3, *[flow.resolution] * 3
    noise = cpu_noise(shape, torch.Generator().manual_seed(0))
    seconds: dict[bool, list[list[float]]] = {False: [], True: []}
    results: dict[bool, Tensor] = {}
    for _ in range(repeats):
        for saving in (False, True):
            ticks = [time.thread_time()]

            def is_cancelled(ticks: list[float] = ticks) -> bool:
                ticks.append(time.thread_time())  # it is asked before each step
                return False

            latents, placements = sample_structure(
                flow, noise, conditions, exact_savings=saving, cancelled=is_cancelled, **asdict(taken)
            )
            ticks.append(time.thread_time())
            seconds[saving].append([end - begin for begin, end in pairwise(ticks)])
            assert placements is not None
            results[saving] = torch.cat([latents.flatten(), placements.flatten()])
    return Comparison(
        name,
        _all_steps(seconds[False], taken, settings),
        _all_steps(seconds[True], taken, settings),
        float((results[True] - results[False]).abs().max()),
        float(results[True].abs().max()),
        counted_share,
    )


def _all_steps(runs: Sequence[Sequence[float]], taken: SamplerSettings, wanted: SamplerSettings) -> float:
    """Seconds of all steps wanted, out of runs with what each began with and the steps taken; the least of each counts.

    The last step is one of its own: placements are of it.
    """
    beginning, *steps = (min(times) for times in zip(*runs, strict=True))
    least = {
        kind: min(s for s, guided in zip(steps, taken.guided, strict=True) if guided == kind)
        for kind in set(taken.guided)
    }
    return beginning + sum(least[guided] for guided in wanted.guided[:-1]) + steps[-1]


def _packaged(repeats: int) -> list[Comparison]:
    """The packaged weights on a synthetic view; nothing when there are none."""
    try:
        model = SceneGen.from_pretrained("tiny")
    except InvalidInput:
        return []
    truth, camera = make_scene(1), Camera.pinhole()
    view = render(truth, camera, camera_path(truth, 1, 1, camera)[0])
    conditions = list(model.conditioner.encode([view], view.instance_ids))
    settings = replace(model.sampler, steps=4, temperature=1.0)  # one step has nothing to save; noise, to differ by
    name = f"tiny weights, {len(view.instance_ids)} assets, {settings.steps} steps"
    return [compare(name, model.flow, conditions, settings, repeats)]


def _proportions(assets: int, repeats: int) -> Comparison:
    """A model of random weights in which every parameter matters."""
    generator = torch.Generator().manual_seed(1)
    flow = SparseStructureFlowModel(**_EIGHTH).eval()
    for parameter in flow.parameters():
        parameter.copy_(0.05 * torch.randn(parameter.shape, generator=generator))
    tokens = _EIGHTH_CONDITION_TOKENS
    condition = torch.randn(assets, tokens, flow.input_layer.out_features, generator=generator)
    plain, saving = (operations(flow, tokens, assets, _PUBLISHED, savings=way) for way in (False, True))
    name = f"an eighth of full size, {assets} asset(s)"
    return compare(name, flow, [condition], _PUBLISHED, repeats, _FEW_STEPS, saving / plain)


if __name__ == "__main__":
    for what, figure in (comparison.row() for comparison in run(3)):
        print(f"{what:<36}{figure}")
