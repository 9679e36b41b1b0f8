"""One training loop for every stage: steps, schedule, checkpoints, logs, plots.

A step's data and noise depend on (seed, step) alone, so a run that was killed and resumed is the run that was not:
a checkpoint holds the weights, their moving average, the optimiser and the step, and nothing else is needed. A step may
be cut into parts, whose gradients are averaged: done one after another, or shared by the processes of a torchrun.

Knows nothing about what is trained.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import tqdm

from scenegen.scene import InvalidInput
from scenegen.training.clipping import GradientClip
from scenegen.training.distributed import Group, processes
from scenegen.training.log import Log


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


@runtime_checkable
class SteppedStage(Stage, Protocol):
    """A stage whose parts of a step belong together, or that learns from a step by itself."""

    def begin(self, step: int, part: int) -> None:
        """The next `loss` is that of this part of this step."""
        ...

    def end(self, terms: Mapping[str, float]) -> None:
        """A step was taken, with these mean terms of all parts, which are the same in every process."""
        ...


Optimisers = Sequence[torch.optim.Optimizer]
State = tuple[nn.Module, torch.optim.swa_utils.AveragedModel, Optimisers, torch.amp.GradScaler, GradientClip]
"""Of a run: the model, its moving average, what steps it."""

BETAS = (0.9, 0.98)
"""AdamW's, if a schedule has no others: runs of a few thousand steps need no longer memory of gradient sizes."""

HIDDEN_WIDTH = 64
"""A matrix narrower than this on one side reads inputs or writes outputs: no hidden layer's."""


@dataclass(frozen=True)
class Schedule:
    """steps: optimiser steps. learning_rate: peak, reached after ``warmup`` steps, then a cosine down to a hundredth.

    decay: false keeps the rate at its peak. optimiser: `muon`, with AdamW where that does not fit, or `adamw` for all.
    betas: AdamW's. clip_norm, clip_percentile: gradients are clipped at that norm, and at that percentile of the norms
    of late. ema: decay of the moving average, itself warmed up as (1 + step) / (10 + step). parts: batches of a stage
    that make up one step, together in memory only where processes share them. precision: of what autocast chooses; with
    fp16 the loss is scaled, and a step whose gradients overflow is left out. InvalidInput for an unknown word.
    """

    steps: int
    learning_rate: float
    warmup: int = 100
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    ema: float = 0.998
    validate_every: int = 500
    save_every: int = 200
    parts: int = 1
    precision: Literal["bf16", "fp16", "fp32"] = "bf16"
    optimiser: Literal["muon", "adamw"] = "muon"
    betas: Sequence[float] = BETAS
    decay: bool = True
    clip_percentile: float | None = None

    def __post_init__(self) -> None:
        for name, known in (("precision", ("bf16", "fp16", "fp32")), ("optimiser", ("muon", "adamw"))):
            if getattr(self, name) not in known:
                raise InvalidInput(f"a schedule's {name} is {getattr(self, name)!r}: it must be one of {known}")

    def rate(self, step: int) -> float:
        """Learning rate at a step."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        if not self.decay:
            return self.learning_rate
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(done, 1.0))))


def run(
    stage: Stage, schedule: Schedule, folder: Path, *, seed: int = 0, device: str = "cpu", given: str = ""
) -> nn.Module:
    """Train ``stage`` from its last checkpoint in ``folder`` to the end of the schedule; the averaged model.

    given: name of the part of the model that is frozen and an earlier stage's result. It stays as the stage has it, for
    that of a checkpoint may be of an earlier run of the earlier stage.
    Writes ``folder``/checkpoint.pt (for resuming here only), log.csv, validation.csv, an event file for TensorBoard and
    losses.png. Under torchrun all processes take part, and the first one writes.
    """
    with processes(device) as group:
        return _run(stage, schedule, folder, seed, group, given)


def _run(stage: Stage, schedule: Schedule, folder: Path, seed: int, group: Group, given: str) -> nn.Module:
    folder.mkdir(parents=True, exist_ok=True)
    model = stage.model.to(group.device).train()
    group.same_start(model)
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimisers = make_optimisers(trainable, schedule)
    average = torch.optim.swa_utils.AveragedModel(model, avg_fn=None, multi_avg_fn=_ema(schedule.ema), use_buffers=True)
    scaler = torch.amp.GradScaler(torch.device(group.device).type, enabled=schedule.precision == "fp16")
    clip = GradientClip(schedule.clip_norm, schedule.clip_percentile)
    state = (model, average, optimisers, scaler, clip)
    start = _resume(folder / "checkpoint.pt", given, *state)
    group.wait()  # nobody writes before everybody has read
    log = Log(folder, start) if group.writes else None
    shown = {"initial": start, "total": schedule.steps, "desc": folder.name, "mininterval": 5}
    with tqdm(range(start, schedule.steps), disable=not group.writes, **shown) as bar:
        for step in bar:
            for part in (part for optimiser in optimisers for part in optimiser.param_groups):
                part["lr"] = schedule.rate(step)
            terms = _gradients(stage, schedule, (seed, step), trainable, scaler, group)
            for optimiser in optimisers:
                scaler.unscale_(optimiser)
            norm = clip(trainable)
            if torch.isfinite(norm):
                for optimiser in optimisers:
                    optimiser.step()
                if isinstance(stage, SteppedStage):
                    stage.end(terms)
                average.update_parameters(model)
            if scaler.is_enabled():
                scaler.update()
            model.zero_grad(set_to_none=True)
            if log is not None:
                log.train(step, terms | {"grad_norm": float(norm)})
                bar.set_postfix(loss=f"{log.smooth:.3f}", refresh=False)
                _keep(stage, schedule, step, log, state)
    average.module.eval()
    group.wait()
    result: nn.Module = average.module
    return result


def _gradients(
    stage: Stage,
    schedule: Schedule,
    place: tuple[int, int],
    trainable: Sequence[nn.Parameter],
    scaler: torch.amp.GradScaler,
    group: Group,
) -> dict[str, float]:
    """Leave a step's mean gradients, still scaled, in the parameters; the mean terms. place: seed and step."""
    seed, step = place
    sums: dict[str, float] = {}
    kind = torch.device(group.device).type
    dtype = torch.float16 if schedule.precision == "fp16" else torch.bfloat16
    for part in group.share(schedule.parts):
        number = (seed * 1_000_003 + step) * schedule.parts + part
        noise = torch.Generator().manual_seed(number)
        torch.manual_seed(number)
        rng = np.random.default_rng((seed, step) if schedule.parts == 1 else (seed, step, part))
        if isinstance(stage, SteppedStage):
            stage.begin(step, part)
        with attention_for_training(group.device):
            with torch.autocast(kind, dtype, enabled=schedule.precision != "fp32"):
                terms = stage.loss(rng, noise)
            scaler.scale(terms["loss"] / schedule.parts).backward()
        for name, value in terms.items():
            sums[name] = sums.get(name, 0.0) + float(value.detach()) / schedule.parts
    group.sum_gradients(trainable)
    return dict(zip(sums, group.sum(torch.tensor(list(sums.values()), device=group.device)).tolist(), strict=True))


