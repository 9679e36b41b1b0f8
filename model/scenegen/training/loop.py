"""One training loop for every stage: steps, schedule, checkpoints, logs, plots.

A step's data and noise depend on (seed, step) alone, so a run that was killed and resumed is the run that was not:
a checkpoint holds the weights, their moving average, the optimiser and the step, and nothing else is needed.

Knows nothing about what is trained.
"""

from __future__ import annotations

import contextlib
import csv
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import tqdm

from scenegen.scene import InvalidInput


class Stage(Protocol):
    """What a stage gives the loop."""

    @property
    def model(self) -> nn.Module:
        """Everything that is trained and saved."""
        ...

    def loss(self, step_rng: np.random.Generator, noise: torch.Generator) -> Mapping[str, Tensor]:
        """Loss terms of one step; ``"loss"`` is minimised, the others are logged."""
        ...

    def validate(self, model: nn.Module) -> Mapping[str, float]:
        """Held-out metrics of ``model``, a copy of the trained one with averaged weights."""
        ...


Optimisers = Sequence[torch.optim.Optimizer]

BETAS = (0.9, 0.98)
"""AdamW's: runs of a few thousand steps have no use for a longer memory of gradient sizes."""

HIDDEN_WIDTH = 64
"""A matrix narrower than this on one side reads inputs or writes outputs: no hidden layer's."""


@dataclass(frozen=True)
class Schedule:
    """steps: optimiser steps. learning_rate: peak, reached after ``warmup`` steps, then a cosine down to a hundredth.

    ema: decay of the moving average, itself warmed up as (1 + step) / (10 + step).
    """

    steps: int
    learning_rate: float
    warmup: int = 100
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    ema: float = 0.998
    validate_every: int = 500
    save_every: int = 200
    bf16: bool = True

    def rate(self, step: int) -> float:
        """Learning rate at a step."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(done, 1.0))))


def run(stage: Stage, schedule: Schedule, folder: Path, *, seed: int = 0, device: str = "cpu") -> nn.Module:
    """Train ``stage`` from its last checkpoint in ``folder`` to the end of the schedule; the averaged model.

    Writes ``folder``/checkpoint.pt (for resuming here only), log.csv, validation.csv and losses.png.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model = stage.model.to(device).train()
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimisers = make_optimisers(trainable, schedule)
    average = torch.optim.swa_utils.AveragedModel(model, avg_fn=None, multi_avg_fn=_ema(schedule.ema), use_buffers=True)
    start = _resume(folder / "checkpoint.pt", model, average, optimisers)
    log = Log(folder, start)
    with tqdm(
        range(start, schedule.steps), initial=start, total=schedule.steps, desc=folder.name, mininterval=5
    ) as bar:
        for step in bar:
            noise = torch.Generator().manual_seed(seed * 1_000_003 + step)
            torch.manual_seed(seed * 1_000_003 + step)
            for group in (group for optimiser in optimisers for group in optimiser.param_groups):
                group["lr"] = schedule.rate(step)
            with attention_for_training(device):
                with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=schedule.bf16):
                    terms = stage.loss(np.random.default_rng((seed, step)), noise)
                terms["loss"].backward()
            norm = nn.utils.clip_grad_norm_(trainable, schedule.clip_norm)
            if torch.isfinite(norm):
                for optimiser in optimisers:
                    optimiser.step()
                average.update_parameters(model)
            model.zero_grad(set_to_none=True)
            log.train(step, {k: float(v.detach()) for k, v in terms.items()} | {"grad_norm": float(norm)})
            bar.set_postfix(loss=f"{log.smooth:.3f}", refresh=False)
            last = step + 1 == schedule.steps
            if (step + 1) % schedule.validate_every == 0 or last:
                average.module.eval()
                with torch.no_grad():
                    metrics = stage.validate(average.module)
                log.validate(step + 1, metrics)
                tqdm.write(f"{folder.name} step {step + 1}: " + ", ".join(f"{k} {v:.4g}" for k, v in metrics.items()))
            if (step + 1) % schedule.save_every == 0 or last:
                _save(folder / "checkpoint.pt", step + 1, model, average, optimisers)
                log.flush()
    average.module.eval()
    result: nn.Module = average.module
    return result


def make_optimisers(parameters: Sequence[nn.Parameter], schedule: Schedule) -> Optimisers:
    """Muon for the matrices of hidden layers, AdamW for the rest (embeddings, convolutions, heads, vectors).

    Encoders came as far in 340 steps as with AdamW alone in 450, for a tenth more time per step. Muon's updates are
    scaled to AdamW's size, so both take one learning rate.
    """
    matrices = [p for p in parameters if p.ndim == 2 and min(p.shape) >= HIDDEN_WIDTH]
    taken = {id(p) for p in matrices}
    lr, decay = schedule.learning_rate, schedule.weight_decay
    rest = [p for p in parameters if id(p) not in taken]
    optimisers: list[torch.optim.Optimizer] = [torch.optim.AdamW(rest, lr, betas=BETAS, weight_decay=decay)]
    if matrices:
        optimisers.append(torch.optim.Muon(matrices, lr, weight_decay=decay, adjust_lr_fn="match_rms_adamw"))
    return optimisers


