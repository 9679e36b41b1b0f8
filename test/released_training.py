"""Training as released, miniature, as a program: one of several processes, as torchrun says.

released_training.py FOLDER DATA WEIGHTS
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from random_checkpoint import FLOW
from torch import Tensor

from scenegen.generator.checkpoints import find_model, load_model, open_image_encoder
from scenegen.generator.structure.flow import SparseStructureFlowModel
from scenegen.generator.structure.vae import SparseStructureDecoder
from scenegen.training.future3d_rows import PreparedScenes
from scenegen.training.loop import Schedule, run
from scenegen.training.released_stage import ReleasedStage

HELD_OUT = 0.75
"""Of the miniature's two scenes the first is held out."""

SCHEDULE = Schedule(
    steps=6,
    learning_rate=1e-3,
    warmup=0,
    decay=False,
    optimiser="adamw",
    betas=[0.9, 0.999],
    weight_decay=0.0,
    clip_percentile=95,
    ema=0.9999,
    parts=2,
    precision="fp32",
    validate_every=6,
    save_every=2,
)


class MiniatureStage(ReleasedStage):
    """The stage at the sizes of the random checkpoint. fail_at: the call of `loss` that ends the run where it is."""

    def __init__(self, data: Path, weights: Path, *, parts: int = 2, fail_at: int = 0, **flow: Any) -> None:
        torch.manual_seed(1)
        super().__init__(
            SparseStructureFlowModel(**FLOW | flow),
            open_image_encoder(weights / "dinov2").load(),
            load_model(find_model(weights, "ss_dec"), SparseStructureDecoder),
            PreparedScenes(data, 28),
            held_out=HELD_OUT,
            parts=parts,
        )
        self.fail_at, self.calls = fail_at, 0

    def loss(self, step_rng: np.random.Generator, noise: torch.Generator) -> Mapping[str, Tensor]:
        self.calls += 1
        if self.calls == self.fail_at:
            raise KeyboardInterrupt
        return super().loss(step_rng, noise)


if __name__ == "__main__":
    torch.set_num_threads(1)
    run(MiniatureStage(Path(sys.argv[2]), Path(sys.argv[3])), replace(SCHEDULE, steps=4), Path(sys.argv[1]))
