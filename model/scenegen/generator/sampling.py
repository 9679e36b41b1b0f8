"""Sampling of flows with guidance, by Euler steps or second-order ones (spec/structure.md sections 5 and 6.5).

x_t = (1 - t) x_0 + (sigma + (1 - sigma) t) noise: t = 1 is noise, t = 0 the sample. Knows nothing about what is
sampled; the structure sampler below it knows conditions, views and placements, but no images.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from scenegen.generator.structure.flow import Prediction, SparseStructureFlowModel
from scenegen.scene import Cancelled

SIGMA_MIN = 1e-5


@dataclass(frozen=True)
class Step:
    """One step that was taken, ``index`` of ``count``, from (x, t) to (x_next, t_next)."""

    index: int
    count: int
    t: float
    t_next: float
    x: Tensor
    x_next: Tensor
    velocity: Tensor
    positions: Tensor | None


Velocity = Callable[[Tensor, float, int], tuple[Tensor, Tensor | None]]
"""(x, flow time, step index) -> (velocity like x, positions or None)."""
OnStep = Callable[[Step], None]
IsCancelled = Callable[[], bool]


def schedule(steps: int, rescale_t: float = 1.0) -> list[float]:
    """The steps + 1 flow times from 1 to 0; a rescale above 1 dwells near the noise."""
    u = np.linspace(1.0, 0.0, steps + 1)
    return (rescale_t * u / (1 + (rescale_t - 1) * u)).tolist()


def predict_clean(x: Tensor, velocity: Tensor, t: float | Tensor, sigma_min: float = SIGMA_MIN) -> Tensor:
    """The x_0 that a velocity at (x, t) points to; a tensor t must broadcast against x."""
    return (1 - sigma_min) * x - (sigma_min + (1 - sigma_min) * t) * velocity


def is_guided(t: float, guidance: float, interval: tuple[float, float]) -> bool:
    """Whether a step from flow time t is: both ends of the interval count (section 5)."""
    return guidance != 0 and interval[0] <= t <= interval[1]


def guide(conditional: Tensor, negative: Tensor, guidance: float) -> Tensor:
    """Classifier-free guidance: (1 + w) v_cond - w v_neg."""
    return (1 + guidance) * conditional - guidance * negative


def cpu_noise(shape: Sequence[int], generator: torch.Generator, device: torch.device | str = "cpu") -> Tensor:
    """Standard normal float32, drawn on the CPU so that a seed means the same on every device."""
    return torch.randn(*shape, generator=generator).to(device)


def _latest(v: Tensor, last: Tensor | None, h: float, h_last: float) -> Tensor:
    """Euler's method: the velocity stays as it is for the whole step."""
    return v


def _extrapolated(v: Tensor, last: Tensor | None, h: float, h_last: float) -> Tensor:
    """Adams-Bashforth of second order: the velocity half a step on, if it goes on changing as it did last."""
    return v if last is None else v + h / (2 * h_last) * (v - last)


Solver = Literal["euler", "ab2"]
_SLOPES: Mapping[Solver, Callable[[Tensor, Tensor | None, float, float], Tensor]] = {
    "euler": _latest,
    "ab2": _extrapolated,
}
"""What a step goes along: (velocity, velocity of the step before, length of this step, of the one before)."""


