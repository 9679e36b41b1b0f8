"""Clipping of gradients by a fixed norm and by what norms were of late. Knows nothing about what is trained."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn

REMEMBERED = 1000
"""Norms that a percentile is taken of, as released (spec/structure.md section 8)."""


class GradientClip:
    """Scales gradients down to at most ``limit`` in norm.

    percentile: of the last REMEMBERED norms, once there are so many, is a limit too (0 to 100); None: there is no such.
    """

    def __init__(self, limit: float, percentile: float | None = None) -> None:
        self.limit, self.percentile = limit, percentile
        self.norms: deque[float] = deque(maxlen=REMEMBERED)

    def __call__(self, parameters: Sequence[nn.Parameter]) -> Tensor:
        """Clip the gradients in place; their norm [] before. One that is not finite is not remembered."""
        limit = self.limit
        if self.percentile is not None and len(self.norms) == REMEMBERED:
            limit = min(limit, float(np.percentile(self.norms, self.percentile)))
        norm = nn.utils.clip_grad_norm_(parameters, limit)
        if self.percentile is not None and np.isfinite(value := float(norm)):
            self.norms.append(value)
        return norm

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs."""
        return {"norms": list(self.norms)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state_dict`."""
        self.norms = deque(state["norms"], maxlen=REMEMBERED)
