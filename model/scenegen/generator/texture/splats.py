"""Colours of Gaussians anywhere on the surface: those of the nearest ones, weighted by opacity and density there.

The colour of a Gaussian does not depend on where it is seen from, so nothing needs to be rendered or solved for.
Knows nothing about the mesh or its texture.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from scenegen.generator.latents.fields import Gaussians
from scenegen.generator.nn.rotation import rotation_matrices
from scenegen.generator.texture.neighbours import Neighbours

Floats32 = NDArray[np.float32]

_COUNT = 6
_AT_ONCE = 1 << 13
"""Points whose Gaussians stay in the processor's cache together."""
_INVISIBLE = 1 / 255
"""Gaussians of less opacity are seen by no renderer: their colours mean nothing."""


class SplatColours:
    """The colour function of one asset's Gaussians."""

    def __init__(self, gaussians: Gaussians) -> None:
        """InvalidInput when there are too few visible Gaussians."""
        visible = gaussians.opacities > _INVISIBLE
        positions = gaussians.positions[visible].float().cpu()
        whitening = rotation_matrices(gaussians.rotations[visible].float().cpu()).transpose(-1, -2)
        whitening = whitening / gaussians.scales[visible].float().cpu()[:, :, None]
        shift = -(whitening @ positions[:, :, None])
        self._whitening: Floats32 = whitening.numpy()
        self._shift: Floats32 = shift[:, :, 0].numpy()
        self._colours: Floats32 = gaussians.colours[visible].float().cpu().numpy()
        self._log_opacity: Floats32 = gaussians.opacities[visible].float().cpu().log().numpy()
        self._neighbours = Neighbours(positions.numpy(), _COUNT)

    def __call__(self, points: Floats32) -> Floats32:
        """RGB [P, 3] at points [P, 3]."""
        found = self._neighbours.find(points)
        result = np.empty_like(points)
        for start in range(0, len(points), _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            near = found[part]
            inside = np.einsum("nkij,nj->nki", self._whitening[near], points[part]) + self._shift[near]
            weights = self._log_opacity[near] - 0.5 * np.einsum("nki,nki->nk", inside, inside)
            weights = np.exp(weights - weights.max(1, keepdims=True))  # far from all of them the closest one counts
            weights /= weights.sum(1, keepdims=True)
            result[part] = np.einsum("nk,nkc->nc", weights, self._colours[near])
        return result
