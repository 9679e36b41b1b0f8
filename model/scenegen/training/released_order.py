"""Which prepared scenes are trained on in which step, and which never are. Knows nothing about what is in them."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from functools import lru_cache

import numpy as np
import torch

SEED = 42
"""Of the first epoch, as released; the following ones count on from it."""


def is_held_out(scene_id: str, share: float) -> bool:
    """Whether a scene is kept for validation, as about that share of all are; its name alone decides."""
    return zlib.crc32(scene_id.encode()) < share * 2**32


class GroupOrder:
    """Groups of instances with equally many assets, one group a step, by the number of the step alone.

    In each epoch every instance comes once, in random order; where those of one count do not fill their last group,
    some come twice. counts: assets of each instance by its number. size: instances of a group.
    """

    def __init__(self, counts: Mapping[int, int], size: int) -> None:
        self.size = size
        by_count: dict[int, list[int]] = {}
        for number, count in counts.items():
            by_count.setdefault(count, []).append(number)
        self.by_count = {count: np.array(numbers) for count, numbers in sorted(by_count.items())}
        self.groups = sum(-(-len(numbers) // size) for numbers in self.by_count.values())
        """Groups of an epoch."""
        self._epoch = lru_cache(maxsize=1)(self._shuffled)

    def group(self, step: int) -> list[int]:
        """The instances of a step, ``size`` of them."""
        epoch, place = divmod(step, self.groups)
        return self._epoch(epoch)[place]

    def _shuffled(self, epoch: int) -> list[list[int]]:
        rng = torch.Generator().manual_seed(SEED + epoch)
        groups: list[list[int]] = []
        for numbers in self.by_count.values():
            order = numbers[torch.randperm(len(numbers), generator=rng).numpy()]
            whole = np.resize(order, -(-len(order) // self.size) * self.size)
            groups += whole.reshape(-1, self.size).tolist()
        return [groups[i] for i in torch.randperm(len(groups), generator=rng)]
