"""Many ranges of integers laid end to end: how spans become pixels without a loop over them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]


def ranges(lengths: Integers) -> tuple[Integers, Integers]:
    """0..length - 1 of every length [n], one after the other: which range an element is of, and its number there."""
    owner = np.repeat(np.arange(len(lengths)), lengths)
    return owner, np.arange(len(owner)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