def _keep(stage: Stage, schedule: Schedule, step: int, log: Log, state: State) -> None:
    """Validate and save after a step that is due for it."""
    average, last = state[1], step + 1 == schedule.steps
    if (step + 1) % schedule.validate_every == 0 or last:
        average.module.eval()
        with torch.no_grad():
            metrics = stage.validate(average.module)
        log.validate(step + 1, metrics)
        tqdm.write(f"{log.folder.name} step {step + 1}: " + ", ".join(f"{k} {v:.4g}" for k, v in metrics.items()))
    if (step + 1) % schedule.save_every == 0 or last:
        log.flush()  # rows of steps that the checkpoint does not know are dropped when it is resumed
        _save(log.folder / "checkpoint.pt", step + 1, *state)


def make_optimisers(parameters: Sequence[nn.Parameter], schedule: Schedule) -> Optimisers:
    """Muon for the matrices of hidden layers, AdamW for the rest (embeddings, convolutions, heads, vectors) or for all.

    Encoders came as far in 340 steps as with AdamW alone in 450, for a tenth more time per step. Muon's updates are
    scaled to AdamW's size, so both take one learning rate.
    """
    hidden = [p for p in parameters if p.ndim == 2 and min(p.shape) >= HIDDEN_WIDTH]
    matrices = hidden if schedule.optimiser == "muon" else []
    taken = {id(p) for p in matrices}
    lr, decay = schedule.learning_rate, schedule.weight_decay
    rest = [p for p in parameters if id(p) not in taken]
    first, second = schedule.betas
    optimisers: list[torch.optim.Optimizer] = [torch.optim.AdamW(rest, lr, betas=(first, second), weight_decay=decay)]
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


def _save(
    path: Path,
    step: int,
    model: nn.Module,
    average: nn.Module,
    optimisers: Optimisers,
    scaler: torch.amp.GradScaler,
    clip: GradientClip,
) -> None:
    part = path.with_suffix(".part")
    state = {"model": model.state_dict(), "average": average.state_dict()}
    state |= {"scaler": scaler.state_dict(), "clip": clip.state_dict()}
    torch.save({"step": step, "optimisers": [optimiser.state_dict() for optimiser in optimisers], **state}, part)
    os.replace(part, path)  # A run killed while saving still finds the checkpoint before.


def _resume(
    path: Path,
    given: str,
    model: nn.Module,
    average: nn.Module,
    optimisers: Optimisers,
    scaler: torch.amp.GradScaler,
    clip: GradientClip,
) -> int:
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True, map_location="cpu")
    try:
        for module, name, of_part in ((model, "model", f"{given}."), (average, "average", f"module.{given}.")):
            own = {k: v for k, v in module.state_dict().items() if given and k.startswith(of_part)}
            module.load_state_dict(state[name] | own)
        for optimiser, saved in zip(optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        if state.get("scaler"):  # empty but for fp16
            scaler.load_state_dict(state["scaler"])
        if "clip" in state:  # older checkpoints have none, and need none
            clip.load_state_dict(state["clip"])
    except (RuntimeError, ValueError, KeyError) as error:
        raise InvalidInput(f"{path} is a checkpoint of another model: use a new --out folder ({error})") from error
    return int(state["step"])


def load_average(folder: Path, model: nn.Module) -> nn.Module:
    """Put the averaged weights of a run's last checkpoint into ``model``, for the stages that build on it."""
    path = folder / "checkpoint.pt"
    if not path.exists():
        raise InvalidInput(f"{path} does not exist: train that stage first (scenegen train --help lists the order)")
    average = torch.optim.swa_utils.AveragedModel(model)
    average.load_state_dict(torch.load(path, weights_only=True, map_location="cpu")["average"])
    model.load_state_dict(average.module.state_dict())
    return model.eval()
