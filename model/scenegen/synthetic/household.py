"""Families of small things: boxes, vessels, solids.

Builders return parts standing on z = 0 about the z axis, longest extent about 1, and the yaw symmetry order. Where an
object has a front it looks along -y. No part is thinner than about 0.055 of the longest extent, so that no part is
lost when centres of a 32^3 grid are sampled. Knows nothing about normalising, placing or drawing.
"""

from __future__ import annotations

import numpy as np

from scenegen.synthetic.building import (
    Built,
    Palette,
    Rng,
    block,
    cylinder,
    footprint,
    hollow,
    longest_one,
    solid,
    turned,
)
from scenegen.synthetic.parts import Arc, Box, Part

_X, _, _Z = np.eye(3)


def box(rng: Rng) -> Built:
    """A cuboid, some with a lid."""
    palette = Palette(rng)
    w, d, order = footprint(rng, 0.3)
    w, d, h = longest_one(w, d, rng.uniform(0.25, 1.4))
    cut = h * rng.uniform(0.55, 0.85)
    if rng.uniform() < 0.5 or h < 0.3:
        return [block(w, d, 0, h, palette.main)], order
    overhang = rng.choice([0.0, 0.04])
    lid = block(w + overhang, d + overhang, cut, h, palette.relative())
    return [block(w, d, 0, cut, palette.main), lid], order


def crate(rng: Rng) -> Built:
    """An open box."""
    palette = Palette(rng)
    w, d, order = footprint(rng, 0.5)
    w, d, h = longest_one(w, d, rng.uniform(0.3, 0.9))
    t = rng.uniform(0.065, 0.09)
    parts: list[Part] = [block(w, d, 0, t, palette.main)]
    parts += [block(t, d, 0, h, palette.main, x=s * (w - t) / 2) for s in (-1, 1)]
    if order == 4:
        parts += [block(w, t, 0, h, palette.main, y=s * (d - t) / 2) for s in (-1, 1)]
    else:
        front = palette.relative()
        parts += [block(w - 2 * t, t, t, h, front, y=s * (d - t) / 2) for s in (-1, 1)]
    return parts, order


def can(rng: Rng) -> Built:
    """A cylinder, some with a label."""
    palette = Palette(rng)
    height = rng.uniform(0.5, 2.6)
    width, height = longest_one(1.0, height)
    r = width / 2
    parts: list[Part] = [cylinder(r, 0, height, palette.main)]
    if rng.uniform() < 0.7:
        low, high = sorted(rng.uniform(0.1, 0.9, 2))
        high = max(high, low + 0.15)
        parts.append(cylinder(r + 0.012, low * height, min(high, 1.0) * height, palette.relative()))
    return parts, 0


def cone(rng: Rng) -> Built:
    """A blunt cone, some on a disc."""
    palette = Palette(rng)
    width, height = longest_one(1.0, rng.uniform(0.6, 2.0))
    r, top = width / 2, rng.uniform(0.06, 0.5) * width / 2 + 0.03
    parts: list[Part] = [solid([(r, 0.0), (top, height)], palette.main)]
    if rng.uniform() < 0.5:
        parts.append(solid([(r, 0.0), (r, 0.08)], palette.relative()))
    return parts, 0


def ball(rng: Rng) -> Built:
    """A ball or egg, some with a band."""
    palette = Palette(rng)
    squash = float(rng.choice([1.0, rng.uniform(0.55, 1.6)]))
    angle = np.linspace(-np.pi / 2, np.pi / 2, 13)
    width, height = longest_one(1.0, squash)
    ring = np.stack([width / 2 * np.cos(angle), height / 2 * (1 + np.sin(angle))], axis=1)
    ring[[0, -1], 0] = 0.0
    parts: list[Part] = [turned(ring, palette.main)]
    if rng.uniform() < 0.5:
        band = rng.uniform(0.05, 0.12)
        parts.append(cylinder(width / 2 + 0.01, height / 2 - band, height / 2 + band, palette.relative()))
    return parts, 0


def mug(rng: Rng) -> Built:
    """A hollow cup with a handle along x."""
    palette = Palette(rng)
    h, r = rng.uniform(0.75, 1.0), rng.uniform(0.3, 0.42)
    top = r * rng.uniform(0.9, 1.15)
    wall = rng.uniform(0.065, 0.085)
    body = hollow(np.array([[r, 0.0], [top, h]]), wall, palette.main)
    ring = h * rng.uniform(0.24, 0.34)
    middle = h * rng.uniform(0.48, 0.55)
    at = r + (top - r) * middle / h - wall / 2
    handle = Arc(np.array([at, 0.0, middle]), _Z, _X, ring, np.pi / 2, rng.uniform(0.033, 0.042), palette.main)
    if rng.uniform() < 0.5:
        handle = Arc(handle.centre, _Z, _X, ring, np.pi / 2, handle.tube, palette.relative())
    return [body, handle], 1


