"""A training small enough to be run whole in a test, as a program: killed at a given moment, or by several processes.

Fit a line, with a hidden matrix wide enough for Muon, random numbers of every kind, and buffers.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib.pyplot  # noqa: F401  what a run imports when it needs it, imported once for all processes
import numpy as np
import torch
import torch._dynamo
from torch import Tensor, nn

from scenegen.training import loop
from scenegen.training.loop import Schedule, run

SCHEDULE: dict[str, Any] = {"steps": 40, "learning_rate": 1e-2, "warmup": 5, "validate_every": 20, "save_every": 10}


class LineStage:
    """Fit a line. fail_at: the call of loss that does what ``fail`` does."""

    def __init__(self, fail_at: int | None = None, width: int = 64) -> None:
        torch.manual_seed(1)
        layers = [nn.Linear(3, width), nn.BatchNorm1d(width), nn.Tanh(), nn.Linear(width, width), nn.Linear(width, 1)]
        self.model: nn.Module = nn.Sequential(*layers, nn.Dropout(0.1))
        self.fail_at = fail_at
        self.calls = 0

    def loss(self, step_rng: np.random.Generator, noise: torch.Generator) -> Mapping[str, Tensor]:
        """Terms of one step."""
        self.calls += 1
        if self.calls == self.fail_at:
            self.fail()
        x = torch.from_numpy(step_rng.standard_normal((16, 3)).astype(np.float32))
        target = x.sum(1, keepdim=True) + 0.1 * torch.randn(16, 1, generator=noise)
        return {"loss": (self.model(x) - target).square().mean()}

    def fail(self) -> None:
        """End the run where it is."""
        raise KeyboardInterrupt

    def validate(self, model: nn.Module) -> Mapping[str, float]:
        """Something of the averaged weights."""
        return {"weight": float(sum(p.sum() for p in model.parameters()))}


def killed() -> None:
    """As by the system when memory runs out, say: nothing is cleaned up."""
    os.kill(os.getpid(), signal.SIGKILL)


def _train(folder: Path, fail_at: int | None = None, half_written: int | None = None) -> None:
    stage = LineStage(fail_at)
    stage.fail = killed  # type: ignore[method-assign]
    whole, saved = torch.save, [0]

    def cut_short(state: Any, path: Path) -> None:
        saved[0] += 1
        whole(state, path)
        if saved[0] == half_written:
            os.truncate(path, path.stat().st_size // 2)
            killed()

    loop.torch.save = cut_short  # type: ignore[assignment]
    run(stage, Schedule(**SCHEDULE, precision="fp32"), folder)


def _in_a_process(folder: Path, **moment: int) -> int:
    """Train in a process of its own; the signal it ended by, 0 for none."""
    child = os.fork()
    if child == 0:
        _train(folder, **moment)
        os._exit(0)
    return os.WTERMSIG(os.waitpid(child, 0)[1])


def main() -> None:
    """kill FOLDER: train there, killed three times. parts FOLDER N: train with N parts a step, as torchrun says."""
    torch.set_num_threads(1)
    folder = Path(sys.argv[2])
    if sys.argv[1] == "parts":
        run(LineStage(), Schedule(**SCHEDULE, parts=int(sys.argv[3]), precision="fp32"), folder)
        return
    signals = [
        _in_a_process(folder, fail_at=14),  # between two checkpoints
        _in_a_process(folder, half_written=1),  # while the second is written
        _in_a_process(folder, fail_at=9),
        _in_a_process(folder),
    ]
    print(*signals)


if __name__ == "__main__":
    main()
