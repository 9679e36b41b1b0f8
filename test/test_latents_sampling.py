"""Sampling of structured latents: the exact savings change nothing, views take turns, a cancelled one stops."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from unittest.mock import patch

import pytest
import torch
from sparse_helpers import coordinates, flow_model, random
from torch import Tensor

from scenegen.generator.latents.sampling import sample_latents
from scenegen.generator.nn.sparse import Voxels
from scenegen.generator.nn.sparse_attention import SparseCrossAttention
from scenegen.generator.sampling import Step, guide, schedule
from scenegen.scene import Cancelled

MODEL = flow_model()
COORDS = coordinates((20, 12))
NOISE = random(32, 8)


def sample(conds: list[Tensor], **options: object) -> Tensor:
    return sample_latents(MODEL, Voxels(COORDS), NOISE, conds, **{"steps": 6, "guidance": 2.0, **options})


@pytest.mark.parametrize("neg_cond", [None, random(1, 5, 12, seed=9)], ids=["zeros", "tokens"])
@pytest.mark.parametrize("views", [1, 2])
def test_savings_are_exact(views: int, neg_cond: Tensor | None) -> None:
    conds = [random(2, 5, 12, seed=view) for view in range(views)]
    options = {"neg_cond": neg_cond, "interval": (0.2, 1.0), "rescale_t": 1.0}
    saved, plain = sample(conds, **options), sample(conds, **options, exact_savings=False)
    torch.testing.assert_close(saved, plain, atol=1e-5 * plain.abs().max().item(), rtol=0)
    assert (saved - sample(conds, **options | {"guidance": 0.0})).abs().max() > 0.01


def test_views_take_turns_and_the_last_step_hears_all() -> None:
    conds = [random(2, 5, 12, seed=view) for view in range(3)]
    steps: list[Step] = []
    sample(conds, steps=5, interval=(0.0, 1.0), rescale_t=3.0, on_step=steps.append)
    assert [(step.index, step.count) for step in steps] == [(i, 5) for i in range(5)]
    times = schedule(5, 3.0)
    for step, views in zip(steps, [[0], [1], [2], [0], [0, 1, 2]], strict=True):
        assert step.t == times[step.index]
        time = torch.full((2,), 1000 * step.t)
        with torch.no_grad():
            negative = MODEL(step.x, Voxels(COORDS), time, torch.zeros(2, 5, 12))
            guided = [guide(MODEL(step.x, Voxels(COORDS), time, conds[view]), negative, 2.0) for view in views]
        torch.testing.assert_close(step.velocity, torch.stack(guided).mean(0), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(step.x_next, step.x - (step.t - step.t_next) * step.velocity)


def test_what_voxels_and_conditions_imply_is_found_once() -> None:
    found: list[str] = []

    def counted(name: str, original: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **options: object) -> object:
            found.append(name)
            return original(*arguments, **options)

        return call

    originals = {(Voxels, "_neighbours"): "neighbours", (SparseCrossAttention, "keys_values"): "keys"}
    with ExitStack() as stack:
        for (owner, name), word in originals.items():
            stack.enter_context(patch.object(owner, name, counted(word, getattr(owner, name))))
        sample([random(2, 5, 12)], steps=4)
    # Half the offsets at two resolutions; one condition in two blocks.
    assert found.count("neighbours") == 2 * 13
    assert found.count("keys") == 2


def test_the_end_of_an_evaluation_is_all_that_a_second_condition_costs() -> None:
    calls = {"input": 0, "output": 0}
    hooks = [
        MODEL.input_blocks[0].register_forward_hook(lambda *_: calls.__setitem__("input", calls["input"] + 1)),
        MODEL.out_blocks[0].register_forward_hook(lambda *_: calls.__setitem__("output", calls["output"] + 1)),
    ]
    sample([random(2, 5, 12)], steps=4, interval=(0.0, 1.0))
    for hook in hooks:
        hook.remove()
    assert calls == {"input": 4, "output": 8}


def test_a_cancelled_sampling_stops_before_its_next_step() -> None:
    steps: list[Step] = []
    with pytest.raises(Cancelled):
        sample([random(2, 5, 12)], on_step=steps.append, cancelled=lambda: len(steps) == 2)
    assert len(steps) == 2


def test_a_single_condition_serves_all_assets() -> None:
    cond = random(1, 5, 12)
    torch.testing.assert_close(sample([cond]), sample([cond.expand(2, -1, -1)]))
