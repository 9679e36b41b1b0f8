"""The object families: how each is put together of parts.

Builders return parts standing on z = 0 about the z axis, longest extent about 1, and the yaw symmetry order. Where an
object has a front it looks along -y. No part is thinner than about 0.055 of the longest extent, so that no part is
lost when centres of a 32^3 grid are sampled. Knows nothing about normalising, placing or drawing.
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable

import numpy as np

from scenegen.synthetic.parts import Arc, Box, Colour, Floats, Part, Revolved

Built = tuple[list[Part], int]
Rng = np.random.Generator

_X, _Y, _Z = np.eye(3)


class _Palette:
    """Colours of one object: a main one and relatives of it."""

    def __init__(self, rng: Rng) -> None:
        self._rng = rng
        self._hue = rng.uniform()
        self._saturation = rng.uniform(0.05, 0.9)
        self._value = rng.uniform(0.45, 1.0)
        self.main = self._colour(self._hue, self._saturation, self._value)

    def relative(self) -> Colour:
        """A colour that goes with the main one but can be told from it."""
        kind = self._rng.integers(3)
        if kind == 0:  # lighter or darker
            value = self._value + (0.3 if self._value < 0.6 else -0.3) * self._rng.uniform(0.7, 1.2)
            return self._colour(self._hue, self._saturation, value)
        if kind == 1:  # another hue
            hue = self._hue + self._rng.choice([-1, 1]) * self._rng.uniform(0.12, 0.5)
            return self._colour(hue, self._saturation, self._value * self._rng.uniform(0.7, 1.1))
        return self._colour(self._hue, 0.08, self._rng.choice([0.25, 0.55, 0.9]))  # grey, black, white

    @staticmethod
    def _colour(hue: float, saturation: float, value: float) -> Colour:
        r, g, b = colorsys.hsv_to_rgb(hue % 1.0, float(np.clip(saturation, 0, 1)), float(np.clip(value, 0.2, 1)))
        return round(255 * r), round(255 * g), round(255 * b)


def _longest_one(*sizes: float) -> list[float]:
    return [size / max(sizes) for size in sizes]


def _footprint(rng: Rng, lowest: float = 0.4) -> tuple[float, float, int]:
    """Width >= depth of a rectangle and its yaw symmetry; never nearly but not quite square."""
    if rng.uniform() < 0.3:
        return 1.0, 1.0, 4
    return 1.0, float(rng.uniform(lowest, 0.82)), 2


def _block(w: float, d: float, z0: float, z1: float, colour: Colour, x: float = 0.0, y: float = 0.0) -> Box:
    """A box w by d about (x, y), from height z0 to z1."""
    return Box.between((x - w / 2, y - d / 2, z0), (x + w / 2, y + d / 2, z1), colour)


def _turned(points: list[tuple[float, float]] | Floats, colour: Colour, x: float = 0.0, y: float = 0.0) -> Revolved:
    return Revolved(np.array(points, dtype=float), colour, np.array([x, y]))


def _solid(outline: list[tuple[float, float]], colour: Colour, x: float = 0.0, y: float = 0.0) -> Revolved:
    """A full solid of revolution under an outline of (radius, z), bottom to top."""
    closed = list(outline)
    if closed[0][0] > 0:
        closed.insert(0, (0.0, closed[0][1]))
    if closed[-1][0] > 0:
        closed.append((0.0, closed[-1][1]))
    return _turned(closed, colour, x, y)


def _cylinder(r: float, z0: float, z1: float, colour: Colour, x: float = 0.0, y: float = 0.0) -> Revolved:
    return _solid([(r, z0), (r, z1)], colour, x, y)


def _hollow(outline: Floats, wall: float, colour: Colour) -> Revolved:
    """A vessel: outline [K, 2] (radius, z), bottom to top, with a wall and a floor of that thickness."""
    slope = np.gradient(outline[:, 0], outline[:, 1])
    inner = np.stack([outline[:, 0] - wall * np.sqrt(1 + slope**2), outline[:, 1]], axis=1)
    floor = outline[0, 1] + wall
    at_floor = np.array([[np.interp(floor, inner[:, 1], inner[:, 0]), floor]])
    inner = np.concatenate([at_floor, inner[inner[:, 1] > floor + 1e-6]])
    axis = [[0.0, floor], [0.0, outline[0, 1]]]
    return _turned(np.concatenate([outline, inner[::-1], axis]), colour)


def _legs(w: float, d: float, height: float, t: float, colour: Colour, round_legs: bool = False) -> list[Part]:
    """Four legs of thickness t in the corners of a w by d rectangle."""
    at = [(sx * (w - t) / 2, sy * (d - t) / 2) for sx in (-1, 1) for sy in (-1, 1)]
    if round_legs:
        return [_cylinder(t / 2, 0.0, height, colour, x, y) for x, y in at]
    return [_block(t, t, 0.0, height, colour, x, y) for x, y in at]


def _box(rng: Rng) -> Built:
    palette = _Palette(rng)
    w, d, order = _footprint(rng, 0.3)
    w, d, h = _longest_one(w, d, rng.uniform(0.25, 1.4))
    cut = h * rng.uniform(0.55, 0.85)
    if rng.uniform() < 0.5 or h < 0.3:
        return [_block(w, d, 0, h, palette.main)], order
    overhang = rng.choice([0.0, 0.04])
    lid = _block(w + overhang, d + overhang, cut, h, palette.relative())
    return [_block(w, d, 0, cut, palette.main), lid], order


def _crate(rng: Rng) -> Built:
    palette = _Palette(rng)
    w, d, order = _footprint(rng, 0.5)
    w, d, h = _longest_one(w, d, rng.uniform(0.3, 0.9))
    t = rng.uniform(0.065, 0.09)
    parts: list[Part] = [_block(w, d, 0, t, palette.main)]
    parts += [_block(t, d, 0, h, palette.main, x=s * (w - t) / 2) for s in (-1, 1)]
    if order == 4:
        parts += [_block(w, t, 0, h, palette.main, y=s * (d - t) / 2) for s in (-1, 1)]
    else:
        front = palette.relative()
        parts += [_block(w - 2 * t, t, t, h, front, y=s * (d - t) / 2) for s in (-1, 1)]
    return parts, order


def _can(rng: Rng) -> Built:
    palette = _Palette(rng)
    height = rng.uniform(0.5, 2.6)
    width, height = _longest_one(1.0, height)
    r = width / 2
    parts: list[Part] = [_cylinder(r, 0, height, palette.main)]
    if rng.uniform() < 0.7:
        low, high = sorted(rng.uniform(0.1, 0.9, 2))
        high = max(high, low + 0.15)
        parts.append(_cylinder(r + 0.012, low * height, min(high, 1.0) * height, palette.relative()))
    return parts, 0


def _cone(rng: Rng) -> Built:
    palette = _Palette(rng)
    width, height = _longest_one(1.0, rng.uniform(0.6, 2.0))
    r, top = width / 2, rng.uniform(0.06, 0.5) * width / 2 + 0.03
    parts: list[Part] = [_solid([(r, 0.0), (top, height)], palette.main)]
    if rng.uniform() < 0.5:
        parts.append(_solid([(r, 0.0), (r, 0.08)], palette.relative()))
    return parts, 0


def _ball(rng: Rng) -> Built:
    palette = _Palette(rng)
    squash = float(rng.choice([1.0, rng.uniform(0.55, 1.6)]))
    angle = np.linspace(-np.pi / 2, np.pi / 2, 13)
    width, height = _longest_one(1.0, squash)
    ring = np.stack([width / 2 * np.cos(angle), height / 2 * (1 + np.sin(angle))], axis=1)
    ring[[0, -1], 0] = 0.0
    parts: list[Part] = [_turned(ring, palette.main)]
    if rng.uniform() < 0.5:
        band = rng.uniform(0.05, 0.12)
        parts.append(_cylinder(width / 2 + 0.01, height / 2 - band, height / 2 + band, palette.relative()))
    return parts, 0


def _mug(rng: Rng) -> Built:
    palette = _Palette(rng)
    h, r = rng.uniform(0.75, 1.0), rng.uniform(0.3, 0.42)
    top = r * rng.uniform(0.9, 1.15)
    wall = rng.uniform(0.065, 0.085)
    body = _hollow(np.array([[r, 0.0], [top, h]]), wall, palette.main)
    ring = h * rng.uniform(0.24, 0.34)
    middle = h * rng.uniform(0.48, 0.55)
    at = r + (top - r) * middle / h - wall / 2
    handle = Arc(np.array([at, 0.0, middle]), _Z, _X, ring, np.pi / 2, rng.uniform(0.033, 0.042), palette.main)
    if rng.uniform() < 0.5:
        handle = Arc(handle.centre, _Z, _X, ring, np.pi / 2, handle.tube, palette.relative())
    return [body, handle], 1


def _bowl(rng: Rng) -> Built:
    palette = _Palette(rng)
    r, h, wall = 0.5, rng.uniform(0.22, 0.5), rng.uniform(0.06, 0.075)
    foot = rng.uniform(0.07, 0.1)
    angle = np.linspace(0.0, np.pi / 2, 7)
    outer = np.stack([r * np.sin(angle), foot * 0.4 + h * (1 - np.cos(angle))], axis=1)
    inner = np.stack([(r - wall) * np.sin(angle), foot * 0.4 + h - (h - wall) * np.cos(angle)], axis=1)
    body = _turned(np.concatenate([outer, inner[::-1]]), palette.main)
    return [body, _cylinder(r * rng.uniform(0.35, 0.5), 0.0, foot * 0.4 + wall * 0.7, palette.relative())], 0


def _plate(rng: Rng) -> Built:
    palette = _Palette(rng)
    foot, rim = rng.uniform(0.24, 0.34), rng.uniform(0.09, 0.18)
    outline = np.array([[foot, 0.0], [0.5, rim]])
    return [_hollow(outline, 0.06, palette.main), _cylinder(foot - 0.02, 0.02, 0.075, palette.relative())], 0


def _bottle(rng: Rng) -> Built:
    palette = _Palette(rng)
    r, neck = rng.uniform(0.13, 0.24), rng.uniform(0.045, 0.075)
    body, shoulder = rng.uniform(0.45, 0.65), rng.uniform(0.08, 0.22)
    u = np.linspace(0.0, 1.0, 7)
    curve = neck + (r - neck) * (0.5 + 0.5 * np.cos(np.pi * u))
    outline = [(r, 0.0), *zip(curve.tolist(), (body + shoulder * u).tolist(), strict=True), (neck, 0.93)]
    parts: list[Part] = [_solid(outline, palette.main), _cylinder(neck + 0.02, 0.88, 1.0, palette.relative())]
    if rng.uniform() < 0.7:
        parts.append(
            _cylinder(r + 0.01, body * rng.uniform(0.1, 0.3), body * rng.uniform(0.6, 0.9), palette.relative())
        )
    return parts, 0


def _vase(rng: Rng) -> Built:
    palette = _Palette(rng)
    control = rng.uniform([0.17, 0.2, 0.15, 0.16], [0.3, 0.42, 0.3, 0.34])
    z = np.linspace(0.0, 1.0, 10)
    basis = np.stack([(1 - z) ** 3, 3 * z * (1 - z) ** 2, 3 * z**2 * (1 - z), z**3], axis=1)
    outline = np.stack([basis @ (control * [1.0, 1.2, 0.8, 1.0]), z], axis=1)
    parts: list[Part] = [_hollow(outline, 0.065, palette.main)]
    if rng.uniform() < 0.5:
        parts.append(_cylinder(outline[0, 0] + 0.03, 0.0, 0.09, palette.relative()))
    return parts, 0


def _bucket(rng: Rng) -> Built:
    palette = _Palette(rng)
    h, top = rng.uniform(0.5, 0.65), rng.uniform(0.32, 0.4)
    wall = 0.065
    body = _hollow(np.array([[top * rng.uniform(0.65, 0.9), 0.0], [top, h]]), wall, palette.main)
    handle = Arc(np.array([0.0, 0.0, h - 0.03]), _X, _Z, top - wall / 2, np.pi / 2, 0.033, palette.relative())
    return [body, handle], 2


def _lamp(rng: Rng) -> Built:
    palette = _Palette(rng)
    base, low, high = rng.uniform(0.14, 0.26), rng.uniform(0.24, 0.4), rng.uniform(0.1, 0.22)
    start, wall = rng.uniform(0.52, 0.68), 0.062
    outline = [(low - wall, start), (low, start), (high, 1.0), (0.0, 1.0), (0.0, 1 - wall), (high - wall, 1 - wall)]
    shade = _turned(outline, palette.main)
    foot = palette.relative()
    return [shade, _cylinder(base, 0.0, 0.07, foot), _cylinder(0.034, 0.05, 1 - wall / 2, foot)], 0


def _table(rng: Rng) -> Built:
    palette = _Palette(rng)
    w, d, order = _footprint(rng, 0.45)
    w, d, h = _longest_one(w, d, rng.uniform(0.4, 0.85))
    t, leg = rng.uniform(0.06, 0.1), rng.uniform(0.06, 0.11)
    under = palette.relative()
    parts: list[Part] = [_block(w, d, h - t, h, palette.main)]
    inset = rng.choice([0.0, 0.1])
    parts += _legs(w - inset, d - inset, h - t, leg, under, bool(rng.uniform() < 0.3))
    if rng.uniform() < 0.3:
        parts.append(_block(w - inset - leg, d - inset - leg, 0.12, 0.19, under))
    return parts, order


def _stool(rng: Rng) -> Built:
    palette = _Palette(rng)
    width, h = _longest_one(1.0, rng.uniform(0.7, 1.7))
    r, t = width / 2, rng.uniform(0.065, 0.12)
    under = palette.relative()
    parts: list[Part] = [_cylinder(r, h - t, h, palette.main)]
    if rng.uniform() < 0.35:
        parts.append(_cylinder(rng.uniform(0.04, 0.08), 0.03, h - t / 2, under))
        parts.append(_cylinder(r * rng.uniform(0.6, 0.9), 0.0, 0.065, under))
        return parts, 0
    count, leg = int(rng.choice([3, 4])), rng.uniform(0.035, 0.05)
    reach = r * rng.uniform(0.65, 0.85) - leg
    for k in range(count):
        a = 2 * np.pi * k / count - np.pi / 2
        parts.append(_cylinder(leg, 0.0, h - t / 2, under, reach * np.cos(a), reach * np.sin(a)))
    return parts, count


def _chair(rng: Rng) -> Built:
    palette = _Palette(rng)
    w, d, seat = rng.uniform(0.4, 0.56), rng.uniform(0.4, 0.55), rng.uniform(0.38, 0.5)
    t, leg = rng.uniform(0.06, 0.09), rng.uniform(0.06, 0.08)
    wood, back = palette.relative(), rng.integers(3)
    parts: list[Part] = [_block(w, d, seat - t, seat, palette.main), *_legs(w, d, seat - t, leg, wood)]
    y = (d - leg) / 2
    if back == 0:
        parts.append(_block(w, leg, seat, 1.0, palette.main, y=y))
    else:
        parts += [_block(leg, leg, seat, 1.0, wood, x=s * (w - leg) / 2, y=y) for s in (-1, 1)]
        low = 0.78 if back == 1 else 0.62
        parts.append(_block(w - 2 * leg, 0.06, low, 1.0 - rng.choice([0.0, 0.05]), palette.main, y=y))
    if rng.uniform() < 0.3:
        top = seat + rng.uniform(0.2, 0.26)
        for s in (-1, 1):
            parts.append(_block(0.06, d - leg, top - 0.06, top, wood, x=s * (w - 0.06) / 2, y=-leg / 2))
            parts.append(_block(0.06, 0.06, seat, top, wood, x=s * (w - 0.06) / 2, y=-(d - 0.06) / 2))
    return parts, 1


def _shelf(rng: Rng) -> Built:
    palette = _Palette(rng)
    w, d, t = rng.uniform(0.4, 0.95), rng.uniform(0.22, 0.36), 0.062
    boards, inner = int(rng.integers(2, 5)), palette.relative()
    parts: list[Part] = [_block(t, d, 0, 1, palette.main, x=s * (w - t) / 2) for s in (-1, 1)]
    back = 0.06 if rng.uniform() < 0.5 else 0.0
    for z in np.linspace(rng.choice([0.0, 0.08]), 1 - t, boards):
        parts.append(_block(w - 2 * t, d - back - 0.02, z, z + t, inner, y=-back / 2 + (0.01 if back else 0.0)))
    if back:
        parts.append(_block(w, back, 0, 1, palette.main, y=(d - back) / 2))
        return parts, 1
    return parts, 2


def _sofa(rng: Rng) -> Built:
    palette = _Palette(rng)
    w, d, h = 1.0, rng.uniform(0.4, 0.6), rng.uniform(0.36, 0.52)
    seat, arm = h * rng.uniform(0.42, 0.55), rng.uniform(0.08, 0.14)
    if rng.uniform() < 0.35:  # an armchair is the same thing, narrower
        w = d * rng.uniform(1.0, 1.25)
    cushion = palette.relative()
    parts: list[Part] = [_block(w, d, 0.0, seat - 0.04, palette.main)]
    parts.append(_block(w, 0.13, 0.0, h, palette.main, y=(d - 0.13) / 2))
    top = seat + (h - seat) * rng.uniform(0.3, 0.7)
    parts += [_block(arm, d, 0.0, top, palette.main, x=s * (w - arm) / 2) for s in (-1, 1)]
    parts.append(Box.between((-w / 2 + arm, -d / 2 - 0.01, seat - 0.06), (w / 2 - arm, d / 2 - 0.13, seat), cushion))
    return parts, 1


def _bed(rng: Rng) -> Built:
    palette = _Palette(rng)
    w, h, head = rng.uniform(0.45, 0.8), rng.uniform(0.14, 0.22), rng.uniform(0.32, 0.5)
    sheet, pillow = palette.relative(), palette.relative()
    parts: list[Part] = [_block(w, 1.0, 0.0, h, palette.main), _block(w, 0.07, 0.0, head, palette.main, y=0.465)]
    parts.append(_block(w - 0.04, 0.9, h - 0.02, h + 0.08, sheet, y=-0.02))
    for x in (-w / 4, w / 4) if w > 0.6 else (0.0,):
        parts.append(_block(0.26, 0.18, h + 0.05, h + 0.14, pillow, x=x, y=0.31))
    return parts, 1


def _cabinet(rng: Rng) -> Built:
    palette = _Palette(rng)
    w, d, h = _longest_one(rng.uniform(0.6, 1.6), rng.uniform(0.35, 0.6), rng.uniform(0.5, 1.5))
    d = max(d, 0.25)
    foot, door = rng.choice([0.0, 0.1]), palette.relative()
    parts: list[Part] = [_block(w, d, foot, h, palette.main)]
    if foot > 0:
        parts += _legs(w, d, foot, 0.07, door)
    columns = 2 if w > 0.5 else 1
    gap = 0.035
    panel = (w - gap * (columns + 1)) / columns
    for k in range(columns):
        x = -w / 2 + gap + panel / 2 + k * (panel + gap)
        parts.append(_block(panel, 0.06, foot + gap, h - gap, door, x=x, y=-d / 2 + 0.012))
    return parts, 1


def _steps(rng: Rng) -> Built:
    palette = _Palette(rng)
    count, w = int(rng.integers(2, 5)), rng.uniform(0.4, 0.9)
    run, rise = 1.0 / count, rng.uniform(0.55, 0.95) / count
    tint = [palette.main, palette.relative()]
    return [
        Box.between((-w / 2, k * run, k * rise), (w / 2, 1.0, (k + 1) * rise), tint[k % 2]) for k in range(count)
    ], 1


BUILDERS: dict[str, Callable[[Rng], Built]] = {
    "box": _box,
    "crate": _crate,
    "can": _can,
    "cone": _cone,
    "ball": _ball,
    "mug": _mug,
    "bowl": _bowl,
    "plate": _plate,
    "bottle": _bottle,
    "vase": _vase,
    "bucket": _bucket,
    "lamp": _lamp,
    "table": _table,
    "stool": _stool,
    "chair": _chair,
    "shelf": _shelf,
    "sofa": _sofa,
    "bed": _bed,
    "cabinet": _cabinet,
    "steps": _steps,
}
