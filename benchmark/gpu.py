"""`make benchmark-gpu`: how long each stage takes at full size on a GPU, exact and fast, and how near its floor is.

Random weights of the published sizes, loaded and run the ordinary way, for scenes of 1, 4 and 8 assets. The floor of
the structure stage is the time of its operations (spec/cost.md) at the rate at which this GPU multiplies large bfloat16
matrices, measured first. Other stages have no floor here: what they do depends on what comes out of it, which with
random weights is noise of about the right amount. `--device cpu --size tiny` shows without a GPU that it works.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from benchmark.cost import operations
from benchmark.report import Section, table
from scenegen.commands.selftest import SCRATCH
from scenegen.generator import SceneGen
from scenegen.generator.checkpoints import latent_sampler, load_pipeline, structure_sampler
from scenegen.generator.checkpoints.random_weights import published_models, write_random_checkpoint
from scenegen.generator.checkpoints.settings import Mode
from scenegen.scene import Progress, View
from scenegen.synthetic.dataset import view_of_all
from scenegen.synthetic.scenes import make_scene
from scenegen.weights import find_weights

_PUBLISHED_STEPS = 25


def matrix_rate(device: torch.device, size: int, repeats: int = 20) -> float:
    """Operations per second in multiplying square matrices: bfloat16 on a GPU, on a CPU float32 as models there are."""
    a = torch.randn(size, size, device=device, dtype=torch.bfloat16 if device.type == "cuda" else torch.float32)
    best_s = float("inf")
    for _ in range(5):
        _wait(device)
        began_s = time.perf_counter()
        for _ in range(repeats):
            a @ a
        _wait(device)
        best_s = min(best_s, (time.perf_counter() - began_s) / repeats)
    return 2 * size**3 / best_s


class StageClock:
    """Seconds of every stage, the device's work included; its `hear` is an on_progress."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = {}
        self._stage, self._began_s = "", 0.0

    def hear(self, progress: Progress) -> None:
        """A stage ends when the next one's beginning is told."""
        if progress.stage != self._stage:
            self.end()
            self._stage, self._began_s = progress.stage, time.perf_counter()

    def end(self) -> None:
        """The stage at work ends now."""
        _wait(self.device)
        if self._stage:
            self.seconds[self._stage] = time.perf_counter() - self._began_s
        self._stage = ""


def measure(model: SceneGen, view: View, device: torch.device, repeats: int) -> dict[str, float]:
    """Seconds of each stage of a scene: the run that took least of so many."""
    runs: list[dict[str, float]] = []
    for _ in range(repeats):
        clock = StageClock(device)
        model.generate([view], on_progress=clock.hear)
        clock.end()
        runs.append(clock.seconds)
    return min(runs, key=lambda seconds: sum(seconds.values()))


def sections(folder: Path, device: torch.device, assets: Sequence[int], rate: float, repeats: int) -> list[Section]:
    """One section for each number of assets and each mode."""
    model, pipeline = SceneGen.from_pretrained(folder, device=str(device)), load_pipeline(folder)
    tokens = 3 * model.conditioner.image_encoder.num_tokens + 2 * model.conditioner.geometry_encoder.num_tokens
    found: list[Section] = []
    modes: tuple[Mode, ...] = ("exact", "fast")
    for count in assets:
        view = view_of_all(make_scene(0, count=(count, count)))
        count = len(view.instance_ids)
        measure(model, view, device, 1)  # warms up: kernels are chosen, memory is taken, processes start
        for mode in modes:
            model.sampler = structure_sampler(folder, pipeline, mode)
            if model.latents is not None:
                model.latents = replace(model.latents, sampler=latent_sampler(folder, pipeline, mode))
            seconds = measure(model, view, device, repeats)
            total_s = sum(seconds.values())
            rows = [(stage, f"{s:9.3f} s, {s / count:.3f} s per asset") for stage, s in seconds.items()]
            rows.append(("all", f"{total_s:9.3f} s, {total_s / count:.3f} s per asset"))
            work = operations(model.flow, tokens, count, model.sampler)
            share = work / rate / seconds["structure"]
            rows.append(
                ("structure's floor", f"{work / rate:9.3f} s for {work / 1e12:.4g} TFLOP; it ran at {share:.1%} of it")
            )
            found.append(Section(f"{count} asset(s), {mode}, {model.sampler.steps} steps", rows))
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print. Returns 0, or 1 when the GPU that it needs is not there."""
    parser = argparse.ArgumentParser(prog="python -m benchmark.gpu", description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--size", choices=["full", "tiny"], default="full", help="tiny: the packaged weights")
    parser.add_argument("--assets", type=int, nargs="+", default=[1, 4, 8])
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="keep the random weights here, and use them again if here already")
    given = parser.parse_args(arguments)
    device = torch.device(given.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print(
            "This benchmark needs an NVIDIA GPU with CUDA, and torch finds none here. That it works can be seen "
            "without one: python -m benchmark.gpu --device cpu --size tiny",
            file=sys.stderr,
        )
        return 1
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    rate = matrix_rate(device, 8192 if device.type == "cuda" else 1024)
    print(f"{name}: {rate / 1e12:.4g} TFLOP/s in large matrices", flush=True)
    with tempfile.TemporaryDirectory(prefix="scenegen-", dir=SCRATCH if SCRATCH.is_dir() else None) as scratch:
        folder = find_weights("tiny") if given.size == "tiny" else given.folder or Path(scratch)
        if not (folder / "pipeline.json").is_file():
            write_random_checkpoint(folder, published_models(), _PUBLISHED_STEPS)
        print(table(sections(folder, device, given.assets, rate, given.repeats)))
    return 0


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    raise SystemExit(main())
