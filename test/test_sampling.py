"""The samplers: schedule, guidance, views, savings, cancelling."""

from __future__ import annotations

import math
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from scenegen.generator import sampling
from scenegen.generator.sampling import Step, sample_structure, schedule
from scenegen.generator.structure.flow import SparseStructureFlowModel
from scenegen.scene import Cancelled


@pytest.fixture(scope="module")
def model() -> SparseStructureFlowModel:
    torch.manual_seed(0)
    return SparseStructureFlowModel(
        resolution=4,
        in_channels=4,
        model_channels=32,
        cond_channels=32,
        out_channels=4,
        num_blocks=2,
        num_heads=2,
        qk_rms_norm=True,
        use_global=True,
        trunk_depth=1,
        local_tokens=6,
    ).eval()


@pytest.fixture(scope="module")
def noise() -> Tensor:
    return torch.randn(3, 4, 4, 4, 4, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def views() -> list[Tensor]:
    generator = torch.Generator().manual_seed(2)
    return [torch.randn(3, 12, 32, generator=generator) for _ in range(2)]


def test_schedule_dwells_near_the_noise() -> None:
    times = schedule(25, 3.0)
    assert times[0] == 1.0 and times[-1] == 0.0 and len(times) == 26
    assert times[5] == pytest.approx(3 * 0.8 / (1 + 2 * 0.8))
    assert sum(0.5 <= t <= 1.0 for t in times[:-1]) == 19


@pytest.mark.parametrize("count", [1, 2])
def test_exact_savings_change_nothing(
    model: SparseStructureFlowModel, noise: Tensor, views: list[Tensor], count: int
) -> None:
    x, positions = sample_structure(model, noise, views[:count], steps=8)
    x_plain, positions_plain = sample_structure(model, noise, views[:count], steps=8, exact_savings=False)
    torch.testing.assert_close(x, x_plain, atol=2e-4, rtol=1e-3)
    torch.testing.assert_close(positions, positions_plain, atol=2e-4, rtol=1e-3)


def test_each_condition_is_encoded_once_and_positions_are_made_once(
    model: SparseStructureFlowModel, noise: Tensor, views: list[Tensor]
) -> None:
    with (
        patch.object(model, "encode_condition", wraps=model.encode_condition) as encode,
        patch.object(model, "velocity", wraps=model.velocity) as velocity,
    ):
        sample_structure(model, noise, views[:1])
    assert encode.call_count == 1
    assert velocity.call_count == 25
    assert sum(call.kwargs["guided"] for call in velocity.call_args_list) == 19
    assert [call.kwargs["positions"] for call in velocity.call_args_list] == [False] * 24 + [True]
    assert all(
        call.args[1].tolist() == [pytest.approx(1000 * t)]
        for call, t in zip(velocity.call_args_list, schedule(25, 3.0), strict=False)
    )


def test_a_given_negative_condition_is_used(
    model: SparseStructureFlowModel, noise: Tensor, views: list[Tensor]
) -> None:
    zeros = torch.zeros_like(views[0])
    default, _ = sample_structure(model, noise, views[:1], steps=3)
    with_zeros, _ = sample_structure(model, noise, views[:1], neg_cond=zeros, steps=3)
    with_other, _ = sample_structure(model, noise, views[:1], neg_cond=views[1], steps=3)
    torch.testing.assert_close(default, with_zeros, atol=2e-4, rtol=1e-3)
    assert not torch.allclose(default, with_other, atol=1e-2)


def test_views_take_turns_and_the_last_step_hears_them_all(
    model: SparseStructureFlowModel, noise: Tensor, views: list[Tensor]
) -> None:
    steps: list[Step] = []
    _, positions = sample_structure(model, noise, views, steps=4, guidance=0.0, on_step=steps.append)
    with torch.no_grad():
        for step in steps:
            time = torch.full((3,), 1000 * step.t)
            answers = [model(step.x, time, view) for view in views]
            if step.index < 3:
                expected = answers[step.index % 2][0]
            else:
                expected = (answers[0][0] + answers[1][0]) / 2
                torch.testing.assert_close(positions, (answers[0][1] + answers[1][1]) / 2, atol=2e-5, rtol=2e-4)
            torch.testing.assert_close(step.velocity, expected, atol=2e-5, rtol=2e-4)
            torch.testing.assert_close(step.x_next, step.x - (step.t - step.t_next) * step.velocity)


def test_guidance_interval_includes_its_ends(
    model: SparseStructureFlowModel, noise: Tensor, views: list[Tensor]
) -> None:
    with patch.object(model, "velocity", wraps=model.velocity) as velocity:
        sample_structure(model, noise, views[:1], steps=4, rescale_t=1.0, interval=(0.5, 0.75))
    assert [call.kwargs["guided"] for call in velocity.call_args_list] == [False, True, True, False]


def test_cancelling_stops_before_the_next_step(
    model: SparseStructureFlowModel, noise: Tensor, views: list[Tensor]
) -> None:
    steps: list[Step] = []
    with pytest.raises(Cancelled, match="step 3 of 5"):
        sample_structure(model, noise, views[:1], steps=5, on_step=steps.append, cancelled=lambda: len(steps) == 2)
    assert len(steps) == 2


def test_noise_is_that_of_the_global_cpu_generator() -> None:
    torch.manual_seed(42)
    expected = torch.randn(2, 8, 4, 4, 4)
    generator = torch.Generator().manual_seed(42)
    assert torch.equal(sampling.cpu_noise((2, 8, 4, 4, 4), generator), expected)
    assert torch.equal(sampling.cpu_noise((5,), generator), torch.randn(5))


def test_the_true_velocity_leads_back_to_the_sample() -> None:
    clean, noise = torch.randn(2, 4), torch.randn(2, 4)
    velocity = (1 - sampling.SIGMA_MIN) * noise - clean
    start = noise  # x at t = 1, up to sigma
    x, positions = sampling.integrate(lambda x, t, i: (velocity, None), start, schedule(7, 3.0))
    torch.testing.assert_close(x, clean, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(sampling.predict_clean(start, velocity, 1.0), clean, atol=1e-4, rtol=1e-4)
    assert positions is None


def _turning(x: Tensor, t: float, index: int) -> tuple[Tensor, None]:
    """A field whose exact solution from t = 1 to 0 is x exp(-3/2)."""
    return 3 * t * x, None


@pytest.mark.parametrize(("solver", "gain"), [("euler", 2.0), ("ab2", 4.0)])
def test_twice_the_steps_cut_the_error_by_the_order_of_the_solver(solver: sampling.Solver, gain: float) -> None:
    start = torch.ones(1, dtype=torch.float64)
    errors = [
        abs(sampling.integrate(_turning, start, schedule(steps, 3.0), solver=solver)[0].item() - math.exp(-1.5))
        for steps in (64, 128)
    ]
    assert errors[0] / errors[1] == pytest.approx(gain, rel=0.1)


def test_the_second_order_solver_starts_as_euler_does_and_tells_each_step(
    model: SparseStructureFlowModel, noise: Tensor, views: list[Tensor]
) -> None:
    ends = [sample_structure(model, noise, views[:1], steps=1, solver=solver)[0] for solver in ("euler", "ab2")]
    torch.testing.assert_close(ends[0], ends[1])
    steps: list[Step] = []
    x, _ = sample_structure(model, noise, views[:1], steps=4, solver="ab2", on_step=steps.append)
    assert [step.index for step in steps] == [0, 1, 2, 3] and torch.equal(steps[-1].x_next, x)
    with pytest.raises(Cancelled, match="step 1 of 4"):
        sample_structure(model, noise, views[:1], steps=4, solver="ab2", cancelled=lambda: True)


def test_placements_may_come_from_the_first_views_alone(
    model: SparseStructureFlowModel, noise: Tensor, views: list[Tensor]
) -> None:
    alone = [sample_structure(model, noise, [view], steps=1)[1] for view in views]
    assert alone[0] is not None and alone[1] is not None
    _, of_all = sample_structure(model, noise, views, steps=1)
    _, of_first = sample_structure(model, noise, views, steps=1, placement_views=1)
    torch.testing.assert_close(of_all, (alone[0] + alone[1]) / 2)
    torch.testing.assert_close(of_first, alone[0])


def test_temperature_scales_the_noise(model: SparseStructureFlowModel, noise: Tensor, views: list[Tensor]) -> None:
    cold, _ = sample_structure(model, noise, views, steps=2, temperature=0.0)
    other, _ = sample_structure(model, 2 - noise, views, steps=2, temperature=0.0)
    torch.testing.assert_close(cold, other)
    half, _ = sample_structure(model, noise, views, steps=2, temperature=0.5)
    given, _ = sample_structure(model, 0.5 * noise, views, steps=2)
    torch.testing.assert_close(half, given)
    assert not torch.allclose(half, cold)
