"""What the families are built with: colours that go together, proportions, and shorthands for common parts.

Knows nothing about any family. Parts stand about the z axis, z up, longest extent about 1.
"""

from __future__ import annotations

import colorsys

import numpy as np

from scenegen.synthetic.parts import Box, Colour, Floats, Part, Revolved

Built = tuple[list[Part], int]
Rng = np.random.Generator


class Palette:
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


def longest_one(*sizes: float) -> list[float]:
    """Sizes scaled so that the largest is 1."""
    return [size / max(sizes) for size in sizes]


def footprint(rng: Rng, lowest: float = 0.4) -> tuple[float, float, int]:
    """Width >= depth of a rectangle and its yaw symmetry; never nearly but not quite square."""
    if rng.uniform() < 0.3:
        return 1.0, 1.0, 4
    return 1.0, float(rng.uniform(lowest, 0.82)), 2


def block(w: float, d: float, z0: float, z1: float, colour: Colour, x: float = 0.0, y: float = 0.0) -> Box:
    """A box w by d about (x, y), from height z0 to z1."""
    return Box.between((x - w / 2, y - d / 2, z0), (x + w / 2, y + d / 2, z1), colour)


def turned(points: list[tuple[float, float]] | Floats, colour: Colour, x: float = 0.0, y: float = 0.0) -> Revolved:
    """A profile of (radius, z), counter-clockwise, turned about the vertical through (x, y)."""
    return Revolved(np.array(points, dtype=float), colour, np.array([x, y]))


def solid(outline: list[tuple[float, float]], colour: Colour, x: float = 0.0, y: float = 0.0) -> Revolved:
    """A full solid of revolution under an outline of (radius, z), bottom to top."""
    closed = list(outline)
    if closed[0][0] > 0:
        closed.insert(0, (0.0, closed[0][1]))
    if closed[-1][0] > 0:
        closed.append((0.0, closed[-1][1]))
    return turned(closed, colour, x, y)


def cylinder(r: float, z0: float, z1: float, colour: Colour, x: float = 0.0, y: float = 0.0) -> Revolved:
    """A full cylinder of radius r from height z0 to z1, about (x, y)."""
    return solid([(r, z0), (r, z1)], colour, x, y)


def hollow(outline: Floats, wall: float, colour: Colour) -> Revolved:
    """A vessel: outline [K, 2] (radius, z), bottom to top, with a wall and a floor of that thickness."""
    slope = np.gradient(outline[:, 0], outline[:, 1])
    inner = np.stack([outline[:, 0] - wall * np.sqrt(1 + slope**2), outline[:, 1]], axis=1)
    floor = outline[0, 1] + wall
    at_floor = np.array([[np.interp(floor, inner[:, 1], inner[:, 0]), floor]])
    inner = np.concatenate([at_floor, inner[inner[:, 1] > floor + 1e-6]])
    axis = [[0.0, floor], [0.0, outline[0, 1]]]
    return turned(np.concatenate([outline, inner[::-1], axis]), colour)


def legs(w: float, d: float, height: float, t: float, colour: Colour, round_legs: bool = False) -> list[Part]:
    """Four legs of thickness t in the corners of a w by d rectangle."""
    at = [(sx * (w - t) / 2, sy * (d - t) / 2) for sx in (-1, 1) for sy in (-1, 1)]
    if round_legs:
        return [cylinder(t / 2, 0.0, height, colour, x, y) for x, y in at]
    return [block(t, t, 0.0, height, colour, x, y) for x, y in at]
