"""Structured latents of all assets of a scene, sampled as one sparse batch (spec/latents.md section 5).

Knows conditions and views, but no images; the schedule and the steps are those of every sampling.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from scenegen.generator.latents.flow import SLatFlowModel
from scenegen.generator.nn.sparse import Voxels
from scenegen.generator.sampling import IsCancelled, OnStep, Solver, guide, integrate, is_guided, schedule


@torch.no_grad()
def sample_latents(
    model: SLatFlowModel,
    voxels: Voxels,
    noise: Tensor,
    conds: Sequence[Tensor],
    *,
    neg_cond: Tensor | None = None,
    solver: Solver = "euler",
    steps: int = 25,
    rescale_t: float = 3.0,
    guidance: float = 5.0,
    interval: tuple[float, float] = (0.5, 1.0),
    temperature: float = 1.0,
    on_step: OnStep | None = None,
    cancelled: IsCancelled | None = None,
    exact_savings: bool = True,
) -> Tensor:
    """Latents of one scene's assets, seen in one or several views; still to be restored by a `LatentNormalisation`.

    Step i is conditioned by view i mod K; the last one by all, velocities averaged. Guided while lo <= t <= hi.

    voxels: of all assets, as samples. noise: float32 [N, in], in their order. conds: of each of K views the image
    tokens of the assets, [B or 1, T, C]: the first tokens of the structure's condition. neg_cond: condition of the
    negative pass [B or 1, T, C], None for zeros. temperature: factor of the noise. exact_savings: False
    evaluates every pass in full, for comparison only. cancelled is asked before every step: Cancelled when it says yes.
    -> float32 [N, in].
    """
    make = _economical_evaluation if exact_savings else _plain_evaluation
    views = [cond.expand(voxels.samples, -1, -1) for cond in conds]
    evaluate = make(model, voxels, views, None if neg_cond is None else neg_cond.expand(voxels.samples, -1, -1))

    def velocity(x: Tensor, t: float, index: int) -> tuple[Tensor, None]:
        guided = is_guided(t, guidance, interval)
        seen = list(range(len(views))) if index == steps - 1 else [index % len(views)]
        conditional, negative = evaluate(x, t, seen, guided)
        return (conditional if negative is None else guide(conditional, negative, guidance)), None

    times = schedule(steps, rescale_t)
    return integrate(velocity, temperature * noise, times, solver=solver, on_step=on_step, cancelled=cancelled)[0]


Evaluation = Callable[[Tensor, float, list[int], bool], tuple[Tensor, Tensor | None]]
"""(x, flow time, views, guided) -> velocity averaged over the views, and that of the negative pass if guided."""


def _economical_evaluation(
    model: SLatFlowModel, voxels: Voxels, conds: Sequence[Tensor], neg_cond: Tensor | None
) -> Evaluation:
    """Conditions encoded once, one time embedding for all, all passes of a step from one beginning (spec/cost.md 3)."""
    conditions = [model.encode_condition(cond) for cond in conds]
    absence = model.encode_condition(neg_cond)

    def evaluate(x: Tensor, t: float, views: list[int], guided: bool) -> tuple[Tensor, Tensor | None]:
        wanted = [conditions[view] for view in views] + ([absence] if guided else [])
        velocities = model.velocities(x, voxels, x.new_full((1,), 1000 * t), wanted)
        return torch.stack(velocities[: len(views)]).mean(0), velocities[-1] if guided else None

    return evaluate


def _plain_evaluation(
    model: SLatFlowModel, voxels: Voxels, conds: Sequence[Tensor], neg_cond: Tensor | None
) -> Evaluation:
    """Every pass in full, as the spec states it."""

    def evaluate(x: Tensor, t: float, views: list[int], guided: bool) -> tuple[Tensor, Tensor | None]:
        time = x.new_full((voxels.samples,), 1000 * t)
        velocities = [model(x, voxels, time, conds[view]) for view in views]
        negative_cond = torch.zeros_like(conds[0]) if neg_cond is None else neg_cond
        return torch.stack(velocities).mean(0), model(x, voxels, time, negative_cond) if guided else None

    return evaluate
