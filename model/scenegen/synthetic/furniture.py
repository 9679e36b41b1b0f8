"""Families of furniture.

Builders return parts standing on z = 0 about the z axis, longest extent about 1, and the yaw symmetry order. Where an
object has a front it looks along -y. No part is thinner than about 0.055 of the longest extent, so that no part is
lost when centres of a 32^3 grid are sampled. Knows nothing about normalising, placing or drawing.
"""

from __future__ import annotations

import numpy as np

from scenegen.synthetic.building import Built, Palette, Rng, block, cylinder, footprint, legs, longest_one, turned
from scenegen.synthetic.parts import Box, Part


def lamp(rng: Rng) -> Built:
    """A table lamp: foot, pole and a shade that is open below."""
    palette = Palette(rng)
    base, low, high = rng.uniform(0.14, 0.26), rng.uniform(0.24, 0.4), rng.uniform(0.1, 0.22)
    start, wall = rng.uniform(0.52, 0.68), 0.062
    outline = [(low - wall, start), (low, start), (high, 1.0), (0.0, 1.0), (0.0, 1 - wall), (high - wall, 1 - wall)]
    shade = turned(outline, palette.main)
    foot = palette.relative()
    return [shade, cylinder(base, 0.0, 0.07, foot), cylinder(0.034, 0.05, 1 - wall / 2, foot)], 0


def table(rng: Rng) -> Built:
    """A table-top on four legs, some with a board below."""
    palette = Palette(rng)
    w, d, order = footprint(rng, 0.45)
    w, d, h = longest_one(w, d, rng.uniform(0.4, 0.85))
    t, leg = rng.uniform(0.06, 0.1), rng.uniform(0.06, 0.11)
    under = palette.relative()
    parts: list[Part] = [block(w, d, h - t, h, palette.main)]
    inset = rng.choice([0.0, 0.1])
    parts += legs(w - inset, d - inset, h - t, leg, under, bool(rng.uniform() < 0.3))
    if rng.uniform() < 0.3:
        parts.append(block(w - inset - leg, d - inset - leg, 0.12, 0.19, under))
    return parts, order


def stool(rng: Rng) -> Built:
    """A round seat on three or four legs or one pillar."""
    palette = Palette(rng)
    width, h = longest_one(1.0, rng.uniform(0.7, 1.7))
    r, t = width / 2, rng.uniform(0.065, 0.12)
    under = palette.relative()
    parts: list[Part] = [cylinder(r, h - t, h, palette.main)]
    if rng.uniform() < 0.35:
        parts.append(cylinder(rng.uniform(0.04, 0.08), 0.03, h - t / 2, under))
        parts.append(cylinder(r * rng.uniform(0.6, 0.9), 0.0, 0.065, under))
        return parts, 0
    count, leg = int(rng.choice([3, 4])), rng.uniform(0.035, 0.05)
    reach = r * rng.uniform(0.65, 0.85) - leg
    for k in range(count):
        a = 2 * np.pi * k / count - np.pi / 2
        parts.append(cylinder(leg, 0.0, h - t / 2, under, reach * np.cos(a), reach * np.sin(a)))
    return parts, count


def chair(rng: Rng) -> Built:
    """A seat on four legs with a back, some with arms."""
    palette = Palette(rng)
    w, d, seat = rng.uniform(0.4, 0.56), rng.uniform(0.4, 0.55), rng.uniform(0.38, 0.5)
    t, leg = rng.uniform(0.06, 0.09), rng.uniform(0.06, 0.08)
    wood, back = palette.relative(), rng.integers(3)
    parts: list[Part] = [block(w, d, seat - t, seat, palette.main), *legs(w, d, seat - t, leg, wood)]
    y = (d - leg) / 2
    if back == 0:
        parts.append(block(w, leg, seat, 1.0, palette.main, y=y))
    else:
        parts += [block(leg, leg, seat, 1.0, wood, x=s * (w - leg) / 2, y=y) for s in (-1, 1)]
        low = 0.78 if back == 1 else 0.62
        parts.append(block(w - 2 * leg, 0.06, low, 1.0 - rng.choice([0.0, 0.05]), palette.main, y=y))
    if rng.uniform() < 0.3:
        top = seat + rng.uniform(0.2, 0.26)
        for s in (-1, 1):
            parts.append(block(0.06, d - leg, top - 0.06, top, wood, x=s * (w - 0.06) / 2, y=-leg / 2))
            parts.append(block(0.06, 0.06, seat, top, wood, x=s * (w - 0.06) / 2, y=-(d - 0.06) / 2))
    return parts, 1


