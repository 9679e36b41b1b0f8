"""What the exact savings (spec/cost.md section 3) save in structure sampling: time with and without them, side by side.

Both ways run in turn with the same weights, noise and conditions, so that their ratio means something on any machine;
the largest difference of their results stands beside it. Times are of one core's work, which other work on the machine
does not stretch. `python -m benchmark.sampling` prints it alone.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from scenegen.generator import SceneGen
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
    "num_blocks": 3,
    "num_heads": 2,
    "patch_size": 1,
    "qk_rms_norm": True,
    "use_global": True,
    "trunk_depth": 1,
    "local_tokens": 172,
}
"""The published model with an eighth of its width, blocks, latent tokens and condition tokens.

Each part of a block has the share of the whole that it has at full size. Only what guided passes share of the first
block weighs more: it is one block of 3 here, of 24 there.
"""
_EIGHTH_CONDITION_TOKENS = 5 * 172
_COUNTED_SHARES = {1: 395 / 510, 4: 2453 / 2911}
"""Assets -> operations with the savings over those without, counted at full size (spec/cost.md section 2)."""


@dataclass(frozen=True)
class Comparison:
    """One model and scene. Seconds of one core: the least of each way; counted_share: what operations lead to expect.

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
def run(repeats: int, steps: int | None = None) -> list[Comparison]:
    """The packaged weights, if they are there, then the published proportions. steps: instead of the models' own."""
    changed = {} if steps is None else {"steps": steps}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return [
            *_packaged(changed, repeats),
            *(
                compare(f"an eighth of full size, {assets} asset(s)", *_eighth(assets), changed, repeats, counted)
                for assets, counted in _COUNTED_SHARES.items()
            ),
        ]
    finally:
        torch.set_num_threads(threads)


def compare(
    name: str,
    flow: SparseStructureFlowModel,
    conditions: Sequence[Tensor],
    settings: Mapping[str, Any],
    repeats: int,
    counted_share: float | None = None,
) -> Comparison:
    """Samples both ways `repeats` times in turn. conditions: [N, T, C] per view. settings: of sample_structure."""
    shape = len(conditions[0]), flow.input_layer.in_features // flow.patch_size**3, *[flow.resolution] * 3
    noise = cpu_noise(shape, torch.Generator().manual_seed(0))
    seconds: dict[bool, list[float]] = {False: [], True: []}
    results: dict[bool, Tensor] = {}
    for _ in range(repeats):
        for saving in (False, True):
            began_s = time.thread_time()
            latents, placements = sample_structure(flow, noise, conditions, exact_savings=saving, **settings)
            seconds[saving].append(time.thread_time() - began_s)
            assert placements is not None
            results[saving] = torch.cat([latents.flatten(), placements.flatten()])
    return Comparison(
        name,
        min(seconds[False]),
        min(seconds[True]),
        float((results[True] - results[False]).abs().max()),
        float(results[True].abs().max()),
        counted_share,
    )


def _packaged(changed: Mapping[str, Any], repeats: int) -> list[Comparison]:
    """The packaged weights on a synthetic view; nothing when there are none."""
    try:
        model = SceneGen.from_pretrained("tiny")
    except InvalidInput:
        return []
    truth, camera = make_scene(1), Camera.pinhole()
    view = render(truth, camera, camera_path(truth, 1, 1, camera)[0])
    conditions = list(model.conditioner.encode([view], view.instance_ids))
    name = f"tiny weights, {len(view.instance_ids)} assets"
    settings = asdict(model.sampler) | dict(changed)
    settings.pop("temperature", None)  # how large the noise is makes no difference to how long it takes
    return [compare(name, model.flow, conditions, settings, repeats)]


def _eighth(assets: int) -> tuple[SparseStructureFlowModel, list[Tensor]]:
    """A model of random weights in which every parameter matters, and a condition for it."""
    generator = torch.Generator().manual_seed(1)
    flow = SparseStructureFlowModel(**_EIGHTH).eval()
    for parameter in flow.parameters():
        parameter.copy_(0.05 * torch.randn(parameter.shape, generator=generator))
    return flow, [torch.randn(assets, _EIGHTH_CONDITION_TOKENS, flow.input_layer.out_features, generator=generator)]


if __name__ == "__main__":
    for what, figure in (comparison.row() for comparison in run(3)):
        print(f"{what:<36}{figure}")
