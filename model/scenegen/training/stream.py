"""Synthetic scenes without end: a window of shards that moves along the seeds while a stage trains.

At step s it holds the shards from number s // fresh_every on, counted from the first seed of a config. A shard is a
function of its first seed, so the step alone says what a stage sees: not how many processes draw, how often the run was
killed, or which shards are on disk. Under torchrun every process draws a window of its own.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file
from torch import Tensor, nn
from tqdm import tqdm

from scenegen.generator.workers import Workers
from scenegen.scene import InvalidInput
from scenegen.training.encoders import EncoderStage, encode_all
from scenegen.training.samples import Arrays
from scenegen.training.shards import GIVEN, Samples, draw_shard, shard_path, shard_seeds
from scenegen.training.structure import StructureStage


class Stream:
    """Shards by number: read from ``folder`` where they are there, otherwise drawn by processes into memory.

    A context manager: no process outlives it. data: a config's, of which first_seed, window (shards) and fresh_every
    (steps) are used. sizes: as sample_sizes. InvalidInput when one of them is missing or below one, or when the folder
    has scenes from files, which no seed stands for.
    """

    def __init__(self, folder: Path, data: Mapping[str, int], sizes: Mapping[str, int], workers: int) -> None:
        wrong = [name for name in ("window", "fresh_every") if data.get(name, 0) < 1]
        if wrong or workers < 1:
            raise InvalidInput(
                f"--stream needs {' and '.join(wrong) or '--workers'} of at least 1: `data` of the config says how "
                "many shards are seen at a time (window), and after how many steps the next one comes (fresh_every)"
            )
        if any(folder.glob(f"{GIVEN}*")):
            raise InvalidInput(
                f"{folder} has scenes from files ({GIVEN}*), which a stream of synthetic scenes would leave out: train "
                "without --stream, or choose other --runs"
            )
        self.window, self.fresh_every = data["window"], data["fresh_every"]
        self.ahead = min(workers, self.window)
        self._folder, self._first_seed, self._sizes = folder, data["first_seed"], sizes
        self._workers = Workers(workers)
        self._coming: dict[int, Future[Arrays]] = {}

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *error: Any) -> None:
        for shard in self._coming.values():
            shard.cancel()
        while wait(self._coming.values(), timeout=0.1).not_done:  # one may have been about to start
            self._workers.stop()
        self._workers.end_idle()

    def order(self, numbers: range) -> None:
        """Have shards drawn, in this order, that will be taken."""
        for number in numbers:
            seeds = shard_seeds(self._first_seed, number)
            if number not in self._coming and not shard_path(self._folder, seeds.start).exists():
                self._coming[number] = self._workers.submit(draw_shard, seeds, self._sizes, os.getpid())

    def take(self, number: int) -> Samples:
        """A shard, waited for where it is being drawn; raises what drawing it did, WorkerDied if the process ended."""
        first_seed = shard_seeds(self._first_seed, number).start
        if number not in self._coming:
            return Samples.of_shard(first_seed, load_file(shard_path(self._folder, first_seed)))
        shard = self._coming[number].result()  # kept until it is there: an interrupt finds what is to be stopped
        del self._coming[number]
        return Samples.of_shard(first_seed, shard)


class StreamedStage:
    """A stage that learns from the window of a stream, a SteppedStage of the loop's."""

    def __init__(self, stage: EncoderStage | StructureStage, stream: Stream) -> None:
        self._stage, self._stream = stage, stream
        self._seen: tuple[Samples, Tensor] | None = None
        self._first = self._end = 0

    @property
    def model(self) -> nn.Module:
        """The stage's."""
        return self._stage.model

    def begin(self, step: int, part: int) -> None:
        """Move the window to where this step's is; it waits for what is not drawn yet."""
        first = step // self._stream.fresh_every
        new = range(max(first, self._end), first + self._stream.window)
        if not new:
            return
        self._stream.order(range(new.start, new.stop + self._stream.ahead))
        fresh = []
        for number in tqdm(new, desc="shards of the window", delay=5, leave=False):
            samples = self._stream.take(number)
            fresh.append((samples, encode_all(self._stage.vae, samples)))  # alone: other batches round otherwise
        if self._seen is None:
            (samples, latents), gone = fresh.pop(0), 0
        else:
            (samples, latents), gone = self._seen, first - self._first
        rows = samples.move(gone, [more for more, _ in fresh])
        latents = torch.cat([latents[rows:], *(more for _, more in fresh)])
        self._seen, self._first, self._end = (samples, latents), first, new.stop
        self._stage.see(samples, latents)

    def loss(self, step_rng: np.random.Generator, noise: torch.Generator) -> Mapping[str, Tensor]:
        """The stage's."""
        return self._stage.loss(step_rng, noise)

    def end(self, terms: Mapping[str, float]) -> None:
        """A step changes nothing here."""

    def validate(self, model: nn.Module) -> Mapping[str, float]:
        """The stage's."""
        return self._stage.validate(model)
