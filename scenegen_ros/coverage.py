"""Which of the kept views stand for all the places that views were ever kept from.

Knows nothing about when views come or are compared.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np

from scenegen.scene import Floats
from scenegen_ros.kept_view import KeptView
from scenegen_ros.view_choice import SHARPER, Aim, differences, missed

PLACES = 128
"""Places that are remembered when the views from there are gone, for what stays to cover them."""

Step = tuple[float, float]
"""Metres and degrees of camera motion that count as a step where nothing says what the views stand around."""


class Coverage:
    """The places, and what to give up when there are too many views."""

    def __init__(self) -> None:
        self._places: deque[Aim] = deque(maxlen=PLACES)

    def clear(self) -> None:
        """Forgets every place."""
        self._places.clear()

    def remember(self, aim: Aim | None, step: Step) -> None:
        """Notes a place that a view was kept from, unless one like it is noted."""
        if aim is not None and (not self._places or _apart([aim], self._places, step).min() > 0.5):
            self._places.append(aim)

    def most_redundant(self, views: Sequence[KeptView], step: Step) -> KeptView:
        """The view whose place, among all places views were kept from, is covered best by the others.

        Of views that are missed about as little: what sees fewer objects, else what is less sharp, else the oldest.
        """
        aims = [kept.aim for kept in views]
        cost = missed(_apart([*self._places, *aims], aims, step))
        alike = [kept for kept, c in zip(views, cost, strict=True) if c <= 2 * cost.min() + 0.01]
        fewest = min(len(kept.ids) for kept in alike)
        alike = [kept for kept in alike if len(kept.ids) == fewest]
        softest = min(kept.sharpness for kept in alike)
        return min((k for k in alike if k.sharpness <= SHARPER * softest), key=lambda k: k.view.stamp_ns)


def in_order(views: Sequence[KeptView], step: Step) -> list[KeptView]:
    """Those that see most instances first; the newest of them leads, then each shows most that those before do not."""
    left = sorted(views, key=lambda k: (-len(k.ids), -k.view.stamp_ns))
    aims = [kept.aim for kept in left]
    apart = _apart(aims, aims, step)
    order = [0] if left else []
    while len(order) < len(left):
        rest = [i for i in range(len(left)) if i not in order]
        rest = [i for i in rest if len(left[i].ids) == len(left[rest[0]].ids)]
        order.append(max(rest, key=lambda i: apart[i, order].min()))
    return [left[i] for i in order]


def _apart(of: Sequence[Aim | None], than: Sequence[Aim | None], step: Step) -> Floats:
    """How much else each view shows than each other, float64 [n, m]; zero where TF says nothing."""
    some, others = [aim for aim in of if aim is not None], [aim for aim in than if aim is not None]
    if len(some) < len(of) or len(others) < len(than):
        return np.zeros((len(of), len(than)))
    return differences(some, others, *step)
