"""Standing generated assets in one scene."""

from __future__ import annotations

import numpy as np
import pytest

from scenegen.generator.assembly import assemble_scene
from scenegen.scene import ROTATION_YUP_ZUP, Asset, InvalidInput, Placement, Scene


def cube(rng: np.random.Generator) -> np.ndarray:
    return rng.uniform(-0.5, 0.5, (20, 3))


PLACEMENTS = np.array(
    [
        [9, 9, 9, 0.3, 0.1, 0, 0, 4],
        [1.0, 0.2, -0.5, 0.9, 0.1, 0.4, -0.2, 0.5],
        [-0.7, 0.1, 0.3, 2.0, 0, 1.0, 0, 1.5],
    ]
)


def test_scene_is_centred_and_fits_the_cube() -> None:
    rng = np.random.default_rng(0)
    vertices = [cube(rng) for _ in PLACEMENTS]
    assembly = assemble_scene(PLACEMENTS, vertices)
    points = np.concatenate([v @ T[:3, :3].T + T[:3, 3] for v, T in zip(vertices, assembly.T_scene_asset, strict=True)])
    assert np.ptp(points, axis=0).max() == pytest.approx(1.96)
    np.testing.assert_allclose(points.min(0) + points.max(0), 0, atol=1e-12)
    np.testing.assert_allclose(assembly.bounds, [points.min(0), points.max(0)])


def test_assets_stand_to_one_another_as_the_contract_says() -> None:
    rng = np.random.default_rng(1)
    vertices = [cube(rng) for _ in PLACEMENTS]
    order = [2, 0, 1]
    scene = Scene(
        tuple(Asset(i, "", None) for i in range(3)),  # type: ignore[arg-type]
        (Placement.identity(), *(Placement(row[:3], row[3:7], float(row[7])) for row in PLACEMENTS[1:])),
        query=0,
    )
    swap = np.eye(4)
    swap[:3, :3] = ROTATION_YUP_ZUP
    for literal in (False, True):
        T = assemble_scene(PLACEMENTS, vertices, order=order, literal=literal).T_scene_asset
        for place, asset in enumerate(order):
            T_query_asset = np.linalg.inv(T[order.index(0)]) @ T[place]
            np.testing.assert_allclose(T_query_asset, swap @ scene.T_query_asset(asset) @ swap.T, atol=1e-12)


def test_literal_centring_is_the_published_slip() -> None:
    rng = np.random.default_rng(2)
    vertices = [cube(rng) for _ in PLACEMENTS]
    literal = assemble_scene(PLACEMENTS, vertices, literal=True)
    assert np.abs(literal.bounds.sum(0)).max() > 1e-2


def test_bad_placements_are_refused() -> None:
    rng = np.random.default_rng(3)
    rows = PLACEMENTS.copy()
    rows[1, 3:7] = 0
    with pytest.raises(InvalidInput, match="quaternion"):
        assemble_scene(rows, [cube(rng)] * 3)
    with pytest.raises(InvalidInput, match="vertices"):
        assemble_scene(PLACEMENTS, [np.zeros((0, 3))] * 3)
