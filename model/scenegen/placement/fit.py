"""How one object's evidence judges one pose: residuals against what its cameras would see of it, and what carries it.

Matching measured points with the side that faces their camera is what keeps thin things in place: the nearest sample
of a table-top may well be on its underside. Knows nothing about the group an object belongs to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scenegen.placement.solver import Part, inverse, jacobian, scale_of, shared_out
from scenegen.placement.support import Support
from scenegen.placement.surface import FINE_SPACING
from scenegen.scene import Floats

EDGE = 0.3  # weight of points beside the surface, whom the distance to its tangent plane does not hold
CONTACT = 0.1
COVERING, COVERING_SPACING = 600, 0.045  # samples that must cover a mask, and how near to a pixel, asset units
APART = 1.0  # weight of samples inside another object
APART_SAMPLES, APART_SLACK = 500, 0.02  # asset units that two shapes may share: neither is exact
SLAB = 0.02  # asset units above its lowest point that count as what an object stands on
REACH = 0.05  # of an object's size: how far above or in its support it still seems to stand on it


@dataclass(frozen=True)
class Rows:
    """Linearised residuals of a pose. direction: the way [m, 3] in which a residual [m] grows at a place at [m, 3]."""

    at: Floats
    direction: Floats
    residual: Floats
    weight: Floats

    def equations(self, pivot: Floats) -> tuple[Floats, Floats]:
        """Hessian [7, 7] and gradient [7] of half the weighted squares, for steps about pivot [3]."""
        rows = jacobian(self.at - pivot, self.direction)
        weighted = rows * self.weight[:, None]
        return weighted.T @ rows, weighted.T @ self.residual

    @staticmethod
    def joined(rows: list[Rows]) -> Rows:
        """All rows in one."""
        return Rows(*(np.concatenate([getattr(r, name) for r in rows]) for name in Rows.__dataclass_fields__))


@dataclass(frozen=True)
class Match:
    """Measured points and the seen samples nearest to them: at [n, 3] world, across the surface [n] (signed, along
    normals [n, 3]) and beside it ([n] metres beyond the spacing of samples, in directions [n, 3])."""

    at: Floats
    normals: Floats
    across: Floats
    beside: Floats
    sideways: Floats


def match(T: Floats, part: Part, count: int) -> Match:
    """Match up to count points with what their cameras would see of the asset at T [4, 4]."""
    T_asset_world = inverse(T)
    scale = float(scale_of(T))
    measured, slices = part.evidence.by_eye(count)
    local = measured @ T_asset_world[:3, :3].T + T_asset_world[:3, 3]
    eyes = part.evidence.eyes @ T_asset_world[:3, :3].T + T_asset_world[:3, 3]
    at, normals = np.empty_like(measured), np.empty_like(measured)
    for mine, seen in zip(slices, part.surface.seen(eyes), strict=True):
        index = seen.tree.query(local[mine])[1]
        at[mine], normals[mine] = seen.points[index], seen.normals[index]
    at, normals = at @ T[:3, :3].T + T[:3, 3], normals @ T[:3, :3].T / scale
    offset = at - measured
    across = (offset * normals).sum(axis=1)
    tangent = offset - across[:, None] * normals
    length = np.linalg.norm(tangent, axis=1)
    sideways = tangent / np.maximum(length, 1e-9)[:, None]
    return Match(at, normals, across, np.maximum(length - FINE_SPACING * scale, 0), sideways)


def rows(
    T: Floats,
    part: Part,
    found: Match,
    near: float,
    outline: float,
    count: int,
    support: Support | None,
    others: Sequence[tuple[Part, Floats]] = (),
) -> Rows:
    """Everything that judges the asset at T [4, 4], in units of near (metres: residuals beyond it count little).

    found: its points' match there. outline: weight of outline and free space beside the points, for which about count
    samples are tested. others: what stands beside.
    """
    scale = float(scale_of(T))
    weight = 1 / (1 + (found.across**2 + found.beside**2) / near**2) ** 2 / (len(found.at) * near**2)
    out = [
        Rows(found.at, found.normals, found.across, weight),
        Rows(found.at, found.sideways, found.beside, EDGE * weight),
    ]
    if outline > 0:
        outlines = part.evidence.outlines
        at = shared_out(part, count) @ T[:3, :3].T + T[:3, 3]
        amount, direction = outlines.violation(at)
        share = outline / (amount.size * near**2)
        weight = share / (1 + (amount / (2 * near)) ** 2)
        out.append(Rows(at.reshape(-1, 3), direction.reshape(-1, 3), amount.ravel(), weight.ravel()))
        if outlines.blind.any():
            at = part.surface.points[:COVERING] @ T[:3, :3].T + T[:3, 3]
            index, amount, direction, each = outlines.uncovered(at, COVERING_SPACING * scale, outlines.blind)
            weight = outline * each / (near**2 * (1 + (amount / (2 * near)) ** 2))
            out.append(Rows(at[index], direction, amount, weight))
    if support is not None:
        out.append(_contact(T, part, near, support))
    out += [_apart(T, part, near, *other) for other in others if _touching(T, other[1])]
    return Rows.joined(out)


def _contact(T: Floats, part: Part, near: float, support: Support) -> Rows:
    """The lowest samples on the support, if they are near it at all."""
    scale = float(scale_of(T))
    at = part.surface.points[:1000] @ T[:3, :3].T + T[:3, 3]
    height = at @ support.up - support.height
    lowest = float(height.min())
    low = height < lowest + SLAB * scale
    weight = CONTACT / (1 + (lowest / (REACH * scale)) ** 2) ** 2 / (near**2 * low.sum())
    return Rows(at[low], np.broadcast_to(support.up, (int(low.sum()), 3)), height[low], np.full(low.sum(), weight))


def _touching(T: Floats, T_other: Floats) -> bool:
    reach = np.sqrt(3) / 2 * (scale_of(T) + scale_of(T_other))
    return bool(np.linalg.norm(T[:3, 3] - T_other[:3, 3]) < reach)


def _apart(T: Floats, part: Part, near: float, other: Part, T_other: Floats) -> Rows:
    """Samples inside another object, which must leave it."""
    at = part.surface.points[:APART_SAMPLES] @ T[:3, :3].T + T[:3, 3]
    T_other_world = inverse(T_other)
    local = at @ T_other_world[:3, :3].T + T_other_world[:3, 3]
    at, local = at[inside := (np.abs(local) < 0.5).all(axis=1)], local[inside]
    index = other.surface.nearest(local)
    normals = other.surface.normals[index]
    depth = ((other.surface.points[index] - local) * normals).sum(axis=1) - APART_SLACK
    scale = float(scale_of(T_other))
    weight = np.full(len(at), APART / (APART_SAMPLES * near**2))
    return Rows(at, -normals @ T_other[:3, :3].T / scale, np.maximum(depth, 0) * scale, weight * (depth > 0))


def misfit(T: Floats, part: Part, count: int = 300) -> float:
    """How badly a part fits at T [4, 4], 0..3: capped distances of points, samples the views deny, pixels not covered.

    What sparse samples and the camera's noise explain is no fault.
    """
    reach = 0.15 * part.evidence.length
    found = match(T, part, count)
    total = float(np.clip((np.hypot(found.across, found.beside) - part.evidence.noise) / reach, 0, 1).mean())
    outlines = part.evidence.outlines
    amount = outlines.amount(shared_out(part, count) @ T[:3, :3].T + T[:3, 3])
    total += float(np.minimum(amount / reach, 1).mean())
    at = part.surface.points[:COVERING] @ T[:3, :3].T + T[:3, 3]
    _, amount, _, share = outlines.uncovered(at, COVERING_SPACING * float(scale_of(T)))
    return total + float(share @ np.minimum(amount / reach, 1))
