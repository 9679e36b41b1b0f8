"""Extraction of meshes: the tables, the stored outputs of the published one, and what must hold of any surface."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from conformance_meshing import BUILDERS
from safetensors.torch import load_file

from scenegen.generator.latents.fields import GridFields
from scenegen.generator.meshing.flexicubes import extract
from scenegen.generator.meshing.tables import AMBIGUITY, CORNERS, DUAL_VERTICES
from scenegen.scene import InvalidInput

GOLDEN = Path(__file__).parent / "golden" / "meshing"


def fields_of(distance: np.ndarray, coords: np.ndarray, resolution: int, channels: int = 101) -> GridFields:
    """Voxels coords [V, 3] whose corners hold a signed distance given at the grid's vertices [R + 1, R + 1, R + 1]."""
    features = np.random.default_rng(0).normal(size=(len(coords), channels)).astype(np.float32)
    for corner, offset in enumerate(CORNERS):
        features[:, corner] = distance[tuple((coords + offset).T)] + 1 / resolution
    return GridFields(torch.from_numpy(coords), torch.from_numpy(features), resolution)


def ball(resolution: int, radius: float) -> np.ndarray:
    axis = np.arange(resolution + 1) / resolution - 0.5
    return np.linalg.norm(np.stack(np.meshgrid(axis, axis, axis, indexing="ij")), axis=0) - radius


def test_the_derived_tables_are_the_published_ones() -> None:
    assert hashlib.sha256(DUAL_VERTICES.tobytes()).hexdigest() == (
        "d3f5350eced63fcaa843c7a9d4c5a15e5d031858f9c1f72a48fffc453858ff0e"
    )
    assert hashlib.sha256(AMBIGUITY.astype("<i2").tobytes()).hexdigest() == (
        "2619074d39d60bb57c9d30ae29239dfd5f40b324e8f63f488d6126d4f1e24198"
    )


@pytest.mark.parametrize("name", ["extract_random", "extract_empty", "flexicubes_dense", "flexicubes_noweights"])
def test_golden_case(name: str) -> None:
    config = json.loads((GOLDEN / f"{name}.json").read_text())["config"]
    tensors = load_file(GOLDEN / f"{name}.safetensors")
    inputs = {key[3:]: value for key, value in tensors.items() if key.startswith("in.")}
    outputs = BUILDERS[config["kind"]](**config["args"])(**inputs)
    for key, expected in tensors.items():
        if key.startswith("out."):
            tolerance = 0 if key == "out.faces" else 2e-6  # a few roundings; 2e-7 is what one processor comes to
            torch.testing.assert_close(outputs[key[4:]], expected, atol=tolerance, rtol=0, msg=lambda m, k=key: k + m)


def test_a_ball_is_closed_round_and_faces_outwards() -> None:
    coords = np.argwhere(np.ones((32, 32, 32), dtype=bool))
    mesh = extract(fields_of(ball(32, 0.4), coords, 32))
    surface = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)
    assert surface.is_watertight and surface.volume == pytest.approx(4 / 3 * np.pi * 0.4**3, rel=0.03)
    assert np.linalg.norm(mesh.vertices, axis=1) == pytest.approx(0.4, abs=1 / 32)
    assert mesh.attributes.shape == (len(mesh.vertices), 6)
    assert (mesh.attributes >= 0).all() and (mesh.attributes <= 1).all()


def test_a_shell_of_voxels_gives_what_all_voxels_give_on_its_outside() -> None:
    distance = ball(48, 0.37)
    near = np.argwhere(np.abs(distance[:-1, :-1, :-1]) < 3 / 48)
    everywhere = np.argwhere(np.ones((48, 48, 48), dtype=bool))
    plain = [
        fields.features[:, 8:].zero_() is not None and extract(fields)
        for fields in (fields_of(distance, near, 48), fields_of(distance, everywhere, 48))
    ]
    shell, full = (mesh.vertices for mesh in plain)
    outside = shell[np.linalg.norm(shell, axis=1) > 0.35]
    assert len(outside) == len(full) < len(shell)
    np.testing.assert_array_equal(np.unique(outside, axis=0), np.unique(full, axis=0))


def test_the_order_of_the_voxels_does_not_matter() -> None:
    coords = np.argwhere(np.ones((12, 12, 12), dtype=bool))
    noise = np.random.default_rng(1).normal(size=(13, 13, 13))
    fields = fields_of(noise, coords, 12)
    shuffled = torch.from_numpy(np.random.default_rng(2).permutation(len(coords)))
    one = extract(fields)
    other = extract(GridFields(fields.coords[shuffled], fields.features[shuffled], 12))
    np.testing.assert_array_equal(one.faces, other.faces)
    np.testing.assert_allclose(one.vertices, other.vertices, atol=2e-6)


def test_the_fields_stay_as_they_are() -> None:
    fields = fields_of(ball(16, 0.3), np.argwhere(np.ones((16, 16, 16), dtype=bool)), 16, channels=53)
    before = fields.features.clone()
    first, second = extract(fields), extract(fields)
    assert torch.equal(fields.features, before)
    np.testing.assert_array_equal(first.vertices, second.vertices)
    assert first.attributes.shape == (len(first.vertices), 0)


def test_a_surface_that_meets_the_grid_stays_open_there() -> None:
    mesh = extract(fields_of(ball(16, 0.6), np.argwhere(np.ones((16, 16, 16), dtype=bool)), 16))
    surface = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)
    assert len(mesh.faces) and not surface.is_watertight and np.abs(mesh.vertices).max() <= 0.5 + 0.5 / 16


@pytest.mark.parametrize(("channels", "far"), [(52, 0), (101, 16)])
def test_unusable_fields_are_refused(channels: int, far: int) -> None:
    fields = GridFields(torch.tensor([[0, far, 0]]), torch.zeros(1, channels), 16)
    with pytest.raises(InvalidInput, match="grid fields|voxels"):
        extract(fields)


def test_no_voxels_are_no_mesh() -> None:
    mesh = extract(GridFields(torch.zeros(0, 3, dtype=torch.int32), torch.zeros(0, 101), 16))
    assert mesh.vertices.shape == mesh.faces.shape == (0, 3) and mesh.attributes.shape == (0, 6)