def bowl(rng: Rng) -> Built:
    """A half-round shell on a foot."""
    palette = Palette(rng)
    r, h, wall = 0.5, rng.uniform(0.22, 0.5), rng.uniform(0.06, 0.075)
    foot = rng.uniform(0.07, 0.1)
    angle = np.linspace(0.0, np.pi / 2, 7)
    outer = np.stack([r * np.sin(angle), foot * 0.4 + h * (1 - np.cos(angle))], axis=1)
    inner = np.stack([(r - wall) * np.sin(angle), foot * 0.4 + h - (h - wall) * np.cos(angle)], axis=1)
    body = turned(np.concatenate([outer, inner[::-1]]), palette.main)
    return [body, cylinder(r * rng.uniform(0.35, 0.5), 0.0, foot * 0.4 + wall * 0.7, palette.relative())], 0


def plate(rng: Rng) -> Built:
    """A shallow dish with a coloured middle."""
    palette = Palette(rng)
    foot, rim = rng.uniform(0.24, 0.34), rng.uniform(0.09, 0.18)
    outline = np.array([[foot, 0.0], [0.5, rim]])
    return [hollow(outline, 0.06, palette.main), cylinder(foot - 0.02, 0.02, 0.075, palette.relative())], 0


def bottle(rng: Rng) -> Built:
    """A body that narrows to a capped neck, some with a label."""
    palette = Palette(rng)
    r, neck = rng.uniform(0.13, 0.24), rng.uniform(0.045, 0.075)
    body, shoulder = rng.uniform(0.45, 0.65), rng.uniform(0.08, 0.22)
    u = np.linspace(0.0, 1.0, 7)
    curve = neck + (r - neck) * (0.5 + 0.5 * np.cos(np.pi * u))
    outline = [(r, 0.0), *zip(curve.tolist(), (body + shoulder * u).tolist(), strict=True), (neck, 0.93)]
    parts: list[Part] = [solid(outline, palette.main), cylinder(neck + 0.02, 0.88, 1.0, palette.relative())]
    if rng.uniform() < 0.7:
        parts.append(cylinder(r + 0.01, body * rng.uniform(0.1, 0.3), body * rng.uniform(0.6, 0.9), palette.relative()))
    return parts, 0


def vase(rng: Rng) -> Built:
    """A hollow vessel of a smooth random outline."""
    palette = Palette(rng)
    control = rng.uniform([0.17, 0.2, 0.15, 0.16], [0.3, 0.42, 0.3, 0.34])
    z = np.linspace(0.0, 1.0, 10)
    basis = np.stack([(1 - z) ** 3, 3 * z * (1 - z) ** 2, 3 * z**2 * (1 - z), z**3], axis=1)
    outline = np.stack([basis @ (control * [1.0, 1.2, 0.8, 1.0]), z], axis=1)
    parts: list[Part] = [hollow(outline, 0.065, palette.main)]
    if rng.uniform() < 0.5:
        parts.append(cylinder(outline[0, 0] + 0.03, 0.0, 0.09, palette.relative()))
    return parts, 0


def bucket(rng: Rng) -> Built:
    """A widening vessel with a handle over it."""
    palette = Palette(rng)
    h, top = rng.uniform(0.5, 0.65), rng.uniform(0.32, 0.4)
    wall = 0.065
    body = hollow(np.array([[top * rng.uniform(0.65, 0.9), 0.0], [top, h]]), wall, palette.main)
    handle = Arc(np.array([0.0, 0.0, h - 0.03]), _X, _Z, top - wall / 2, np.pi / 2, 0.033, palette.relative())
    return [body, handle], 2


def steps(rng: Rng) -> Built:
    """Two to four steps that rise along y."""
    palette = Palette(rng)
    count, w = int(rng.integers(2, 5)), rng.uniform(0.4, 0.9)
    run, rise = 1.0 / count, rng.uniform(0.55, 0.95) / count
    tint = [palette.main, palette.relative()]
    return [
        Box.between((-w / 2, k * run, k * rise), (w / 2, 1.0, (k + 1) * rise), tint[k % 2]) for k in range(count)
    ], 1