def shelf(rng: Rng) -> Built:
    """Boards between two sides, some with a back panel."""
    palette = Palette(rng)
    w, d, t = rng.uniform(0.4, 0.95), rng.uniform(0.22, 0.36), 0.062
    boards, inner = int(rng.integers(2, 5)), palette.relative()
    parts: list[Part] = [block(t, d, 0, 1, palette.main, x=s * (w - t) / 2) for s in (-1, 1)]
    back = 0.06 if rng.uniform() < 0.5 else 0.0
    for z in np.linspace(rng.choice([0.0, 0.08]), 1 - t, boards):
        parts.append(block(w - 2 * t, d - back - 0.02, z, z + t, inner, y=-back / 2 + (0.01 if back else 0.0)))
    if back:
        parts.append(block(w, back, 0, 1, palette.main, y=(d - back) / 2))
        return parts, 1
    return parts, 2


def sofa(rng: Rng) -> Built:
    """A sofa or armchair: base, back, arms, cushion."""
    palette = Palette(rng)
    w, d, h = 1.0, rng.uniform(0.4, 0.6), rng.uniform(0.36, 0.52)
    seat, arm = h * rng.uniform(0.42, 0.55), rng.uniform(0.08, 0.14)
    if rng.uniform() < 0.35:  # an armchair is the same thing, narrower
        w = d * rng.uniform(1.0, 1.25)
    cushion = palette.relative()
    parts: list[Part] = [block(w, d, 0.0, seat - 0.04, palette.main)]
    parts.append(block(w, 0.13, 0.0, h, palette.main, y=(d - 0.13) / 2))
    top = seat + (h - seat) * rng.uniform(0.3, 0.7)
    parts += [block(arm, d, 0.0, top, palette.main, x=s * (w - arm) / 2) for s in (-1, 1)]
    parts.append(Box.between((-w / 2 + arm, -d / 2 - 0.01, seat - 0.06), (w / 2 - arm, d / 2 - 0.13, seat), cushion))
    return parts, 1


def bed(rng: Rng) -> Built:
    """A frame with a headboard, a mattress and pillows."""
    palette = Palette(rng)
    w, h, head = rng.uniform(0.45, 0.8), rng.uniform(0.14, 0.22), rng.uniform(0.32, 0.5)
    sheet, pillow = palette.relative(), palette.relative()
    parts: list[Part] = [block(w, 1.0, 0.0, h, palette.main), block(w, 0.07, 0.0, head, palette.main, y=0.465)]
    parts.append(block(w - 0.04, 0.9, h - 0.02, h + 0.08, sheet, y=-0.02))
    for x in (-w / 4, w / 4) if w > 0.6 else (0.0,):
        parts.append(block(0.26, 0.18, h + 0.05, h + 0.14, pillow, x=x, y=0.31))
    return parts, 1


def cabinet(rng: Rng) -> Built:
    """A closed body with doors, some on feet."""
    palette = Palette(rng)
    w, d, h = longest_one(rng.uniform(0.6, 1.6), rng.uniform(0.35, 0.6), rng.uniform(0.5, 1.5))
    d = max(d, 0.25)
    foot, door = rng.choice([0.0, 0.1]), palette.relative()
    parts: list[Part] = [block(w, d, foot, h, palette.main)]
    if foot > 0:
        parts += legs(w, d, foot, 0.07, door)
    columns = 2 if w > 0.5 else 1
    gap = 0.035
    panel = (w - gap * (columns + 1)) / columns
    for k in range(columns):
        x = -w / 2 + gap + panel / 2 + k * (panel + gap)
        parts.append(block(panel, 0.06, foot + gap, h - gap, door, x=x, y=-d / 2 + 0.012))
    return parts, 1
