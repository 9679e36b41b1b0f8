"""FilterReg on known motions."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh
from scipy.spatial.transform import Rotation

from scenegen.evaluation import registration
from scenegen.evaluation.metrics import neighbour_tree, sample_surface
from scenegen.evaluation.registration import closest_point_refinement, filterreg, initial_sigma2
from scenegen.scene import Floats, InvalidInput


def lopsided(seed: int, count: int = 3000) -> Floats:
    """Three boxes without any symmetry between them, about two units across."""
    places = (
        ((0.9, 0.3, 0.2), (-0.8, 0.1, 0.3)),
        ((0.3, 0.5, 0.8), (0.5, 0.6, 0.0)),
        ((0.4, 0.4, 0.4), (0.7, -0.6, 0.1)),
    )
    boxes = [trimesh.creation.box(size).apply_translation(at) for size, at in places]
    return np.concatenate([sample_surface(box, count // 3, seed=seed + i) for i, box in enumerate(boxes)])


def exact_filterreg(source: Floats, target: Floats, sigma2: float) -> Floats:
    """The moved source after 50 EM steps with all pairs summed, as the paper's equations stand."""
    moved = source
    for _ in range(50):
        weights = np.exp(-((moved[:, None] - target[None]) ** 2).sum(-1) / (2 * sigma2))
        expected = weights @ target / weights.sum(1, keepdims=True)
        a, b = moved - moved.mean(0), expected - expected.mean(0)
        turn, _ = Rotation.align_vectors(b, a)
        moved = turn.apply(a) + expected.mean(0)
    return moved


@pytest.mark.parametrize("degrees", [5, 25, 45])
def test_a_known_motion_is_undone(degrees: float) -> None:
    target = lopsided(1)
    turn = Rotation.from_rotvec(np.radians(degrees) * np.array([0.48, 0.6, 0.64]))
    motion = filterreg(turn.apply(lopsided(9)) + [0.3, -0.2, 0.1], target)
    left = Rotation.from_matrix(motion.rotation) * turn
    assert np.degrees(left.magnitude()) < 3
    # from any start it ends where it ends from none: what is left is the wide sigma's bias
    unmoved = filterreg(lopsided(9), target)
    assert np.degrees((left * Rotation.from_matrix(unmoved.rotation).inv()).magnitude()) < 0.5
    assert np.allclose(np.linalg.det(motion.rotation), 1)


@pytest.mark.parametrize("narrow", [1, 4])
def test_the_filtered_sums_lead_where_the_exact_sums_lead(narrow: int) -> None:
    target = lopsided(1, 300)
    source = Rotation.from_rotvec([0.1, 0.0, 0.4]).apply(lopsided(5, 300)) + [0.2, 0.1, 0.0]
    sigma2 = initial_sigma2(source, target) / narrow**2
    moved = filterreg(source, target, sigma2=sigma2).apply(source)
    assert np.abs(moved - exact_filterreg(source, target, sigma2)).max() < 0.01 * np.sqrt(sigma2)


def test_sigma_of_the_start_is_the_mean_over_all_pairs() -> None:
    source, target = lopsided(1, 300), lopsided(2, 600) + 1.0
    pairs = ((source[:, None] - target[None]) ** 2).sum(-1).mean() / 3
    assert initial_sigma2(source, target) == pytest.approx(pairs)


def test_no_more_than_fifty_iterations(monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[int] = []
    fit = registration._fit_rigid

    def counted(*args: Floats) -> registration.RigidMotion:
        steps.append(1)
        return fit(*args)

    monkeypatch.setattr(registration, "_fit_rigid", counted)
    monkeypatch.setattr(registration, "STILL", 0.0)
    filterreg(lopsided(1) + 0.5, lopsided(2))
    assert len(steps) == 50


def test_icp_removes_what_the_wide_sigma_leaves() -> None:
    target = lopsided(1)
    source = filterreg(lopsided(9), target).apply(lopsided(9))
    refined = closest_point_refinement(source, target, neighbour_tree(target)).apply(source)
    assert np.abs(refined - lopsided(9)).max() < 0.01 < np.abs(source - lopsided(9)).max()


def test_unusable_clouds_are_refused() -> None:
    good = lopsided(1, 30)
    with pytest.raises(InvalidInput, match="source is"):
        filterreg(good[:2], good)
    with pytest.raises(InvalidInput, match="target is"):
        filterreg(good, np.full((5, 3), np.nan))
    with pytest.raises(InvalidInput, match="coincide"):
        filterreg(np.ones((9, 3)), np.ones((9, 3)))
