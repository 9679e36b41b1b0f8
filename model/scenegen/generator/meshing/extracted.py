"""The mesh of one asset as it comes out of the decoder's fields. numpy only: it is worked on without torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats32 = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class ExtractedMesh:
    """vertices: float32 [V, 3], z-up in [-0.5, 0.5]^3. faces: int64 [F, 3], counterclockwise from outside.

    attributes: float32 [V, 6], 0..2 base colour in 0..1, 3..5 normal map; [V, 0] when the fields have no colour.
    resolution: of the grid it was extracted from.
    """

    vertices: Floats32
    faces: NDArray[np.int64]
    attributes: Floats32
    resolution: int = 256