def attention_for_training(device: str) -> contextlib.AbstractContextManager[None]:
    """On a CPU the backward pass of the fused attention kernel is several times slower than the explicit product."""
    if torch.device(device).type == "cpu":
        return sdpa_kernel(SDPBackend.MATH)
    return contextlib.nullcontext()


def _ema(decay: float) -> Callable[[Iterable[Tensor], Iterable[Tensor], Tensor | int], None]:
    @torch.no_grad()
    def update(averages: Any, currents: Any, count: Any) -> None:
        warm = min(decay, (1 + int(count)) / (10 + int(count)))
        for average, current in zip(averages, currents, strict=True):
            if average.is_floating_point():
                average.lerp_(current, 1 - warm)
            else:
                average.copy_(current)

    return update


def _save(path: Path, step: int, model: nn.Module, average: nn.Module, optimisers: Optimisers) -> None:
    part = path.with_suffix(".part")
    state = {"model": model.state_dict(), "average": average.state_dict()}
    torch.save({"step": step, "optimisers": [optimiser.state_dict() for optimiser in optimisers], **state}, part)
    os.replace(part, path)  # A run killed while saving still finds the checkpoint before.


def _resume(path: Path, model: nn.Module, average: nn.Module, optimisers: Optimisers) -> int:
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    try:
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        for optimiser, saved in zip(optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
    except (RuntimeError, ValueError, KeyError) as error:
        raise InvalidInput(f"{path} is a checkpoint of another model: use a new --out folder ({error})") from error
    return int(state["step"])


def load_average(folder: Path, model: nn.Module) -> nn.Module:
    """Put the averaged weights of a run's last checkpoint into ``model``, for the stages that build on it."""
    path = folder / "checkpoint.pt"
    if not path.exists():
        raise InvalidInput(f"{path} does not exist: train that stage first (scenegen train --help lists the order)")
    average = torch.optim.swa_utils.AveragedModel(model)
    average.load_state_dict(torch.load(path, weights_only=True)["average"])
    model.load_state_dict(average.module.state_dict())
    return model.eval()


class Log:
    """Loss and validation tables of a run, on disk, and their plot. Rows after ``start`` (of a killed run) go."""

    def __init__(self, folder: Path, start: int) -> None:
        self.folder = folder
        self.rows = [r for r in _read_rows(folder / "log.csv") if r["step"] < start]
        self.validation = [r for r in _read_rows(folder / "validation.csv") if r["step"] <= start]
        self.smooth = float("nan")

    def train(self, step: int, terms: dict[str, float]) -> None:
        """Note the terms of one step."""
        self.rows.append({"step": step, **terms})
        value = terms["loss"]
        self.smooth = value if math.isnan(self.smooth) else 0.98 * self.smooth + 0.02 * value

    def validate(self, step: int, metrics: Mapping[str, float]) -> None:
        """Note held-out metrics and write everything."""
        self.validation.append({"step": step, **metrics})
        self.flush()
        self.plot()

    def flush(self) -> None:
        """Write the tables."""
        for name, rows in (("log.csv", self.rows), ("validation.csv", self.validation)):
            if rows:
                with open(self.folder / name, "w", newline="") as file:
                    writer = csv.DictWriter(file, fieldnames=_names(rows), restval="")
                    writer.writeheader()
                    writer.writerows(rows)

    def plot(self) -> None:
        """losses.png: each loss term (running mean) and each validation metric over steps."""
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt

        groups = [(self.rows, 50, "training"), (self.validation, 1, "held out")]
        panels = [(rows, w, t, k) for rows, w, t in groups if rows for k in _names(rows) if k != "step"]
        columns = min(4, len(panels))
        lines = math.ceil(len(panels) / columns)
        figure, axes = plt.subplots(lines, columns, figsize=(3.4 * columns, 2.5 * lines), squeeze=False)
        for axis, (rows, width, title, key) in zip(axes.flat, panels, strict=False):
            steps = np.array([r["step"] for r in rows])
            values = np.array([r.get(key, np.nan) for r in rows], dtype=float)
            width = min(width, len(values))
            axis.plot(steps[width - 1 :], np.convolve(values, np.ones(width) / width, "valid"), lw=1)
            axis.set_title(f"{key} ({title})", fontsize=8)
            axis.tick_params(labelsize=7)
        for axis in axes.flat[len(panels) :]:
            axis.axis("off")
        figure.tight_layout()
        figure.savefig(self.folder / "losses.png", dpi=90)
        plt.close(figure)


def _names(rows: Sequence[Mapping[str, float]]) -> list[str]:
    """Every column's name: a run may be resumed with another term in its loss."""
    return list(dict.fromkeys(name for row in rows for name in row))


def _read_rows(path: Path) -> list[dict[str, float]]:
    if not path.exists():
        return []
    with open(path, newline="") as file:
        return [
            {k: int(v) if k == "step" else float(v or "nan") for k, v in row.items()} for row in csv.DictReader(file)
        ]


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a small JSON file, readable."""
    path.write_text(json.dumps(content, indent=2) + "\n")