def integrate(
    velocity: Velocity,
    x: Tensor,
    times: Sequence[float],
    *,
    solver: Solver = "euler",
    on_step: OnStep | None = None,
    cancelled: IsCancelled | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Step x along ``times`` from the first to the last: the sample and the positions of the last step.

    ``cancelled`` is asked before each step; Cancelled when it says yes.
    """
    slope, count = _SLOPES[solver], len(times) - 1
    positions, last, h_last = None, None, 0.0
    for index, (t, t_next) in enumerate(pairwise(times)):
        if cancelled is not None and cancelled():
            raise Cancelled(f"sampling stopped before step {index + 1} of {count}")
        v, positions = velocity(x, t, index)
        h = t - t_next
        x_next = x - h * slope(v, last, h, h_last)
        if on_step is not None:
            on_step(Step(index, count, t, t_next, x, x_next, v, positions))
        x, last, h_last = x_next, v, h
    return x, positions


@torch.no_grad()
def sample_structure(
    model: SparseStructureFlowModel,
    noise: Tensor,
    conds: Sequence[Tensor],
    *,
    neg_cond: Tensor | None = None,
    solver: Solver = "euler",
    steps: int = 25,
    rescale_t: float = 3.0,
    guidance: float = 5.0,
    interval: tuple[float, float] = (0.5, 1.0),
    placement_views: int | None = None,
    temperature: float = 1.0,
    on_step: OnStep | None = None,
    cancelled: IsCancelled | None = None,
    exact_savings: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """Latents and raw placements of one scene's assets, seen in one or several views.

    Step i is conditioned by view i mod K; the last one by all, velocities and positions averaged. Guided while
    lo <= t <= hi. Positions come from the conditional pass of the last step.

    noise: float32 [N, in, R, R, R]. conds: K condition tokens [N or 1, T, C], query asset first. neg_cond: condition
    of the negative pass [N or 1, T, C], None for zeros. placement_views: average the placements over the first so many
    views only. Each view's placements are relative to the query's frame as that view sees it, and the frame of a
    symmetric query turns with the view: weights trained on such objects want 1. temperature: factor of the noise; 0 is
    for weights that were trained for it, and gives their single best answer. exact_savings: False evaluates every
    pass in full, for comparison only.
    -> float32 [N, in, R, R, R], [N, 8] (None from a model without placements).
    """
    make = _economical_evaluation if exact_savings else _plain_evaluation
    negative = None if neg_cond is None else neg_cond.expand(len(noise), -1, -1)
    evaluations = [make(model, cond.expand(len(noise), -1, -1), negative) for cond in conds]

    def velocity(x: Tensor, t: float, index: int) -> tuple[Tensor, Tensor | None]:
        is_last = index == steps - 1
        guided = is_guided(t, guidance, interval)
        views = evaluations if is_last else [evaluations[index % len(evaluations)]]
        predictions = [evaluate(x, t, guided, is_last) for evaluate in views]
        velocities = [
            p.velocity if p.negative is None else guide(p.velocity, p.negative, guidance) for p in predictions
        ]
        positions = [p.positions for p in predictions[:placement_views] if p.positions is not None]
        return torch.stack(velocities).mean(0), torch.stack(positions).mean(0) if positions else None

    times = schedule(steps, rescale_t)
    return integrate(velocity, temperature * noise, times, solver=solver, on_step=on_step, cancelled=cancelled)


Evaluation = Callable[[Tensor, float, bool, bool], Prediction]
"""(x, flow time, guided, positions wanted) -> Prediction."""


def _economical_evaluation(model: SparseStructureFlowModel, cond: Tensor, neg_cond: Tensor | None) -> Evaluation:
    """The condition encoded once, one time embedding for all, the negative pass in the same batch (spec/cost.md 3)."""
    cache = model.encode_condition(cond)
    negative_cache = None if neg_cond is None else model.encode_condition(neg_cond)

    def evaluate(x: Tensor, t: float, guided: bool, positions: bool) -> Prediction:
        time = x.new_full((1,), 1000 * t)
        if not guided or negative_cache is None:
            return model.velocity(x, time, cache, guided=guided, positions=positions)
        negative = model.velocity(x, time, negative_cache, positions=False).velocity
        return model.velocity(x, time, cache, positions=positions)._replace(negative=negative)

    return evaluate


def _plain_evaluation(model: SparseStructureFlowModel, cond: Tensor, neg_cond: Tensor | None) -> Evaluation:
    """Every pass in full, as the spec states it."""
    negative_cond = torch.zeros_like(cond) if neg_cond is None else neg_cond

    def evaluate(x: Tensor, t: float, guided: bool, positions: bool) -> Prediction:
        time = x.new_full((len(x),), 1000 * t)
        prediction = model.velocity(x, time, model.encode_condition(cond))
        negative = model.velocity(x, time, model.encode_condition(negative_cond)).velocity if guided else None
        return prediction._replace(negative=negative)

    return evaluate
