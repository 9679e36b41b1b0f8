"""The same extraction on arrays of the whole grid, to measure against: every formula of spec/latents.md 8 and 9 as
it stands there, with rows made unique as the published code does. Nothing of the product uses it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from scenegen.generator.latents.fields import GridFields
from scenegen.generator.meshing.tables import AMBIGUITY, CORNERS, DUAL_VERTICES, EDGES

_CORNERS, _EDGES = torch.from_numpy(CORNERS), torch.tensor(EDGES)
_DUALS, _AMBIGUITY = torch.from_numpy(DUAL_VERTICES).long(), torch.from_numpy(AMBIGUITY).long()


@torch.inference_mode()
def extract_dense(fields: GridFields) -> tuple[Tensor, Tensor, Tensor]:
    """Vertices [V, 3], faces [F, 3] and attributes [V, 6] of fields with colour."""
    size = fields.resolution
    cells = torch.stack(torch.meshgrid(*[torch.arange(size)] * 3, indexing="ij"), -1).reshape(-1, 3)
    grid, weights = _dense(fields)
    corner_of_cube = _index(cells[:, None] + _CORNERS, size + 1)
    inside = grid[:, 0][corner_of_cube] < 0
    surface = (inside.sum(1) > 0) & (inside.sum(1) < 8)
    original = (inside[surface] * 2 ** torch.arange(8)).sum(1)
    cubes, weight = corner_of_cube[surface], weights[surface]
    beta, alpha = 0.99 * weight[:, :12].tanh() + 1, 0.99 * weight[:, 12:20].tanh() + 1
    gamma = 0.99 * weight[:, 20].sigmoid() + 0.005
    case = _unambiguous(original, cells, surface, size)

    index = torch.stack(torch.meshgrid(*[torch.arange(size + 1)] * 3, indexing="ij"), -1).reshape(-1, 3)
    points = index.float() / size - 0.5 + (1 - 1e-8) / (2 * size) * grid[:, 1:4].tanh()
    data = torch.cat([points, grid[:, 4:].sigmoid()], 1)
    vertices, owner, gamma_of_dual = [], torch.full((len(cubes), 12), -1), []
    count = (_DUALS[case, :, 0] >= 0).sum(1)
    done = 0
    for duals in range(1, 5):
        cube = torch.nonzero(count == duals)[:, 0]
        table = _DUALS[case[cube], :duals]  # [n, duals, 7]
        used, edge = table >= 0, table.clamp(min=0)
        each = cube[:, None, None].expand_as(edge)
        ends = _EDGES[edge]
        s = grid[:, 0][cubes[each[..., None], ends]] * alpha[each[..., None], ends]
        d = data[cubes[each[..., None], ends]]
        crossing = (d[..., 0, :] * s[..., 1:] - d[..., 1, :] * s[..., :1]) / (s[..., 1:] - s[..., :1])
        share = (beta[each, edge] * used)[..., None]
        vertices.append(
            (torch.where(used[..., None], crossing, 0) * share).sum(2).flatten(0, 1) / share.sum(2).flatten(0, 1)
        )
        number = done + torch.arange(len(cube) * duals).reshape(-1, duals, 1).expand_as(edge)
        owner[each[used], edge[used]] = number[used]
        gamma_of_dual.append(gamma[cube].repeat_interleave(duals))
        done += len(cube) * duals
    faces = _faces(cubes, grid[:, 0], owner, torch.cat(gamma_of_dual))
    out = torch.cat(vertices)
    return out[:, :3], faces, out[:, 3:]


def _index(xyz: Tensor, size: int) -> Tensor:
    return (xyz[..., 0] * size + xyz[..., 1]) * size + xyz[..., 2]


def _dense(fields: GridFields) -> tuple[Tensor, Tensor]:
    """Means at the grid's vertices [(R + 1)^3, 10] and the cubes' weights [R^3, 21]."""
    size, features, coords = fields.resolution, fields.features.float(), fields.coords.long()
    corners = [
        features[:, :8, None] - 1 / size,
        features[:, 8:32].unflatten(1, (8, 3)),
        features[:, 53:].unflatten(1, (8, 6)),
    ]
    at = _index(coords[:, None] + _CORNERS, size + 1).flatten()
    grid = torch.zeros((size + 1) ** 3, 10).index_add_(0, at, torch.cat(corners, 2).flatten(0, 1))
    hits = torch.bincount(at, minlength=len(grid))
    grid /= hits.clamp(min=1)[:, None]
    grid[:, 0][hits == 0] = 1
    weights = torch.zeros(size**3, 21)
    weights[_index(coords, size)] = features[:, 32:53]
    return grid, weights


def _unambiguous(case: Tensor, cells: Tensor, surface: Tensor, size: int) -> Tensor:
    row = _AMBIGUITY[case]
    checked = torch.zeros(size**3, dtype=torch.bool)
    checked[surface] = row[:, 0] == 1
    neighbour = cells[surface] + row[:, 1:4]
    exists = ((neighbour >= 0) & (neighbour < size)).all(1) & (row[:, 0] == 1)
    flips = exists & checked[_index(neighbour.clamp(0, size - 1), size)]
    return torch.where(flips, row[:, 4], case)


def _faces(cubes: Tensor, distance: Tensor, owner: Tensor, gamma: Tensor) -> Tensor:
    ends = cubes[:, _EDGES].flatten(0, 1)
    edges, which, counts = torch.unique(ends, dim=0, return_inverse=True, return_counts=True)
    crosses = (distance[edges] < 0).sum(1) == 1
    four = (crosses & (counts == 4))[which]
    order = torch.argsort(which[four], stable=True)
    quads = owner.flatten()[four][order].reshape(-1, 4)
    outside = distance[edges[which[four][order].reshape(-1, 4)[:, 0], 0]] > 0
    quads = torch.cat([quads[outside][:, [0, 1, 3, 2]], quads[~outside][:, [2, 3, 1, 0]]])
    g = gamma[quads]
    first = (g[:, 0] * g[:, 2] > g[:, 1] * g[:, 3])[:, None]
    return torch.where(first, quads[:, [0, 1, 2, 0, 2, 3]], quads[:, [0, 1, 3, 3, 1, 2]]).reshape(-1, 3)
