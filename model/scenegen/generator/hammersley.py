"""Hammersley points: numbers spread more evenly than random ones (spec/latents.md sections 7 and 10).

numpy only, so that finishing workers need no torch. Knows nothing about cameras or Gaussians.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def radical_inverse(numbers: NDArray[np.int64], base: int) -> Floats:
    """The digits of integers [n] mirrored at the point: [n] in [0, 1)."""
    rest, result, unit = numbers.copy(), np.zeros(len(numbers)), 1.0
    while rest.any():
        unit /= base
        result += unit * (rest % base)
        rest //= base
    return result


def hammersley_cube(count: int) -> Floats:
    """Points of the unit cube [count, 3]."""
    number = np.arange(count)
    return np.stack([number / count, radical_inverse(number, 2), radical_inverse(number, 3)], axis=1)


def hammersley_sphere(count: int) -> Floats:
    """Yaw and pitch [count, 2] in radians; the first is the south pole."""
    number = np.arange(count)
    pitch = np.arccos(1 - 2 * number / count) - np.pi / 2
    return np.stack([2 * np.pi * radical_inverse(number, 2), pitch], axis=1)
